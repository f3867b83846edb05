"""Files of annotation tools that are made to harm."""

from __future__ import annotations

import json
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segray.pipelines.exporting.brush import encode_brush
from segray.pipelines.importing import cvat as importing_cvat
from segray.pipelines.importing import label_studio
from segray.pipelines.importing.cvat import read_cvat
from segray.pipelines.training.data import coco_masks, cvat, labelme
from segray.pipelines.training.data.datasets import LabelledImages
from tests.pipelines.exporting.labelled import HEIGHT, IDS, WIDTH, write_labels
from tests.pipelines.importing.taking import refused
from tests.pipelines.training.data.small_sets import opened, refusal
from tests.pipelines.training.data.test_outlines import HIGH, LOW, cvat_set, first, labelme_set, shape

FULL = '<mask label="{}" rle="{}" left="0" top="0" width="{}" height="{}" z_order="0"/>'


def _image(name: str, side: int, count: int) -> str:
    masks = FULL.format("road", side * side, side, side) * count
    image = f'<image id="0" name="{name}" width="{side}" height="{side}">{masks}</image>'
    return f"<annotations>{image}</annotations>"


def test_masks_of_cvat_are_not_unpacked_by_the_words_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of these masks took 0.4 s and 300 MB, in 90 bytes."""
    labels, source = write_labels(tmp_path), tmp_path / "a.xml"
    monkeypatch.setattr(np, "repeat", lambda *_: pytest.fail("it was unpacked"))
    source.write_text(_image(IDS[0], 10_000, 100))
    assert f"is 10000x10000 pixels, its image {WIDTH}x{HEIGHT}" in refused(labels, source)
    root = cvat_set(tmp_path / "data", FULL.format("dog", 10**8, 10_000, 10_000) * 100)
    path, told = root / "annotations.xml", 'name="a.jpg" width="{}" height="{}"'
    path.write_text(path.read_text().replace(told.format(16, 12), told.format(10_000, 10_000)))
    assert "is 10000x10000 pixels, its image" in refusal(root, kind="cvat")


def test_masks_of_cvat_lie_where_they_are(tmp_path: Path) -> None:
    root = cvat_set(tmp_path, '<mask label="dog" rle="1,2,3" left="4" top="5" width="3" height="2"/>')
    mask = LabelledImages(opened(root, kind="cvat").labelled)[0][1].numpy()
    assert np.argwhere(mask == 1).tolist() == [[5, 5], [5, 6]]


@pytest.mark.parametrize(
    "rle", ["", "4,", "x", "1.5,2.5", "-1,5", "9" * 5000, "2,2;0", "0," * 4_200_000 + "4"]
)
def test_run_lengths_of_cvat_that_are_none_are_refused(tmp_path: Path, rle: str) -> None:
    mask = f'<mask label="dog" rle="{rle}" left="0" top="0" width="2" height="2"/>'
    why = refusal(cvat_set(tmp_path, mask), kind="cvat")
    assert len(why) < 400
    assert "annotations.xml#0, annotation 1: " in why


def test_an_archive_of_cvat_that_unpacks_to_far_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    labels, source = write_labels(tmp_path), tmp_path / "a.zip"
    with zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(cvat.FILE, "<annotations>" + "<a/>" * 10_000_000 + "</annotations>")
    assert f"{cvat.FILE}: unpacks from " in refused(labels, source)
    # The same where the name says nothing of an archive.
    assert f"{cvat.FILE} unpacks to more than" in refused(labels, source.rename(tmp_path / "a"))


def test_a_polygon_of_millions_of_points_is_refused_before_it_is_taken_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cvat, "MAX_OUTLINE", 3)
    monkeypatch.setattr(cvat, "_coordinate", lambda _: pytest.fail("it was taken apart"))
    source = tmp_path / "a.xml"
    shape = '<polygon label="road" points="1,1;2,1;2,2;1,2"/>'
    source.write_text(f'<annotations><image name="x" width="4" height="4">{shape}</image></annotations>')
    assert "a polygon of 4 points (allowed: at most 3)" in refused(write_labels(tmp_path), source)


def test_millions_of_tags_are_refused_before_they_are_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cvat, "MAX_TAGS", 1000)
    monkeypatch.setattr(cvat, "DefusedXMLParser", lambda *_, **__: pytest.fail("it was parsed"))
    source = tmp_path / "a.xml"
    source.write_text("<annotations>" + "<a/>" * 1000 + "</annotations>")
    assert "has 1002 tags (allowed: at most 1000)" in refused(write_labels(tmp_path), source)


@pytest.fixture
def small_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A real file of CVAT, which is read under these limits as under the usual ones."""
    root = cvat_set(tmp_path, HIGH, LOW)
    before = first(root, "cvat")
    for name, limit in {"_PIECE": 10, "MAX_TAG": 300, "MAX_NAMES": 30}.items():
        monkeypatch.setattr(cvat, name, limit)
    assert np.array_equal(first(root, "cvat"), before)
    return root


@pytest.mark.parametrize("text", ['<label name="{}"/>', '<label name="{}', "<!--{}-->", "<?x {}?>"])
def test_a_tag_of_cvat_without_an_end_is_read_up_to_a_limit(small_limits: Path, text: str) -> None:
    """An attribute of 256 MB was read again for each of its megabytes, for 35 s."""
    path = small_limits / cvat.FILE
    path.write_text(f"<annotations>{text.format('x' * 500)}</annotations>")
    assert "has a piece without a tag of more than 300 bytes" in refusal(small_limits, kind="cvat")


@pytest.mark.parametrize("text", ["<a{0}/>", '<a x{0}=""/>', '<a xmlns:x{0}="u"/>'])
def test_names_by_the_million_in_a_cvat_file_are_refused(small_limits: Path, text: str) -> None:
    """The parser kept each one, in 27 bytes of memory per byte."""
    path = small_limits / cvat.FILE
    path.write_text(f"<annotations>{''.join(map(text.format, range(40)))}</annotations>")
    assert "has more than 30 names of elements and attributes" in refusal(small_limits, kind="cvat")


def _cvat_peak(tag: str) -> float:
    """Bytes of memory for each byte of a file of 300 images with ten shapes of 121 points."""
    shape = f'<{tag} label="dog" points="{"1.25,2.5;9.75,2.5;9,9;" * 40}1,1" z_order="0"/>'
    image = '<image id="{0}" name="{0}.jpg" width="16" height="12">' + shape * 10 + "</image>"
    data = f"<annotations>{''.join(map(image.format, range(300)))}</annotations>".encode()
    tracemalloc.start()
    try:
        images = read_cvat("a.xml", data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(images) == (300 if tag == "polygon" else 0)
    return peak / len(data)


def test_a_cvat_file_of_any_number_of_images_is_in_memory_one_image_at_a_time() -> None:
    """A tree of all elements was a copy of the file, and floats took seven more."""
    assert _cvat_peak("points") < 1.3
    assert _cvat_peak("polygon") < 4


def test_a_cvat_file_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (cvat, importing_cvat):
        monkeypatch.setattr(module, "MAX_BYTES", 100)
    monkeypatch.setattr(cvat, "DefusedXMLParser", lambda *_, **__: pytest.fail("it was parsed"))
    source = tmp_path / "a.xml"
    source.write_text("<annotations>" + " " * 100 + "</annotations>")
    assert "MB; export it in parts" in refused(write_labels(tmp_path), source)
    assert "MB; export it in parts" in refusal(cvat_set(tmp_path / "data"), kind="cvat")


def test_masks_of_labelme_are_not_unpacked_by_the_words_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labelme, "_mask", lambda *_: pytest.fail("it was unpacked"))
    root = labelme_set(tmp_path, *[shape("cat", [[0, 0], [1, 1]], "mask", mask="x")] * 3)
    for path in root.rglob("*.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "imageHeight": 10_000}))
    assert "x10000 pixels, its image has" in refusal(root, kind="labelme")


def test_more_masks_than_an_image_of_labelme_can_have_are_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coco_masks, "MAX_ANNOTATIONS", 5)
    monkeypatch.setattr(labelme, "_mask", lambda *_: pytest.fail("it was unpacked"))
    root = labelme_set(tmp_path, *[shape("cat", [[0, 0], [1, 1]], "mask", mask="x")] * 6)
    assert "6 annotations (allowed: at most 5 per image)" in refusal(root, kind="labelme")


def _task(path: Path, address: str, *results: dict[str, Any]) -> Path:
    shapes = [{**one, "original_height": HEIGHT, "original_width": WIDTH} for one in results]
    path.write_text(json.dumps([{"data": {"image": address}, "annotations": [{"result": shapes}]}]))
    return path


def test_more_brushes_than_an_image_can_have_are_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coco_masks, "MAX_ANNOTATIONS", 5)
    monkeypatch.setattr(label_studio, "decode_brush", lambda *_: pytest.fail("it was unpacked"))
    value = {"rle": encode_brush(np.ones((HEIGHT, WIDTH), bool)), "brushlabels": ["road"]}
    source = _task(tmp_path / "a.json", IDS[0], *[{"type": "brushlabels", "value": value}] * 6)
    assert "6 annotations (allowed: at most 5 per image)" in refused(write_labels(tmp_path), source)


@pytest.mark.parametrize("address", ["http://[", "//[x", "\x00", "/data/local-files/?d=../../../etc/passwd"])
def test_an_address_of_label_studio_opens_nothing(tmp_path: Path, address: str) -> None:
    value = {"points": [[1, 1], [50, 1], [50, 50]], "polygonlabels": ["road"]}
    source = _task(tmp_path / "a.json", address, {"type": "polygonlabels", "value": value})
    why = refused(write_labels(tmp_path), source)
    assert "is no labelled image" in why or "is not Label Studio's tasks" in why

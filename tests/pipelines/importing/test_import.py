"""Masks of other tools come back as corrections: whole, or not at all."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

import segray
from segray.models.label_space import LabelSpace
from segray.pipelines.corrections import CorrectionLog
from segray.pipelines.errors import UserError
from segray.pipelines.exporting.brush import decode_brush, encode_brush
from segray.pipelines.exporting.label_studio import task
from segray.pipelines.io.label_png import encode_gray_png
from tests.pipelines.exporting.labelled import (
    CLASSES,
    HEIGHT,
    IDS,
    LABELS,
    WIDTH,
    Label,
    export,
    no_ignored,
    write_labels,
)
from tests.pipelines.importing.taking import FILES, exported, refused, shown, submitted, take, zipped
from tests.pipelines.label_set.small_store import png

ONE, TWO = IDS[:2]


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    return write_labels(tmp_path)


@pytest.mark.parametrize("form", FILES)
def test_what_is_exported_and_imported_unchanged_changes_no_pixel(
    labels: Path, tmp_path: Path, form: str
) -> None:
    source = exported(labels, tmp_path / "out", form)
    result = take(labels, source)
    if form == "coco":  # it says so: ignored pixels are background there
        ignored = sum(int((label == 255).sum()) for label in LABELS.values())
        assert (result.pixels, result.changed) == (ignored, 4)
        return
    assert (result.changed, result.unchanged, result.good, result.corrections) == (0, 4, 0, 0)
    marked = take(labels, source, good="all", format=form)
    assert (marked.good, marked.pixels, marked.corrections) == (4, 0, 4)
    assert all(np.array_equal(label, LABELS[name]) for name, label in shown(labels).items())


@pytest.mark.parametrize("form", FILES)
@pytest.mark.parametrize("taken", [["ignored"], ["ignored pixels", "Ignored"]])
def test_a_class_called_ignored_is_a_class(tmp_path: Path, form: str, taken: list[str]) -> None:
    labels = write_labels(tmp_path, ["background", *taken, *CLASSES[1 + len(taken) :]])
    source = exported(labels, tmp_path / "out", form)
    take(labels, source, good="none")
    expected = {name: no_ignored(label) if form == "coco" else label for name, label in LABELS.items()}
    assert all(np.array_equal(label, expected[name]) for name, label in shown(labels).items())


@pytest.mark.parametrize("form", FILES)
def test_a_changed_mask_is_the_label_then(labels: Path, tmp_path: Path, form: str) -> None:
    source = exported(labels, tmp_path / "out", form)
    new = LABELS[TWO].copy()
    new[20:30, 20:25], new[new == 255], new[0, 0] = 3, 1, 2
    change(source, form, new)
    result = take(labels, source, who="Zoë")
    np.testing.assert_array_equal(shown(labels)[TWO], new)
    assert result.pixels >= int((new != LABELS[TWO]).sum())
    corrections = CorrectionLog(labels).read(TWO)
    assert {one.who for one in corrections} == {"Zoë"}
    assert [one.kind for one in corrections].count("good") == 1
    again = take(labels, source)
    assert (again.changed, again.corrections) == (0, 0)


def change(source: Path, form: str, new: Label) -> None:
    """What a person does to the second image."""
    if form == "png":
        (source / Path(TWO).with_suffix(".png")).write_bytes(encode_gray_png(new))
    elif form == "labelstudio":
        content = json.loads(source.read_text())
        one = next(one for one in content if one["data"]["segray_image"] == TWO)
        masks = [(CLASSES[i], encode_brush(new == i)) for i in (3, 2, 1)]
        made = task(TWO, one["data"]["segray_set"], new.shape, masks)["predictions"][0]["result"]
        one["annotations"].append({"result": made})
        source.write_text(json.dumps(content))
    elif form == "coco":
        content = json.loads(source.read_text())
        number = next(image["id"] for image in content["images"] if image["file_name"] == TWO)
        kept = [one for one in content["annotations"] if one["image_id"] != number]
        content["annotations"] = kept + [_coco(number, new == i, i) for i in (1, 2, 3)]
        source.write_text(json.dumps(content))
    else:
        text = source.read_text()
        start = text.index(f'name="{TWO}"')
        start = text.index(">", start) + 1
        end = text.index("</image>", start)
        shapes = [
            f'<mask label="{CLASSES[i]}" rle="{_rows(new == i)}" left="0" top="0" width="{WIDTH}" '
            f'height="{HEIGHT}" z_order="{i}"/>'
            for i in (1, 2, 3)
        ]
        source.write_text(text[:start] + "".join(shapes) + text[end:])


def _coco(image: int, mask: Any, category: int) -> dict[str, Any]:
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    segmentation = {"size": rle["size"], "counts": rle["counts"].decode()}
    return {"id": 900 + category, "image_id": image, "category_id": category, "segmentation": segmentation}


def _rows(mask: Any) -> str:
    flat = [*mask.ravel().astype(int).tolist(), -1]
    runs, value, length = [], 0, 0
    for one in flat:
        if one == value:
            length += 1
        else:
            runs.append(length)
            value, length = one, 1
    return ",".join(map(str, runs))


def test_polygons_rectangles_and_ellipses_of_label_studio(labels: Path, tmp_path: Path) -> None:
    def shape(kind: str, name: str, **value: Any) -> dict[str, Any]:
        size = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
        return {"type": kind, **size, "value": {kind: [name], "rotation": 0, **value}}

    result = [
        shape("rectanglelabels", "road", x=0, y=0, width=50, height=50),
        shape("polygonlabels", "car", points=[[0, 0], [25, 0], [25, 25], [0, 25]]),
        shape("ellipselabels", "rider", x=75, y=75, radiusX=10, radiusY=10),
    ]
    source = tmp_path / "tasks.json"
    data = {"image": "/data/local-files/?d=somewhere/a/two%20three.png"}
    source.write_text(
        json.dumps([{"data": data, "annotations": [{"result": result}]}, {"data": data, "annotations": []}])
    )
    assert take(labels, source).changed == 1
    label = shown(labels)[TWO]
    half = (HEIGHT // 2, WIDTH // 2)
    assert (label[: half[0], WIDTH // 4 : half[1]] == 1).all()
    assert (label[: HEIGHT // 4, : WIDTH // 4] == 2).all()
    assert label[HEIGHT * 3 // 4, WIDTH * 3 // 4] == 3
    assert (label[half[0] :, : half[1]] == 0).all()


def test_a_zip_of_cvat(labels: Path, tmp_path: Path) -> None:
    source = exported(labels, tmp_path / "out", "cvat")
    with zipfile.ZipFile(tmp_path / "task.zip", "w") as archive:
        archive.write(source, "annotations.xml")
    assert take(labels, tmp_path / "task.zip").unchanged == 4


@pytest.mark.parametrize("form", FILES)
@pytest.mark.parametrize("ending", ["zip", "tar"])
def test_an_archive_of_what_is_read(labels: Path, tmp_path: Path, form: str, ending: str) -> None:
    source = exported(labels, tmp_path / "out", form)
    new = LABELS[TWO].copy()
    new[20:30, 20:25], new[new == 255] = 3, 1
    change(source, form, new)
    if form != "png":
        (tmp_path / "alone").mkdir()
        source = source.rename(tmp_path / "alone" / ("result.json" if form != "cvat" else source.name))
    folder = source if form == "png" else source.parent
    archive = Path(shutil.make_archive(str(tmp_path / "packed"), ending, folder))
    take(labels, archive)
    np.testing.assert_array_equal(shown(labels)[TWO], new)
    other = "coco" if form == "cvat" else "cvat"
    with pytest.raises(UserError, match=f"has masks, and no file of format={other}|not format={other}"):
        take(labels, archive, format=other)


def test_a_zip_of_cvats_segmentation_masks(labels: Path, tmp_path: Path) -> None:
    colours = LabelSpace(tuple(CLASSES), ()).palette()
    files = {
        f"{folder}/{Path(name).with_suffix('.png')}": png(colours[np.where(label == 255, 0, label)])
        for name, label in LABELS.items()
        for folder in ("SegmentationClass", "SegmentationObject")
    }
    rows = (f"{name}:{','.join(map(str, colours[i]))}::" for i, name in enumerate(CLASSES))
    source = zipped({**files, "labelmap.txt": "\n".join(rows).encode()}, tmp_path / "masks.zip")
    take(labels, source)
    assert all(np.array_equal(label, no_ignored(LABELS[name])) for name, label in shown(labels).items())


def test_colours_of_another_label_set_are_named_with_their_file(labels: Path, tmp_path: Path) -> None:
    files = {"SegmentationClass/a.png": b"", "labelmap.txt": b"boat:1,2,3::"}
    source = zipped(files, tmp_path / "masks.zip")
    text = refused(labels, source)
    assert text.startswith(f"colors=labelmap.txt in {source}: its class 'boat' is not in the class list")


def test_masks_that_may_be_binary_are_named_by_the_key_of_the_command(labels: Path, tmp_path: Path) -> None:
    source = exported(labels, tmp_path / "out", "png")
    for path in source.rglob("*.png"):
        mask = np.array(Image.open(path))
        path.write_bytes(encode_gray_png(np.where(mask > 0, 255, 0).astype(np.uint8)))
    assert refused(labels, source).startswith(f"from={source}: these look like binary masks")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.txt": b"x"}, "no mask there (1 file with other endings left out (.txt 1)); give masks"),
        ({"a/1.json": b"{}", "b/2.json": b"{}"}, "2 files of annotations (a/1.json, b/2.json); unpack it"),
        (
            {"a/annotations.xml": b"", "b/annotations.xml": b""},
            "2 files of annotations (a/annotations.xml, b/",
        ),
        ({"a.json": b"[1]"}, "is none of the formats"),
        ({"a.json": b" " * (40 << 20)}, "a.json: unpacks from "),
        ({"task-7-annotation-3-by-1-tag-cat-0.png": b""}, "do not say of which image they are; export JSON"),
        ({"../a.json": b"{}"}, "leads out of the archive"),
    ],
)
def test_an_archive_that_is_refused(
    labels: Path, tmp_path: Path, files: Mapping[str, bytes], message: str
) -> None:
    source = zipped(files, tmp_path / "x.zip")
    text = refused(labels, source)
    assert text.startswith(f"from={source}")
    assert message in text


@pytest.mark.parametrize("form", FILES)
def test_a_mask_of_another_size(labels: Path, tmp_path: Path, form: str) -> None:
    source = exported(labels, tmp_path / "out", form)
    if form == "png":
        Image.fromarray(np.zeros((HEIGHT, WIDTH + 1), np.uint8)).save(source / Path(TWO).with_suffix(".png"))
    else:
        text = source.read_text().replace(f'"width": {WIDTH}', f'"width": {WIDTH - 1}')
        text = text.replace(f'"width":{WIDTH}', f'"width":{WIDTH - 1}')
        text = text.replace(f'width="{WIDTH}"', f'width="{WIDTH + 1}"')
        source.write_text(text.replace(f'"original_width": {WIDTH}', f'"original_width": {WIDTH - 1}'))
    assert any(word in refused(labels, source) for word in ("pixels, its image", "are not those of"))


def test_an_outline_that_is_no_mask(labels: Path, tmp_path: Path) -> None:
    source = exported(labels, tmp_path / "out", "coco")
    content = json.loads(source.read_text())
    content["annotations"][0]["segmentation"] = [[0, 0, 9]]
    source.write_text(json.dumps(content))
    assert ".png is not drawn, annotation 1: not a mask of its image" in refused(labels, source)


@pytest.mark.parametrize("form", FILES)
def test_an_unknown_class(labels: Path, tmp_path: Path, form: str) -> None:
    source = exported(labels, tmp_path / "out", form)
    if form == "png":
        Image.fromarray(np.full((HEIGHT, WIDTH), 9, np.uint8)).save(source / Path(TWO).with_suffix(".png"))
        assert "id 9" in refused(labels, source)
        return
    source.write_text(source.read_text().replace('"rider"', '"pilot"'))
    assert "class 'pilot', which is none of the label set's" in refused(labels, source)


@pytest.mark.parametrize("form", FILES)
def test_an_unknown_image(labels: Path, tmp_path: Path, form: str) -> None:
    source = exported(labels, tmp_path / "out", form)
    if form == "png":
        (source / "ghost.png").write_bytes(encode_gray_png(LABELS[ONE]))
        assert "ghost.png: no image of the label set has this name" in refused(labels, source)
        return
    source.write_text(source.read_text().replace("a/one.png", "a/ghost.png").replace("a/one", "a/ghost"))
    assert "a/ghost.png is no labelled image of" in refused(labels, source)


@pytest.mark.parametrize("form", ["cvat", "coco", "labelstudio"])
def test_a_task_of_another_label_set(labels: Path, tmp_path: Path, form: str) -> None:
    export(labels, tmp_path / "out", format=form, **{"classes.road": "street"})
    source = tmp_path / "out" / FILES[form]
    text = source.read_text()
    found = [key for key in ("segray_set", "segray-") if key in text]
    start = text.index(found[0])
    number = next(
        text[i : i + 16]
        for i in range(start, len(text))
        if text[i : i + 16].isalnum() and len(set(text[i : i + 16]) - set("0123456789abcdef")) == 0
    )
    source.write_text(text.replace(number, "0123456789abcdef"))
    if form == "labelstudio":
        submitted(source)
    assert f"is a task of another label set (0123456789abcdef, not {number})" in refused(labels, source)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.txt", b"cats and dogs", "is not JSON"),
        ("a.json", b"{}", "is none of the formats (allowed: a folder of masks, CVAT"),
        ("a.json", b"[1]", "is none of the formats"),
        ("a.json", b'{"images": 1, "annotations": 2, "categories": 3}', "is not COCO instances"),
        (
            "a.json",
            b'[{"data": {}, "annotations": [{"result": []}]}]',
            "is not Label Studio's tasks: no 'image'",
        ),
        (
            "a.json",
            b'[{"data": {"image": "x"}, "annotations": [{"result": [{"type": "audio"}]}]}]',
            "original_height",
        ),
        ("a.xml", b"<html></html>", "is not a file of CVAT"),
        ("a.xml", b'<?xml version="1.0" encoding="foo"?><annotations/>', "is not XML: unknown encoding: foo"),
        ("a.xml", b"<!DOCTYPE a [<!ENTITY b 'c'>]><annotations/>", "declares entities"),
        ("a.zip", b"PK\x03\x04xxxx", "damaged, or another kind of file"),
        ("a.json", b"[" * 100_000, "is not JSON"),
    ],
)
def test_a_file_that_is_none_of_the_formats(
    labels: Path, tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(data)
    assert message in refused(labels, tmp_path / name)


def test_another_format_than_it_is(labels: Path, tmp_path: Path) -> None:
    source = exported(labels, tmp_path / "out", "coco")
    assert "is COCO instances, not format=cvat" in refused(labels, source, format="cvat")
    assert "has masks, and no file of format=coco" in refused(labels, source.parent, format="coco")
    nothing = tmp_path / "nothing"
    assert refused(labels, nothing) == f"from={nothing}: no such file or folder"


def test_a_source_without_a_mask(labels: Path, tmp_path: Path) -> None:
    source = exported(labels, tmp_path / "out", "coco")
    content = json.loads(source.read_text())
    source.write_text(json.dumps({**content, "annotations": []}))
    assert "no image in it has a mask" in refused(labels, source, good="all")
    (tmp_path / "empty").mkdir()
    assert refused(labels, tmp_path / "empty").startswith(f"from={tmp_path / 'empty'}: no mask there")


@pytest.mark.parametrize("seed", range(4))
def test_brushes_of_other_programs(seed: int) -> None:
    """Runs of values one by one, and others of any width: what rle-pack may write."""
    rng = np.random.default_rng(seed)
    mask = rng.random((7, 9)) < (0.5, 0.05, 0.95, 0)[seed]
    values = np.repeat(
        np.where(mask, rng.integers(128, 256, mask.shape), rng.integers(0, 128, mask.shape)), 4
    )
    bits = f"{values.size:032b}{7:05b}{2:04b}{3:04b}{7:04b}{15:04b}"
    place = 0
    while place < values.size:
        length = int(rng.integers(1, min(8, values.size - place) + 1))
        bits += f"000{length - 1:03b}" + "".join(f"{v:08b}" for v in values[place : place + length])
        place += length
    data = np.packbits([int(b) for b in bits]).tobytes()
    np.testing.assert_array_equal(decode_brush(data, 7, 9), mask)
    np.testing.assert_array_equal(decode_brush(bytes(encode_brush(mask)), 7, 9), mask)
    for cut in (0, 3, 6, len(data) // 2):
        with pytest.raises(ValueError, match="brush run lengths"):
            decode_brush(data[:cut], 7, 9)
    with pytest.raises(ValueError, match="not those of 70 pixels"):
        decode_brush(data, 7, 10)


def test_python(labels: Path, tmp_path: Path) -> None:
    source = exported(labels, tmp_path / "out", "cvat")
    result = segray.import_masks(labels=labels, good="all", **{"from": source})
    assert result.good == 4
    assert "4: 0 changed, 4 as the labels are" in str(result)

"""`segray export`: its keys, what it refuses, and what is left out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import yaml
from pycocotools.coco import COCO

from segray.pipelines.commands.export import run
from segray.pipelines.config.commands.export import ExportConfig
from segray.pipelines.config.loading import load
from segray.pipelines.errors import UserError
from segray.pipelines.exporting.registry import FORMATS
from segray.pipelines.io import storage
from segray.pipelines.io.label_png import decode_label_png
from tests.faults.invariant import files
from tests.pipelines import object_stores
from tests.pipelines.exporting.labelled import (
    HEIGHT,
    IDS,
    LABELS,
    RECORD,
    WIDTH,
    confidence_of,
    export,
    label_of,
    read,
    write_labels,
)
from tests.pipelines.label_set.small_store import (
    ok_row,
    write_store,
)

assert object_stores.FlakyFileSystem.protocol == "flaky"  # importing it registers the scheme


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    return write_labels(tmp_path)


def test_classes_are_renamed_merged_and_left_out(labels: Path, tmp_path: Path) -> None:
    keys = {"classes.road": "ground", "classes.car": "mover", "classes.rider": "mover"}
    result = export(labels, tmp_path / "merged", **keys)
    table = np.array([0, 1, 2, 2, *[255] * 252], np.uint8)
    path = Path("annotations/train/four.png")
    assert np.array_equal(read(tmp_path / "merged" / path), table[LABELS["four.png"]])
    assert result.classes == ("background", "ground", "mover")
    export(labels, tmp_path / "less", **{"classes.road": "background", "classes.car": "null"})
    table = np.array([0, 0, 255, 1, *[255] * 252], np.uint8)
    assert np.array_equal(read(tmp_path / "less" / path), table[LABELS["four.png"]])


def test_pixels_below_the_confidence_are_ignored(labels: Path, tmp_path: Path) -> None:
    label = LABELS["four.png"]
    result = export(labels, tmp_path / "out", min_confidence=0.4)
    expected = np.where(confidence_of(label) < 102, np.uint8(255), label)
    assert np.array_equal(read(tmp_path / "out" / "annotations" / "train" / "four.png"), expected)
    assert result.ignored == sum(int((confidence_of(one) < 102).sum()) for one in LABELS.values())


def test_validation_images_are_chosen_by_a_seed_or_a_list(labels: Path, tmp_path: Path) -> None:
    def val_of(name: str, **keys: object) -> set[str]:
        export(labels, tmp_path / name, images="none", **keys)
        folder = tmp_path / name / "annotations" / "val"
        return {path.relative_to(folder).as_posix() for path in folder.rglob("*.png")}

    assert len(val_of("half", val="1/2")) == 2
    assert val_of("half again", val="1/2") == val_of("half", val="1/2")
    assert len({frozenset(val_of(f"seed {seed}", val="1/2", seed=seed)) for seed in range(5)}) > 1
    (tmp_path / "val.txt").write_text("b/ü.png\na/one\n", encoding="utf-8")
    assert val_of("list", val=tmp_path / "val.txt") == {"b/ü.png", "a/one.png"}


def test_images_are_linked_or_left_out(labels: Path, tmp_path: Path) -> None:
    export(labels, tmp_path / "links", images="link")
    link = tmp_path / "links" / "images" / "train" / "a" / "one.png"
    assert link.is_symlink()
    assert link.resolve() == (tmp_path / "photos" / "a" / "one.png").resolve()
    export(labels, tmp_path / "none", images="none")
    assert not (tmp_path / "none" / "images").exists()


def test_images_that_are_gone_are_left_out_whole_and_tried_again(
    labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = tmp_path / "photos" / "four.png"
    data = photo.read_bytes()
    photo.write_bytes(data + b" ")
    config = load(ExportConfig, None, [f"labels={labels}", f"out={tmp_path / 'out'}", "format=coco"])
    run(config)
    printed = capsys.readouterr()
    assert "5: 3 exported (3 train, 0 val), 1 left out, 1 error, 0 skipped" in printed.out
    assert "four.png: image has changed since it was labelled" in printed.err
    assert len(COCO(str(tmp_path / "out" / "annotations" / "instances_train2017.json")).imgs) == 3
    photo.write_bytes(data)
    run(config)
    export(labels, tmp_path / "whole", format="coco")
    assert files(tmp_path / "out") == files(tmp_path / "whole")


@pytest.mark.parametrize("form", ["huggingface", "webdataset"])
def test_a_shard_of_which_no_image_is_left_goes(labels: Path, tmp_path: Path, form: str) -> None:
    second = [tmp_path / "photos" / image_id for image_id in IDS[2:]]
    for gone, photo in enumerate(second, 1):
        photo.unlink()
        assert len(export(labels, tmp_path / "out", format=form).bad) == gone
    export(labels, tmp_path / "again", format=form)
    assert files(tmp_path / "out") == files(tmp_path / "again")


def test_an_export_without_an_image_is_status_3(labels: Path, tmp_path: Path) -> None:
    for photo in (tmp_path / "photos").rglob("*.png"):
        photo.unlink()
    config = load(ExportConfig, None, [f"labels={labels}", f"out={tmp_path / 'out'}"])
    with pytest.raises(UserError, match="not one of 4 images could be exported: ") as caught:
        run(config)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"format": "pgn"}, "^format: must be one of png, voc, .* not .pgn.; did you mean png"),
        ({"min_confidence": 2}, r"^min_confidence: 2 is out of range \(allowed: 0 to 1\)"),
        ({"classes.cra": "x"}, r"^classes\.cra: no class of the label set; did you mean car\?"),
        ({"classes.background": "x"}, r"^classes\.background: id 0 stays the background$"),
        ({"classes.car": "Road"}, r"^classes: 'road' and 'Road' are the same name"),
        ({"val": 1.5}, r"^val: 1\.5 is out of range \(allowed: a share above 0 and below 1, or a file\)$"),
        ({"val": "gone.txt"}, r"^val: no file 'gone\.txt' \(allowed: a share such as 0\.1 or 1/10"),
        ({"images": "link", "format": "huggingface"}, r"^images: this format .* \(allowed: copy, none\)$"),
        ({"labels": "/nowhere"}, r"^/nowhere: no label set here"),
    ],
)
def test_wrong_keys_are_one_line(labels: Path, tmp_path: Path, keys: Mapping[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        export(**{"labels": labels, "out": tmp_path / "out", **keys})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_list_with_an_unknown_image_names_the_line(labels: Path, tmp_path: Path) -> None:
    (tmp_path / "val.txt").write_text("four.png\nfive.png\n")
    with pytest.raises(UserError, match=r"val\.txt, line 2: no image five\.png"):
        export(labels, tmp_path / "out", val=tmp_path / "val.txt")


@pytest.mark.parametrize(
    ("form", "ids", "path"),
    [
        ("png", ["a.jpg", "a.png"], "annotations/train/a.png"),
        ("png", ["a.png", "a.png/b.png"], "images/train/a.png"),
        ("cityscapes", ["a/b/c.png", "a_b/c.png"], "leftImg8bit/train/a_b/c_leftImg8bit.png"),
    ],
)
def test_two_images_with_one_name_are_refused(tmp_path: Path, form: str, ids: list[str], path: str) -> None:
    store = write_store(tmp_path / "labels", [ok_row(i, label_of(0)) for i in ids], provenance=RECORD)
    with pytest.raises(UserError, match=f"{ids[0]} and {ids[1]} would both be {path}"):
        export(store, tmp_path / "out", format=form)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_and_other_settings_are_refused(labels: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match=r"holds something else \(thesis\.tex\)"):
        export(labels, tmp_path / "other")
    export(labels, tmp_path / "out")
    with pytest.raises(
        UserError, match=r"an export made with other settings \(min_confidence: 0\.0 -> 0\.5\)"
    ):
        export(labels, tmp_path / "out", min_confidence=0.5)
    with pytest.raises(UserError, match="out must differ from labels"):
        export(labels, labels)


def test_names_are_data_in_every_file(tmp_path: Path) -> None:
    name, image_id = '"],<b>|`x`: #1', '=1+1","x.png'
    record = {**RECORD, "classes": ["background", name]}
    store = write_store(tmp_path / "labels", [ok_row(image_id, label_of(0) & np.uint8(1))], provenance=record)
    for form in FORMATS:
        export(store, tmp_path / form, format=form, images="none")
    data = COCO(str(tmp_path / "coco" / "annotations" / "instances_train2017.json"))
    assert (data.cats[1]["name"], data.imgs[1]["file_name"]) == (name, image_id)
    assert yaml.safe_load((tmp_path / "yolo-seg" / "data.yaml").read_text())["names"] == {0: name}
    colours = (tmp_path / "voc" / "labelmap.txt").read_text().splitlines()
    assert [line.count(":") for line in colours] == [3, 3, 3]
    card = (tmp_path / "huggingface" / "README.md").read_text()
    assert "<b>" not in card
    rows = datasets.load_dataset(str(tmp_path / "huggingface"), split="train", cache_dir=str(tmp_path))
    assert rows["image_id"][:] == [image_id]


@pytest.mark.parametrize("form", FORMATS)
def test_many_classes_have_ids_of_16_bits(tmp_path: Path, form: str) -> None:
    classes = ["background", *(f"class {i}" for i in range(1, 301))]
    label: Any = np.zeros((HEIGHT, WIDTH), np.uint16)
    label[2:9, 3:20], label[12:20, 3:9], label[30:] = 300, 255, 65535
    sure = np.full(label.shape, 255, np.uint8)
    row = {**ok_row("x.png", label, confidence=sure), "mean_confidence": 1.0}
    record = {**RECORD, "classes": classes, "ignore_index": 65535}
    store = write_store(tmp_path / "labels", [row], provenance=record)
    if not FORMATS[form].wide:
        with pytest.raises(UserError, match=f"^format: 300 classes need ids of 16 bits; {form} has 8"):
            export(store, tmp_path / "out", format=form, images="none")
        return
    result = export(store, tmp_path / "out", format=form, images="none")
    assert (result.ignored, result.class_pixels[300], result.class_pixels[255]) == (6 * WIDTH, 7 * 17, 8 * 6)
    if form == "png":
        path = tmp_path / "out" / "annotations" / "train" / "x.png"
        assert np.array_equal(decode_label_png(path.read_bytes(), None, 65535), label)
    if form == "coco":
        data = COCO(str(tmp_path / "out" / "annotations" / "instances_train2017.json"))
        assert {a["category_id"]: a["area"] for a in data.anns.values()} == {255: 48, 300: 119}


def test_an_export_to_an_object_store_is_the_same(labels: Path, tmp_path: Path) -> None:
    out = f"flaky://exports/{tmp_path.name}"
    for form in ("coco-panoptic", "huggingface"):
        keys: dict[str, Any] = {"format": form, "val": 0.25}
        export(labels, tmp_path / form, **keys)
        result = export(labels, f"{out}/{form}", **keys)
        assert result.images == {"train": 3, "val": 1}
        stored = {file.name for file in storage.list_files(f"{out}/{form}") if not file.name.startswith(".")}
        assert stored == set(files(tmp_path / form))
        for name in stored:
            assert storage.read_bytes(f"{out}/{form}/{name}") == (tmp_path / form / name).read_bytes()
    with pytest.raises(UserError, match=r"^images: an object store has no links \(allowed: copy, none\)$"):
        export(labels, f"{out}/links", images="link")

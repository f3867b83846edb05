"""`segray export`: each format is read back by the library that people read it with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import datasets
import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from torchvision.datasets import Cityscapes, VOCSegmentation

from segray.models.masks import encode_rle, segment_from_mask
from segray.pipelines.commands.export import ExportResult, execute, run
from segray.pipelines.config.commands.export import ExportConfig
from segray.pipelines.config.loading import load
from segray.pipelines.errors import UserError
from segray.pipelines.exporting.registry import FORMATS
from segray.pipelines.io import storage
from segray.pipelines.io.label_png import decode_label_png
from segray.pipelines.label_set.store import (
    labels_schema,
    labels_table,
    segments_schema,
    segments_table,
    write_part,
)
from tests.faults.invariant import files
from tests.pipelines import object_stores
from tests.pipelines.label_set.small_store import (
    PROVENANCE,
    bad_row,
    ok_row,
    png,
    write_manifest,
    write_store,
)

assert object_stores.FlakyFileSystem.protocol == "flaky"  # importing it registers the scheme

HEIGHT, WIDTH = 36, 48
CLASSES = ["background", "road", "car", "rider"]
RECORD = {**PROVENANCE, "classes": CLASSES, "palette": [[0, 0, 0], [9, 8, 7], [200, 0, 0], [0, 0, 200]]}
IDS = ["a/one.png", "a/two three.png", "b/ü.png", "four.png"]

Label = NDArray[np.uint8]


def label_of(number: int) -> Label:
    """Blobs without holes, that touch each other, at corners too, a line of one pixel, and ignored pixels."""
    label = np.zeros((HEIGHT, WIDTH), np.uint8)
    label[2:12, 3 + number : 20], label[8:20, 15:30] = 1, 2
    label[20 + np.arange(8), 30 + np.arange(8)] = 3
    label[25:35, 2:6], label[25:28, 2:12] = 2, 2
    label[33:, 40:] = 255
    return label


def confidence_of(label: Label) -> Label:
    return np.choose(np.minimum(label, 4), [0, 51, 102, 204, 0]).astype(np.uint8)


LABELS = {image_id: label_of(number) for number, image_id in enumerate(IDS)}


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """Four images in two parts, with a bad one; the images are files below photos/."""
    rows, uris = [], {}
    for image_id, label in LABELS.items():
        data = png(np.repeat(label[..., None], 3, -1))
        uris[image_id] = str(tmp_path / "photos" / image_id)
        Path(uris[image_id]).parent.mkdir(parents=True, exist_ok=True)
        Path(uris[image_id]).write_bytes(data)
        rows.append({**ok_row(image_id, label, confidence=confidence_of(label), image=data), "image": None})
    write_store(tmp_path / "labels", rows[:2], [*rows[2:], bad_row("bad.png")], provenance=RECORD)
    write_manifest(tmp_path / "labels", uris)
    return tmp_path / "labels"


def export(labels: Path, out: Path | str, **keys: object) -> ExportResult:
    overrides = [f"{name}={value}" for name, value in {"labels": labels, "out": out, **keys}.items()]
    return execute(load(ExportConfig, None, overrides))


def read(path: Path) -> Label:
    return np.array(Image.open(path))


def no_ignored(label: Label) -> Label:
    return np.where(label == 255, np.uint8(0), label)


def test_the_configuration_names_every_format() -> None:
    assert get_args(ExportConfig.model_fields["format"].annotation) == tuple(FORMATS)


def test_png_is_what_mmsegmentation_lists(labels: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = export(labels, out, val=0.25)
    found = {}
    for split in ("train", "val"):
        # As BaseSegDataset does: recursively, the image's ending replaced by the mask's.
        for image in sorted((out / "images" / split).rglob("*.png")):
            name = image.relative_to(out / "images" / split)
            found[str(name)] = read(out / "annotations" / split / name.with_suffix(".png"))
            assert image.read_bytes() == (tmp_path / "photos" / name).read_bytes()
    assert found.keys() == LABELS.keys()
    assert all(np.array_equal(found[name], LABELS[name]) for name in IDS)
    assert result.images == {"train": 3, "val": 1}
    assert (out / "class_names.txt").read_text().split() == CLASSES


def test_voc_is_read_by_torchvision_with_its_colours(labels: Path, tmp_path: Path) -> None:
    root = tmp_path / "VOCdevkit" / "VOC2012"
    export(labels, root, format="voc", val=0.25, images="none")
    for path in (root / "SegmentationClass").rglob("*.png"):
        jpeg = root / "JPEGImages" / path.relative_to(root / "SegmentationClass").with_suffix(".jpg")
        jpeg.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).convert("RGB").save(jpeg)
    found = {}
    for split in ("train", "val"):
        data = VOCSegmentation(tmp_path, image_set=split)
        names = (root / "ImageSets" / "Segmentation" / f"{split}.txt").read_text().splitlines()
        for name, (_, mask) in zip(names, data, strict=True):
            found[f"{name}.png"] = np.array(mask)
            assert mask.getpalette()[: 3 * len(CLASSES)] == np.ravel(RECORD["palette"]).tolist()
    assert all(np.array_equal(found[name], LABELS[name]) for name in IDS)
    assert "car:200,0,0::" in (root / "labelmap.txt").read_text().splitlines()


def test_cityscapes_has_its_own_ids_and_is_read_by_torchvision(labels: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = export(labels, out, format="cityscapes", val=0.25)
    expected = np.array([0, 7, 26, 25, *[0] * 252], np.uint8)
    count = 0
    for split in ("train", "val"):
        data = Cityscapes(out, split=split, mode="fine", target_type="semantic")
        for image, mask in data:
            label = np.array(image)[..., 0]
            assert np.array_equal(np.array(mask), expected[label])
            count += 1
    assert count == len(IDS)
    assert result.losses == ('96 ignored pixels are id 0, "unlabeled", as the background',)


def test_cityscapes_keeps_the_ids_of_other_classes(labels: Path, tmp_path: Path) -> None:
    result = export(labels, tmp_path / "out", **{"format": "cityscapes", "classes.car": "robot"})
    path = tmp_path / "out" / "gtFine" / "train" / "a" / "one_gtFine_labelIds.png"
    assert np.array_equal(read(path), LABELS["a/one.png"])
    assert result.losses == ()
    assert json.loads((tmp_path / "out" / "labels.json").read_text())[2]["name"] == "robot"


@pytest.mark.parametrize("instances", ["connected", "segments"])
def test_coco_is_read_by_pycocotools(labels: Path, tmp_path: Path, instances: str) -> None:
    out = tmp_path / "out"
    result = export(labels, out, format="coco", val=0.25, instances=instances)
    for split in ("train", "val"):
        data = COCO(str(out / "annotations" / f"instances_{split}2017.json"))
        assert [category["name"] for category in data.loadCats(data.getCatIds())] == CLASSES[1:]
        for image in data.imgs.values():
            drawn = np.zeros((HEIGHT, WIDTH), int)
            for annotation in data.imgToAnns[image["id"]]:
                mask = data.annToMask(annotation)
                assert (mask.sum(), drawn[mask > 0].max()) == (annotation["area"], 0)
                box = coco_mask.toBbox(annotation["segmentation"]).tolist()
                assert box == annotation["bbox"]
                drawn += annotation["category_id"] * mask
            assert np.array_equal(drawn, no_ignored(LABELS[image["file_name"]]))
            assert (out / f"{split}2017" / image["file_name"]).is_file()
    assert result.losses == ("96 ignored pixels are background: they are in no object",)


def test_objects_are_the_visible_segments_where_that_is_asked_for(tmp_path: Path) -> None:
    label = np.zeros((HEIGHT, WIDTH), np.uint8)
    label[4:20, 4:30], label[8:12, 8:12], label[30:33, 3:9] = 1, 2, 3
    masks = {1: label > 0, 2: label == 2}
    masks[1][20:] = False
    left, right = masks[1].copy(), masks[1].copy()
    left[:, 20:], right[:, :20] = False, False
    segments = []
    for number, (class_id, mask) in enumerate([(1, left), (1, right), (2, masks[2]), (0, label == 3)]):
        segment = segment_from_mask(mask)
        size, counts = encode_rle(segment, HEIGHT, WIDTH)
        known = {"bbox": segment.box, "area": segment.area, "class_id": class_id, "score": 0.1, "margin": 0.1}
        known |= {"runner_up_class": 0, "predicted_iou": 1.0, "stability_score": 1.0}
        rle = {"size": size, "counts": counts}
        segments.append({"image_id": "x.png", "segment_id": number, "rle": rle, **known})
    rows = labels_table([ok_row("x.png", label)], labels_schema(RECORD))
    write_part(str(tmp_path / "labels"), rows, segments_table(segments, segments_schema(None, RECORD)))
    export(tmp_path / "labels", tmp_path / "out", format="coco", instances="segments", images="none")
    data = COCO(str(tmp_path / "out" / "annotations" / "instances_train2017.json"))
    found = [(a["category_id"], data.annToMask(a)) for a in data.anns.values()]
    # The last one is of pixels that no segment has: a correction.
    assert [class_id for class_id, _ in found] == [1, 1, 2, 3]
    assert np.array_equal(found[0][1] > 0, left & (label == 1))
    assert np.array_equal(sum(class_id * mask for class_id, mask in found), label)
    keys = {"format": "coco", "instances": "segments", "images": "none", "classes.car": "null"}
    export(tmp_path / "labels", tmp_path / "without cars", **keys)
    data = COCO(str(tmp_path / "without cars" / "annotations" / "instances_train2017.json"))
    assert [a["category_id"] for a in data.anns.values()] == [1, 1, 2]


def check_panoptic(folder: Path, split: str) -> dict[str, Label]:
    """The label maps of a panoptic export, if it follows https://cocodataset.org/#format-data."""
    data = json.loads((folder / "annotations" / f"panoptic_{split}2017.json").read_text())
    categories = {category["id"]: category for category in data["categories"]}
    assert all({"id", "name", "supercategory", "isthing", "color"} <= c.keys() for c in categories.values())
    images = {image["id"]: image for image in data["images"]}
    assert [a["image_id"] for a in data["annotations"]] == list(images)
    maps = {}
    for annotation in data["annotations"]:
        image = images[annotation["image_id"]]
        pixels = read(folder / "annotations" / f"panoptic_{split}2017" / annotation["file_name"])
        assert pixels.shape == (image["height"], image["width"], 3)
        ids = pixels.astype(np.uint32) @ np.array([1, 256, 256**2], np.uint32)
        label = np.full(ids.shape, 255, np.uint8)
        for info in annotation["segments_info"]:
            mask = ids == info["id"]
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
            assert (info["area"], info["bbox"], info["iscrowd"]) == (mask.sum(), box, 0)
            assert info["category_id"] in categories
            label[mask] = info["category_id"]
        assert set(np.unique(ids)) - {0} == {info["id"] for info in annotation["segments_info"]}
        maps[image["file_name"]] = label
    return maps


def test_panoptic_follows_the_documented_format_and_loses_nothing(labels: Path, tmp_path: Path) -> None:
    result = export(labels, tmp_path / "out", format="coco-panoptic", val=0.25)
    maps = check_panoptic(tmp_path / "out", "train") | check_panoptic(tmp_path / "out", "val")
    assert maps.keys() == LABELS.keys()
    assert all(np.array_equal(maps[name], LABELS[name]) for name in IDS)
    assert result.losses == ()


def polygons(path: Path) -> list[tuple[int, NDArray[np.float64]]]:
    """The lines of a file, as ultralytics reads and checks them."""
    found = []
    for line in path.read_text().splitlines():
        class_id, *numbers = line.split()
        corners = np.array(numbers, float).reshape(-1, 2)
        assert len(corners) >= 3
        assert 0 <= corners.min() <= corners.max() <= 1
        found.append((int(class_id), corners))
    return found


def test_yolo_polygons_cover_exactly_the_pixels(labels: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = export(labels, out, format="yolo-seg", val=0.25)
    described = yaml.safe_load((out / "data.yaml").read_text())
    assert described == {"train": "images/train", "val": "images/val", "names": dict(enumerate(CLASSES[1:]))}
    count = 0
    for image in (out / "images").rglob("*.png"):
        name = image.relative_to(out / "images").as_posix()
        drawn = np.zeros((HEIGHT, WIDTH), int)
        for class_id, corners in polygons((out / "labels" / name).with_suffix(".txt")):
            flat = (corners * (WIDTH, HEIGHT)).round().ravel().tolist()
            rle = coco_mask.merge(coco_mask.frPyObjects([flat], HEIGHT, WIDTH))
            drawn += (class_id + 1) * coco_mask.decode(rle)
        assert np.array_equal(drawn, no_ignored(LABELS[name.partition("/")[2]]))
        count += 1
    assert count == len(IDS)
    assert result.losses == ("96 ignored pixels are background: they are in no polygon",)


def test_yolo_says_how_many_pixels_of_holes_are_filled(tmp_path: Path) -> None:
    label = np.zeros((HEIGHT, WIDTH), np.uint8)
    label[4:20, 4:20] = 1
    label[8:11, 8:12] = 0
    store = write_store(tmp_path / "labels", [ok_row("x.png", label)], provenance=RECORD)
    result = export(store, tmp_path / "out", format="yolo-seg", images="none")
    assert result.losses == (
        "12 pixels in holes of objects are filled: a polygon has no holes",
        "data.yaml names the train images for both train and val",
    )
    assert (tmp_path / "out" / "labels" / "train" / "x.txt").read_text().count("\n") == 1


def test_load_dataset_opens_the_huggingface_folder(labels: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(labels, out, format="huggingface", val=0.25)
    data = datasets.load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
    assert {name: len(rows) for name, rows in data.items()} == {"train": 3, "validation": 1}
    found = {row["image_id"]: row for rows in data.values() for row in rows}
    for image_id, label in LABELS.items():
        assert np.array_equal(np.array(found[image_id]["label"]), label)
        assert np.array_equal(np.array(found[image_id]["image"])[..., 0], label)
    assert json.loads((out / "id2label.json").read_text())["2"] == "car"


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

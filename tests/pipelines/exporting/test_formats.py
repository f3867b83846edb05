"""Each format is read back by the library that people read it with."""

from __future__ import annotations

import io
import json
from pathlib import Path

import datasets
import numpy as np
import pytest
import webdataset
import yaml
from defusedxml.ElementTree import fromstring
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from torchvision.datasets import Cityscapes, VOCSegmentation

from segray.models.masks import encode_rle, segment_from_mask
from segray.pipelines.config.commands.export import CHECKPOINT_FORMATS, LABEL_FORMATS
from segray.pipelines.exporting.checkpoints.formats import FORMATS as CHECKPOINTS
from segray.pipelines.exporting.registry import FORMATS
from segray.pipelines.label_set.store import (
    labels_schema,
    labels_table,
    segments_schema,
    segments_table,
    write_part,
)
from tests.pipelines.exporting.labelled import (
    CLASSES,
    HEIGHT,
    IDS,
    LABELS,
    RECORD,
    WIDTH,
    Label,
    export,
    no_ignored,
    read,
    write_labels,
)
from tests.pipelines.label_set.small_store import (
    ok_row,
    write_store,
)


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    return write_labels(tmp_path)


def test_the_configuration_names_every_format() -> None:
    assert tuple(FORMATS) == LABEL_FORMATS
    assert tuple(CHECKPOINTS) == CHECKPOINT_FORMATS


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


def test_webdataset_is_read_by_its_library(labels: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(labels, out, format="webdataset", val=0.25)
    found = {}
    for split in ("train", "val"):
        urls = [str(path) for path in sorted(out.glob(f"{split}-*.tar"))]
        for sample in webdataset.WebDataset(urls, shardshuffle=False, empty_check=False):
            image_id = json.loads(sample["json"])["image_id"]
            found[image_id] = np.array(Image.open(io.BytesIO(sample["seg.png"])))
            assert sample["png"] == (tmp_path / "photos" / image_id).read_bytes()
    assert found.keys() == LABELS.keys()
    assert all(np.array_equal(found[name], LABELS[name]) for name in IDS)
    again = tmp_path / "again"
    export(labels, again, format="webdataset", val=0.25)
    for path in out.glob("*.tar"):
        assert path.read_bytes() == (again / path.name).read_bytes()


def test_names_that_webdataset_would_split_or_mix_up_are_kept_apart(tmp_path: Path) -> None:
    ids = ["a.jpg", "a.png", "a_png", "x.y/b.c.png", "x.y/b.png"]
    write_store(tmp_path / "labels", [ok_row(image_id, LABELS[IDS[0]]) for image_id in ids])
    export(tmp_path / "labels", tmp_path / "out", format="webdataset", images="none")
    (shard,) = (tmp_path / "out").glob("*.tar")
    samples = list(webdataset.WebDataset([str(shard)], shardshuffle=False))
    assert {json.loads(sample["json"])["image_id"] for sample in samples} == set(ids)
    assert all({"seg.png", "json"} <= sample.keys() for sample in samples)


def test_fiftyone_has_the_folders_of_its_importer(labels: Path, tmp_path: Path) -> None:
    """As ImageSegmentationDirectory: the same path without ending in data/ and labels/; grey masks of ids."""
    out = tmp_path / "out"
    export(labels, out, format="fiftyone", val=0.25)
    found = {}
    for split in ("train", "val"):
        data = {
            p.relative_to(out / split / "data").with_suffix("") for p in (out / split / "data").rglob("*.*")
        }
        masks = {
            p.relative_to(out / split / "labels").with_suffix("")
            for p in (out / split).rglob("labels/**/*.png")
        }
        assert data == masks
        for name in masks:
            mask = Image.open(out / split / "labels" / name.with_suffix(".png"))
            assert mask.mode == "L"
            found[f"{name}.png"] = np.array(mask)
    assert all(np.array_equal(found[name], LABELS[name]) for name in IDS)
    targets = json.loads((out / "mask_targets.json").read_text())
    assert [targets[str(i)] for i in range(len(CLASSES))] == CLASSES


def test_cvat_is_what_its_format_says(labels: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(labels, out, format="cvat", val=0.25, images="none")
    root = fromstring((out / "annotations.xml").read_bytes())
    assert [root.tag, root.findtext("version")] == ["annotations", "1.1"]
    names = [label.findtext("name") for label in root.iterfind("meta/task/labels/label")]
    assert names == [*CLASSES[1:], "ignored"]
    assert [label["name"] for label in json.loads((out / "labels.json").read_text())] == names
    found = {}
    for image in root.findall("image"):
        label = np.zeros((int(image.attrib["height"]), int(image.attrib["width"])), np.uint8)
        for mask in image.findall("mask"):
            left, top, width, height = (int(mask.attrib[key]) for key in ("left", "top", "width", "height"))
            runs = [int(run) for run in mask.attrib["rle"].split(",")]
            inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
            class_id = 255 if mask.attrib["label"] == "ignored" else CLASSES.index(mask.attrib["label"])
            label[top : top + height, left : left + width][inside] = class_id
        found[image.attrib["name"]] = label
    assert all(np.array_equal(found[name], LABELS[name]) for name in IDS)
    assert {image.attrib["subset"] for image in root.findall("image")} == {"train", "val"}


def test_label_studio_is_decoded_by_its_own_converter(labels: Path, tmp_path: Path) -> None:
    brush = pytest.importorskip("label_studio_sdk.converter.brush")
    out = tmp_path / "out"
    export(labels, out, format="labelstudio", images="none")
    interface = fromstring((out / "config.xml").read_bytes())
    values = [label.attrib["value"] for label in interface.iter("Label")]
    for task in json.loads((out / "tasks.json").read_text()):
        label = np.zeros((HEIGHT, WIDTH), np.uint8)
        for one in task["predictions"][0]["result"]:
            (name,) = one["value"]["brushlabels"]
            assert name in values
            mask = brush.decode_rle(one["value"]["rle"]).reshape(HEIGHT, WIDTH, 4)[..., 3] > 0
            label[mask] = 255 if name == "ignored" else CLASSES.index(name)
        np.testing.assert_array_equal(label, LABELS[task["data"]["segray_image"]])

"""COCO files as labelling tools write them: other layouts, boxes alone, deleted images, fewer categories."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segray.pipelines.config.commands.train import DataConfig, TrainConfig
from segray.pipelines.training.data.datasets import LabelledImages
from segray.pipelines.training.data.summary import data_lines
from tests.pipelines.training.data.small_sets import (
    CATEGORIES,
    annotation,
    box,
    coco_set,
    draw_image,
    instances,
    names,
    opened,
    refusal,
)

BOX = {"bbox": [0, 0, 4, 3]}


def changed(root: Path, part: str = "train2017", **changes: Any) -> Path:
    path = root / "annotations" / f"instances_{part}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return root


def without(record: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in record.items() if k != key}


def lines_of(root: Path, **keys: Any) -> list[str]:
    data = DataConfig.model_validate({"root": str(root), "kind": "coco", **keys})
    return data_lines(TrainConfig(out="run", data=data), opened(root, kind="coco", **keys))


def first_mask(root: Path, **keys: Any) -> np.ndarray[Any, Any]:
    mask: np.ndarray[Any, Any] = LabelledImages(opened(root, kind="coco", **keys).labelled)[0][1].numpy()
    return mask


@pytest.mark.parametrize("segmentation", [None, [], "missing"])
def test_boxes_without_an_outline_are_ignored_pixels_and_counted(tmp_path: Path, segmentation: Any) -> None:
    alone = {**annotation(5, 1, 1, segmentation), **BOX}
    alone = without(alone, "segmentation") if segmentation == "missing" else alone
    root = coco_set(tmp_path, [alone, annotation(6, 1, 18, box(8, 0, 10, 3))])
    mask = first_mask(root)
    assert (mask[:3, :4] == 255).all()
    assert (mask[:3, 8:10] == 2).all()
    assert np.isin(mask[3:], 0).all()
    line = "left out    1 annotations are boxes without an outline: the pixels of their boxes are ignored"
    assert f"{line} (such as annotation 5)" in lines_of(root)


def test_annotations_of_deleted_images_and_absent_images_are_counted(tmp_path: Path) -> None:
    root = coco_set(tmp_path, [annotation(5, 99, 1, box(0, 0, 2, 2)), annotation(6, 1, 1, box(0, 0, 2, 2))])
    (root / "train2017" / f"{2:012}.jpg").unlink()
    lines = lines_of(root)
    assert (
        "left out    1 annotations are of images that the file does not list (such as annotation 5)" in lines
    )
    assert f"left out    1 images of the file are not there (such as {2:012}.jpg)" in lines
    assert len(opened(root, kind="coco").labelled) == 3


def test_an_unknown_category_is_ignored_pixels(tmp_path: Path) -> None:
    root = coco_set(tmp_path, [annotation(5, 1, 55, box(0, 0, 2, 2)), annotation(6, 2, 1, box(0, 0, 2, 2))])
    assert (first_mask(root)[:2, :2] == 255).all()
    assert any("category that the file does not list" in line for line in lines_of(root))


def test_categories_of_both_files_are_matched_by_name(tmp_path: Path) -> None:
    root = coco_set(tmp_path)
    other = [{"id": 4, "name": "Dog"}, {"id": 5, "name": "cow"}]
    marks = [annotation(1, 7, 4, box(0, 0, 2, 2)), annotation(2, 8, 5, box(0, 0, 2, 2))]
    changed(root, "val2017", categories=other, annotations=marks)
    data = opened(root, kind="coco")
    assert data.space.classes == ("void", "person", "dog", "toothbrush")
    masks = [LabelledImages(data.validation)[i][1].numpy() for i in (0, 1)]
    assert (masks[0][:2, :2] == 2).all()
    assert (masks[1][:2, :2] == 255).all()
    assert any("category of the validation file alone" in line for line in data.left_out)


def test_classes_are_matched_by_name_and_some_may_be_chosen(tmp_path: Path) -> None:
    root = coco_set(tmp_path)
    data = opened(root, kind="coco", classes="toothbrush,person")
    ids = [mask.unique().tolist() for _, mask in LabelledImages(data.labelled)]  # type: ignore[attr-defined]
    assert ids == [[0, 2], [0], [0, 1], [0]]
    assert any("data.classes leaves out" in line for line in data.left_out)
    text = refusal(root, kind="coco", classes="dog,human,brush")
    assert text.startswith("data.classes: 'dog' is another category of ")


def test_the_layout_of_roboflow(tmp_path: Path) -> None:
    group = {"id": 0, "name": "things", "supercategory": "none"}
    categories = [group, *({**c, "supercategory": "things"} for c in CATEGORIES)]
    for part, ids in (("train", (1, 2)), ("valid", (7,))):
        marks = [annotation(i, i, 18, box(0, 0, 2, 2)) for i in ids]
        for i in ids:
            draw_image(tmp_path / part / f"{i:012}.jpg", value=i)
        content = instances(ids, marks, categories=categories)
        (tmp_path / part / "_annotations.coco.json").write_text(json.dumps(content))
    data = opened(tmp_path, kind="coco")
    assert names(data.labelled) == [f"train/{i:012}.jpg" for i in (1, 2)]
    assert names(data.validation) == [f"valid/{7:012}.jpg"]
    assert data.space.classes == ("void", "person", "dog", "toothbrush")


def single(root: Path, json_name: str, image: str, file_name: str) -> Path:
    """A tool's one JSON file and two images."""
    images = []
    for i in (1, 2):
        draw_image(root / image.format(i), value=i)
        images.append({"id": i, "file_name": file_name.format(i), "height": 12, "width": 16})
    marks = [annotation(i, i, 18, box(0, 0, 2, 2)) for i in (1, 2)]
    path = root / json_name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(instances((), marks, images=images)))
    return root


@pytest.mark.parametrize(
    ("json_name", "image", "file_name"),
    [
        ("annotations/instances_default.json", "images/{}.jpg", "{}.jpg"),
        ("annotations/instances_Train.json", "images/Train/{}.jpg", "{}.jpg"),
        ("annotations/instances_default.json", "images/default/a/{}.jpg", "a/{}.jpg"),
        ("result.json", "images/ab-{}.jpg", "images/ab-{}.jpg"),
        ("result.json", "images/ab-{}.jpg", "images\\ab-{}.jpg"),
        ("result.json", "images/ab-{}.jpg", "../../label-studio/data/media/upload/1/ab-{}.jpg"),
        ("_annotations.coco.json", "{}.jpg", "{}.jpg"),
        ("annotations/instances_default.json", "images/Bu\u0308cher {}.jpg", "B\u00fccher {}.jpg"),
    ],
)
def test_the_layouts_of_other_tools(tmp_path: Path, json_name: str, image: str, file_name: str) -> None:
    data = opened(single(tmp_path, json_name, image, file_name), kind="coco", validation="none")
    assert names(data.labelled) == [image.format(i) for i in (1, 2)]
    assert (LabelledImages(data.labelled)[0][1].numpy()[:2, :2] == 2).all()


def test_keys_name_the_files_and_folders(tmp_path: Path) -> None:
    root = coco_set(tmp_path)
    (root / "annotations").rename(root / "json")
    (root / "train2017").rename(root / "pictures")
    text = refusal(root, kind="coco")
    assert text.startswith("data.root: no instances_train*.json in ")
    assert text.endswith("data.annotations=FILE names it")
    train, val = "json/instances_train2017.json", "json/instances_val2017.json"
    assert "data.images=FOLDER names it" in refusal(root, kind="coco", annotations=train, images="val2017")
    data = opened(
        root, kind="coco", annotations=train, images="pictures", val_annotations=val, val_images="val2017"
    )
    assert (len(data.labelled), len(data.validation)) == (4, 2)
    missing = "data.annotations: no file 'x.json', neither there nor below data.root"
    assert refusal(root, kind="coco", annotations="x.json") == missing


def test_images_of_both_files_are_not_trained_on(tmp_path: Path) -> None:
    root = coco_set(tmp_path)
    shutil_names = [f"{i:012}.jpg" for i in (3, 4)]
    images = [{"id": i, "file_name": n, "height": 12, "width": 16} for i, n in enumerate(shutil_names)]
    changed(root, "val2017", images=images, annotations=[])
    data = opened(
        root,
        kind="coco",
        val_images="train2017",
        annotations="annotations/instances_train2017.json",
        val_annotations="annotations/instances_val2017.json",
        images="train2017",
    )
    assert names(data.labelled) == [f"train2017/{i:012}.jpg" for i in (1, 2)]
    assert any("images are in both files" in line for line in data.left_out)

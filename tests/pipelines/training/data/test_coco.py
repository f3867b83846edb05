from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from segray.pipelines.training.data.datasets import LabelledImages
from segray.pipelines.training.data.samples import TrainingData
from tests.pipelines.training.data.small_sets import (
    HEIGHT,
    WIDTH,
    annotation,
    box,
    coco_set,
    draw_image,
    instances,
    names,
    opened,
    refusal,
)


def mask_from(tmp_path: Path, *annotations: dict[str, Any]) -> NDArray[np.uint8]:
    data = opened(coco_set(tmp_path, annotations), kind="coco")
    return LabelledImages(data.labelled)[0][1].numpy()


def filled(x0: int, y0: int, x1: int, y1: int) -> NDArray[np.uint8]:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[y0:y1, x0:x1] = 1
    return mask


def test_categories_become_contiguous_ids_in_the_order_of_their_ids(tmp_path: Path) -> None:
    data = opened(coco_set(tmp_path), kind="coco")
    assert data.space.classes == ("void", "person", "dog", "toothbrush")
    assert names(data.labelled) == [f"train2017/{i:012}.jpg" for i in (1, 2, 3, 4)]
    ids = [mask.unique().tolist() for _, mask in LabelledImages(data.labelled)]  # type: ignore[attr-defined]
    assert ids == [[0, 1], [0, 2], [0, 3], [0]]
    assert names(data.validation) == [f"val2017/{i:012}.jpg" for i in (7, 8)]
    assert torch.equal(LabelledImages(data.validation)[0][1], torch.from_numpy(filled(0, 0, 8, 8)))


def test_the_eighty_classes_of_coco(tmp_path: Path) -> None:
    ids = [i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
    categories = [{"id": i, "name": f"class {i}"} for i in reversed(ids)]
    root = coco_set(tmp_path, [annotation(1, 1, 90, box(0, 0, 4, 4))], categories=categories)
    val = root / "annotations" / "instances_val2017.json"
    val.write_text(json.dumps(instances((7, 8), [], categories=categories)))
    data = opened(root, kind="coco")
    assert len(data.space.classes) == 81
    assert LabelledImages(data.labelled)[0][1].unique().tolist() == [0, 80]
    named = opened(root, kind="coco", classes="coco")
    assert (named.space.classes[0], named.space.classes[80]) == ("void", "toothbrush")
    assert refusal(root, kind="coco", classes="cat").startswith("data.classes: 1 classes, ")


def test_the_smaller_lies_on_top_whatever_their_order(tmp_path: Path) -> None:
    small, large = annotation(1, 1, 1, box(2, 2, 6, 6)), annotation(2, 1, 18, box(0, 0, 10, 10))
    expected = 2 * filled(0, 0, 10, 10)
    expected[filled(2, 2, 6, 6) > 0] = 1
    assert np.array_equal(mask_from(tmp_path / "a", small, large), expected)
    assert np.array_equal(mask_from(tmp_path / "b", large, small), expected)


def test_of_equal_areas_the_earlier_id_lies_on_top(tmp_path: Path) -> None:
    mask = mask_from(tmp_path, annotation(8, 1, 18, box(2, 0, 6, 4)), annotation(5, 1, 1, box(0, 0, 4, 4)))
    assert mask[0, :7].tolist() == [1, 1, 1, 1, 2, 2, 0]


def test_crowds_as_runs_plain_and_compressed(tmp_path: Path) -> None:
    wanted = filled(3, 2, 9, 8)
    runs = np.flatnonzero(np.diff(np.concatenate([[0], wanted.ravel("F"), [0]])))
    edges = [0, *runs.tolist(), HEIGHT * WIDTH]
    plain = {"size": [HEIGHT, WIDTH], "counts": np.diff(edges).tolist()}
    packed = coco_mask.encode(np.asfortranarray(wanted))
    text = {"size": [HEIGHT, WIDTH], "counts": packed["counts"].decode()}
    assert np.array_equal(mask_from(tmp_path / "a", annotation(1, 1, 1, plain, crowd=1)), wanted)
    assert np.array_equal(mask_from(tmp_path / "b", annotation(1, 1, 1, text, crowd=1)), wanted)


def test_several_polygons_and_those_that_are_none(tmp_path: Path) -> None:
    parts = [*box(0, 0, 3, 3), *box(8, 0, 10, 3), [1, 1, 2, 2]]
    expected = filled(0, 0, 3, 3) + filled(8, 0, 10, 3)
    nothing = annotation(2, 1, 18, [])
    assert np.array_equal(mask_from(tmp_path, annotation(1, 1, 1, parts), nothing), expected)


def test_items_need_no_file_but_the_image(tmp_path: Path) -> None:
    data = opened(coco_set(tmp_path), kind="coco", labelled="2")
    far: TrainingData = pickle.loads(pickle.dumps(data))
    (tmp_path / "annotations" / "instances_train2017.json").unlink()
    assert (LabelledImages(far.labelled)[0][1] > 0).any()
    assert [sample.shapes for sample in far.unlabelled] == [None] * len(far.unlabelled)


def test_unlabelled_images_need_no_annotation(tmp_path: Path) -> None:
    root = coco_set(tmp_path)
    draw_image(root / "train2017" / "unheard.jpg")
    data = opened(root, kind="coco", labelled="2")
    assert "train2017/unheard.jpg" in names(data.unlabelled)
    assert len(data.unlabelled) == 3
    (root / "l.txt").write_text("unheard.jpg\n")
    assert "image train2017/unheard.jpg is in no annotation file of" in refusal(
        root, kind="coco", labelled=str(root / "l.txt")
    )


def test_published_split_files_name_masks_that_nobody_has(tmp_path: Path) -> None:
    root = coco_set(tmp_path)
    (root / "l.txt").write_text("train2017/000000000002.jpg train2017/000000000002.png\n")
    data = opened(root, kind="coco", labelled=str(root / "l.txt"))
    assert names(data.labelled) == ["train2017/000000000002.jpg"]


def test_images_may_lie_deeper(tmp_path: Path) -> None:
    root = coco_set(tmp_path)
    (root / "images").mkdir()
    for name in ("train2017", "val2017"):
        (root / name).rename(root / "images" / name)
    assert names(opened(root, kind="coco").validation)[0] == "images/val2017/000000000007.jpg"


def test_without_a_val_file_a_part_is_put_aside(tmp_path: Path) -> None:
    root = coco_set(tmp_path)
    (root / "annotations" / "instances_val2017.json").unlink()
    data = opened(root, kind="coco")
    assert (len(data.labelled), len(data.validation)) == (3, 1)


def test_an_image_of_another_size_is_refused(tmp_path: Path) -> None:
    root = coco_set(tmp_path)
    path = root / "train2017" / "000000000002.jpg"
    draw_image(path, (WIDTH + 1, HEIGHT))
    assert refusal(root, kind="coco") == (
        f"annotations/instances_train2017.json#2 is {WIDTH}x{HEIGHT} pixels, its image {path} "
        f"{WIDTH + 1}x{HEIGHT}; both must have the same size"
    )


@pytest.mark.parametrize(
    "segmentation", [{"size": [3, 3], "counts": [9]}, [[1, 2, 3, 4, 5, 6, 7]], "x", {"counts": [1]}]
)
def test_a_segmentation_that_is_none_is_refused(tmp_path: Path, segmentation: Any) -> None:
    root = coco_set(tmp_path, [annotation(77, 1, 1, segmentation)])
    assert refusal(root, kind="coco") == (
        "annotations/instances_train2017.json#1, annotation 77: not a mask of its image "
        f"(allowed: polygons, or RLE of size [{HEIGHT}, {WIDTH}])"
    )


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"categories": None}, "is not a COCO instances file"),
        ({"annotations": [{"id": 1, "image_id": 1}]}, "is not a COCO instances file: no 'category_id'"),
        ({"images": []}, "names none of the images in"),
        (
            {"images": [{"id": 1, "file_name": "../../etc/x.jpg", "height": 1, "width": 1}]},
            "file_name in instances_train2017.json: image_id '../../etc/x.jpg' is refused",
        ),
    ],
)
def test_a_file_that_is_something_else_is_refused(tmp_path: Path, change: dict[str, Any], text: str) -> None:
    root = coco_set(tmp_path, [], **change) if "annotations" not in change else coco_set(tmp_path, **change)
    assert text in refusal(root, kind="coco")


def test_a_cut_file_and_no_file(tmp_path: Path) -> None:
    root = coco_set(tmp_path)
    path = root / "annotations" / "instances_train2017.json"
    path.write_text(path.read_text()[:99])
    assert f"{path} is not a COCO instances file" in refusal(root, kind="coco")
    path.unlink()
    assert "no instances_train*.json in" in refusal(root, kind="coco")


def test_a_category_named_background_is_id_0(tmp_path: Path) -> None:
    root = coco_set(tmp_path)
    for path in (root / "annotations").glob("*.json"):
        content = json.loads(path.read_text())
        next(c for c in content["categories"] if c["id"] == 18)["name"] = "Background"
        path.write_text(json.dumps(content))
    data = opened(root, kind="coco")
    assert data.space.classes == ("void", "person", "toothbrush")
    assert set(LabelledImages(data.labelled)[1][1].unique().tolist()) == {0}
    assert set(LabelledImages(data.labelled)[2][1].unique().tolist()) == {0, 2}

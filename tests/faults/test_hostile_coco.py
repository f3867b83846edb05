"""COCO files that are made to harm: one line and status 2 before Ray starts, nothing for native code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from segray.pipelines.training.data import coco_masks
from segray.pipelines.training.data.datasets import LabelledImages
from tests.faults.runs import segray
from tests.pipelines.training.data.small_sets import (
    HEIGHT,
    WIDTH,
    annotation,
    coco_set,
    opened,
    refusal,
)

MARK = "MARK"


def _with_text(root: Path, text: str) -> Path:
    """A data set whose JSON has `text`, JSON or not, in the place of a coordinate."""
    coco_set(root, [annotation(77, 1, 1, [[0, 0, MARK, 0, 5, 5]])])
    path = root / "annotations" / "instances_train2017.json"
    path.write_text(path.read_text().replace(f'"{MARK}"', text))
    return root


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("1e9", "annotation 77: a coordinate of 1e+09 px, the image is 16x12"),
        ("-1e9", "annotation 77: a coordinate of -1e+09 px"),
        ("1e999", "annotation 77: a coordinate of inf px"),
        ("1" + "0" * 30, "annotation 77: a coordinate of 1e+30 px"),
        ("1" + "0" * 400, "annotation 77: a coordinate that is not a number of pixels"),
        ("Infinity", "is not a COCO instances file: Infinity is not a number of JSON"),
        ("-Infinity", "is not a COCO instances file: -Infinity is not a number of JSON"),
        ("NaN", "is not a COCO instances file: NaN is not a number of JSON"),
        ('"5"', "annotation 77: not a mask of its image"),
        ("null", "annotation 77: not a mask of its image"),
        ("[5]", "annotation 77: not a mask of its image"),
        ("true", "annotation 77: not a mask of its image"),
        ("[" * 100_000, "is not a COCO instances file"),
    ],
)
def test_a_coordinate_that_is_none_is_refused_before_ray_starts(
    tmp_path: Path, text: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = _with_text(tmp_path / "data", text)
    out = tmp_path / "out"
    options = ("network.name=builtin", "network.pretrained=false", "method=supervised")
    assert segray("train", f"out={out}", "data.kind=coco", f"data.root={root}", *options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert why in line
    assert not out.exists()


def test_points_outside_of_the_image_are_clipped(tmp_path: Path) -> None:
    over = [-1.5, -0.5, WIDTH + 1, -0.5, WIDTH + 1, HEIGHT + 0.75, -1.5, HEIGHT + 0.75]
    data = opened(coco_set(tmp_path, [annotation(1, 1, 1, [over])]), kind="coco")
    assert (LabelledImages(data.labelled)[0][1] == 1).all()


def _counts(mask: np.ndarray[Any, Any]) -> bytes:
    return coco_mask.encode(np.asfortranarray(mask))["counts"]


WHOLE = _counts(np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH) % 3 // 2).decode()
LARGER = _counts(np.ones((4000, 4000), np.uint8)).decode()


@pytest.mark.parametrize(
    "counts",
    [
        [HEIGHT * WIDTH + 1],
        [0, 10**9],
        [-5, HEIGHT * WIDTH + 5],
        [1 << 62, 1 << 62, 1 << 62, 1 << 62, HEIGHT * WIDTH],
        [10**40],
        [1.5, HEIGHT * WIDTH - 1.5],
        ["a"],
        [],
        "",
        LARGER,
        WHOLE[:-1] + "o",
        "o" * 40,
        "oooooooooooooo0",
        WHOLE + "\0",
        WHOLE + "é",
    ],
)
def test_run_lengths_that_are_not_those_of_the_image_are_refused(tmp_path: Path, counts: Any) -> None:
    segmentation = {"size": [HEIGHT, WIDTH], "counts": counts}
    root = coco_set(tmp_path, [annotation(77, 1, 1, segmentation, crowd=1)])
    assert "annotations/instances_train2017.json#1, annotation 77: run lengths" in refusal(root, kind="coco")


@pytest.mark.parametrize(
    ("size", "why"),
    [((40_000, 50_000), "#1 is 50000x40000 pixels, its image"), ((float(HEIGHT), WIDTH), "")],
)
def test_the_size_in_the_file_is_not_believed(tmp_path: Path, size: tuple[float, float], why: str) -> None:
    images = [{"id": 1, "file_name": f"{1:012}.jpg", "height": size[0], "width": size[1]}]
    root = coco_set(tmp_path, [annotation(1, 1, 1, [[0, 0, 9, 0, 9, 9]])], images=images)
    if why:
        assert why in refusal(root, kind="coco")
    else:
        assert LabelledImages(opened(root, kind="coco").labelled)[0][1].shape == (HEIGHT, WIDTH)


TRIANGLE = [0, 0, 9, 0, 9, 9]


@pytest.mark.parametrize(
    ("annotations", "why"),
    [
        (
            [annotation(i, 1, 1, [TRIANGLE]) for i in range(coco_masks.MAX_ANNOTATIONS + 1)],
            "#1: 10001 annotations (allowed: at most 10000 per image)",
        ),
        (
            [annotation(5, 1, 1, [TRIANGLE] * (coco_masks.MAX_POLYGONS + 1))],
            "annotation 5: 1001 polygons (allowed: at most 1000)",
        ),
        (
            [annotation(5, 1, 1, [[0, 0, WIDTH, HEIGHT] * 100_000])],
            "annotation 5: an outline of 3400000 px (allowed: at most 2000000)",
        ),
        (
            [annotation(i, 1, 1, [[0, 0, WIDTH, HEIGHT] * 50_000]) for i in range(13)],
            "#1: 13 annotations with outlines of 22100000 px are too many for one image",
        ),
    ],
)
def test_more_annotations_than_an_image_can_have_are_refused(
    tmp_path: Path, annotations: list[dict[str, Any]], why: str
) -> None:
    assert why in refusal(coco_set(tmp_path, annotations), kind="coco")


@pytest.mark.parametrize(
    "change",
    [
        {"annotations": [{**annotation(1, 1, 1, []), "id": "x"}]},
        {"annotations": [{**annotation(1, 1, 1, []), "image_id": [1]}]},
        {"annotations": [annotation(1, 1, 1, []), 5]},
        {"categories": [{"id": 1e999, "name": "x"}]},
        {"images": [{"id": 1, "file_name": 7, "height": 1, "width": 1}]},
        {"images": [{"id": 1, "file_name": "x.jpg", "height": "tall", "width": 1}]},
    ],
)
def test_values_of_another_kind_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    root = coco_set(tmp_path)
    path = root / "annotations" / "instances_train2017.json"
    content = json.dumps({**json.loads(path.read_text()), **change})
    path.write_text(content.replace("Infinity", "1e999"))
    assert "is not a COCO instances file" in refusal(root, kind="coco")

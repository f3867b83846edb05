"""LabelMe's JSON files and CVAT's XML as training's data."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segray.pipelines.training.data.datasets import LabelledImages
from tests.pipelines.training.data.small_sets import HEIGHT, WIDTH, draw_image, names, opened, refusal


def shape(label: str, points: list[Any], kind: str = "polygon", **more: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "shape_type": kind, **more}


SQUARE = [[0, 0], [4, 0], [4, 4], [0, 4]]


def labelme_set(root: Path, *shapes: dict[str, Any], folder: str = "") -> Path:
    """Two images for training and one for validation, each with all shapes."""
    for name in ("train/a", "train/b", "val/c"):
        draw_image(root / "pictures" / f"{name}.jpg")
        path = root / (folder or "pictures") / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = f"..\\pictures\\{name}.jpg" if folder else f"{name[-1]}.jpg"
        content = {"imagePath": image, "imageHeight": HEIGHT, "imageWidth": WIDTH, "imageData": None}
        path.write_text(json.dumps({**content, "shapes": list(shapes)}))
    return root


def first(root: Path, kind: str, **keys: Any) -> np.ndarray[Any, Any]:
    mask: np.ndarray[Any, Any] = LabelledImages(opened(root, kind=kind, **keys).labelled)[0][1].numpy()
    return mask


@pytest.mark.parametrize("folder", ["", "json"])
def test_labelme_polygons(tmp_path: Path, folder: str) -> None:
    shapes = (
        shape("dog", SQUARE),
        shape("cat", [[2, 2], [6, 2], [6, 6], [2, 6]]),
        shape("dog", [[1, 1]], "point"),
    )
    data = opened(labelme_set(tmp_path, *shapes, folder=folder), kind="labelme")
    assert data.space.classes == ("background", "cat", "dog")
    assert names(data.labelled) == ["pictures/train/a.jpg", "pictures/train/b.jpg"]
    assert names(data.validation) == ["pictures/val/c.jpg"]
    mask = LabelledImages(data.labelled)[0][1].numpy()
    # The later shape lies on top.
    assert (mask[0, 0], mask[3, 3], mask[5, 5], mask[8, 8]) == (2, 1, 1, 0)
    assert any(line.startswith("3 shapes have no area (points and lines)") for line in data.left_out)


def in_base64(mask: np.ndarray[Any, Any]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.mark.parametrize(
    "mark",
    [
        shape("cat", [[3, 2], [7, 6]], "rectangle"),
        shape("cat", [[3, 2], [6, 5]], "mask", mask=in_base64(np.ones((4, 4), bool))),
        shape("cat", [[5, 4], [5, 6.2]], "circle"),
    ],
)
def test_labelme_shapes_with_an_area(tmp_path: Path, mark: dict[str, Any]) -> None:
    mask = first(labelme_set(tmp_path, mark), "labelme")
    assert (mask[3:5, 4:6] == 1).all()
    assert 14 <= mask.sum() <= 20


def test_names_for_no_class_and_names_that_are_not_chosen(tmp_path: Path) -> None:
    shapes = (
        shape("__ignore__", SQUARE),
        shape("_background_", [[1, 1], [3, 1], [3, 3], [1, 3]]),
        shape("Cat", [[8, 8], [9, 8], [9, 9]]),
    )
    mask = first(labelme_set(tmp_path, *shapes), "labelme")
    assert (mask[0, 0], mask[2, 2]) == (255, 0)
    data = opened(tmp_path, kind="labelme", classes="dog")
    assert any("name that the class list leaves out" in line and "Cat" in line for line in data.left_out)


@pytest.mark.parametrize(
    ("mark", "why"),
    [
        (shape("cat", [[0, 0], [1e9, 0], [5, 5]]), "a.json, annotation 1: a coordinate of 1e+09 px"),
        (shape("cat", [[0, 0], [1]]), "is not a LabelMe file"),
        (shape("cat", SQUARE, "spiral"), "a shape of the type 'spiral'"),
        (shape("cat", SQUARE, "mask", mask="!"), "a mask that is no PNG"),
        ({"points": SQUARE}, "is not a LabelMe file: no 'label'"),
    ],
)
def test_labelme_files_that_are_damaged_are_refused(tmp_path: Path, mark: dict[str, Any], why: str) -> None:
    assert why in refusal(labelme_set(tmp_path, mark), kind="labelme")


def test_without_a_labelme_file(tmp_path: Path) -> None:
    draw_image(tmp_path / "a.jpg")
    assert refusal(tmp_path, kind="labelme") == f"data.root={tmp_path}: no JSON file"


CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version>
<meta><job><labels><label><name>dog</name><color>#ff0000</color></label>
<label><name>cat</name></label></labels></job></meta>
<image id="0" name="a.jpg" width="16" height="12">{}</image>
<image id="1" name="sub/b.jpg" subset="Validation" width="16" height="12">
<box label="cat" xtl="0" ytl="0" xbr="3" ybr="3"/></image>
<image id="2" name="gone.jpg" width="16" height="12"></image>
</annotations>"""
LOW = '<polygon label="cat" points="0.00,0.00;8.00,0.00;8.00,8.00;0.00,8.00" z_order="0"/>'
HIGH = '<mask label="dog" rle="1, 2, 1" left="2" top="2" width="2" height="2" z_order="1"/>'


def cvat_set(root: Path, *shapes: str) -> Path:
    draw_image(root / "images" / "a.jpg")
    draw_image(root / "images" / "sub" / "b.jpg")
    (root / "annotations.xml").write_text(CVAT.format("".join(shapes)))
    return root


def test_cvat_shapes_lie_in_the_order_of_z(tmp_path: Path) -> None:
    root = cvat_set(tmp_path, HIGH, LOW, '<points label="cat" points="1,1" z_order="0"/>')
    data = opened(root, kind="cvat")
    assert data.space.classes == ("background", "dog", "cat")
    assert (names(data.labelled), names(data.validation)) == (["images/a.jpg"], ["images/sub/b.jpg"])
    mask = LabelledImages(data.labelled)[0][1].numpy()
    assert mask[2:4, 2:4].tolist() == [[2, 1], [1, 2]]
    assert (mask[:8, :8] > 0).all()
    assert len(data.left_out) == 2
    renamed = root / "other.xml"
    (root / "annotations.xml").rename(renamed)
    assert refusal(root, kind="cvat").startswith("data.annotations: no file 'annotations.xml'")
    assert names(opened(root, kind="cvat", annotations="other.xml", images="images").labelled) == [
        "images/a.jpg"
    ]


BOMB = """<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "cccccccccc"><!ENTITY d "&b;&b;&b;">]>
<annotations>&d;</annotations>"""


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (BOMB, "is refused: it declares entities or a document type"),
        ("<annotations>", "is not XML"),
        ("<svg/>", "is not a file of CVAT: its root is <svg>"),
        ("<annotations><track/></annotations>", "holds tracks of a video"),
        (
            CVAT.format('<mask label="dog" rle="99999999" left="0" top="0" width="2" height="2"/>'),
            "run lengths that are not those of a mask of 2x2",
        ),
        (
            CVAT.format('<mask label="dog" rle="4" left="15" top="0" width="2" height="2"/>'),
            "a mask outside of its image",
        ),
        (CVAT.format('<polygon label="dog" points="0,0;nan,1;2,2"/>'), "a coordinate of nan px"),
        (CVAT.format('<polygon points="0,0;1,1;2,2"/>'), "<polygon> without label"),
    ],
)
def test_cvat_files_that_are_damaged_or_made_to_harm_are_refused(tmp_path: Path, text: str, why: str) -> None:
    (cvat_set(tmp_path) / "annotations.xml").write_text(text)
    assert why in refusal(tmp_path, kind="cvat")


def test_keys_of_mask_files_are_refused(tmp_path: Path) -> None:
    text = refusal(cvat_set(tmp_path), kind="cvat", colors="voc")
    assert text == "data.colors: only for masks in files; those of cvat are drawn from outlines"


@pytest.mark.parametrize(
    ("labels", "classes"), [(("cat", "ignored"), ("cat",)), (("ignored", "Ignored pixels"), ("ignored",))]
)
def test_the_label_of_ignored_pixels_is_the_one_that_segray_writes_beside_the_others(
    tmp_path: Path, labels: tuple[str, ...], classes: tuple[str, ...]
) -> None:
    shapes = [
        shape(name, [[3 * i, 0], [3 * i + 2, 0], [3 * i + 2, 2], [3 * i, 2]]) for i, name in enumerate(labels)
    ]
    root = labelme_set(tmp_path, *shapes)
    assert opened(root, kind="labelme").space.classes == ("background", *classes)
    mask = first(root, "labelme")
    assert [int(mask[1, 3 * i + 1]) for i in range(len(labels))] == [*range(1, 1 + len(classes)), 255]

"""More classes than 8 bits hold, from 16-bit masks, COCO files and tables of colours."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from segray.models.label_space import MAX_CLASSES, WIDE_IGNORE_INDEX
from segray.pipelines.training.data.datasets import LabelledImages
from segray.pipelines.training.data.samples import Sample
from tests.pipelines.training.data.small_sets import annotation, box, coco_set, folder_set, opened, refusal

NAMES = [f"class {i}" for i in range(300)]
SHAPE = (12, 16)


def wide_mask(*rows: int) -> NDArray[np.uint16]:
    """Rows of ids on background, the last row ignored."""
    mask = np.zeros(SHAPE, np.uint16)
    for row, class_id in enumerate(rows):
        mask[row] = class_id
    mask[-1] = WIDE_IGNORE_INDEX
    return mask


def maps(samples: tuple[Sample, ...]) -> dict[str, torch.Tensor]:
    images = LabelledImages(samples)
    return {sample.image_id: images[i][1] for i, sample in enumerate(samples)}


def test_16_bit_masks_hold_their_whole_ids(tmp_path: Path) -> None:
    root = folder_set(tmp_path)
    masks = sorted((root / "masks").rglob("*.png"))
    for path in masks:
        Image.fromarray(wide_mask(255, 256, 300)).save(path)
    (root / "class_names.txt").write_text("\n".join(["background", *NAMES]))
    data = opened(root)
    assert (
        data.labelled_pixels.pixels[255] == data.labelled_pixels.pixels[300] == len(data.labelled) * SHAPE[1]
    )
    assert data.labelled_pixels.ignored == len(data.labelled) * SHAPE[1]
    for found in maps(data.labelled).values():
        assert found.dtype == torch.int32
        np.testing.assert_array_equal(found.numpy(), wide_mask(255, 256, 300))


def test_coco_files_of_many_categories(tmp_path: Path) -> None:
    root = coco_set(
        tmp_path, [annotation(1, 1, 299, box(0, 0, 2, 2)), annotation(2, 1, 4000, box(4, 4, 6, 6))]
    )
    path = root / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    categories = [{"id": i, "name": name} for i, name in enumerate(NAMES)]
    path.write_text(json.dumps({**content, "categories": categories}))
    (found, *_) = maps(opened(root, kind="coco").labelled).values()
    assert found[:2, :2].unique().tolist() == [300]
    # A category that the file does not list.
    assert found[4:6, 4:6].unique().tolist() == [WIDE_IGNORE_INDEX]


def test_tables_of_many_colours(tmp_path: Path) -> None:
    root = folder_set(tmp_path)
    (root / "class_names.txt").unlink()
    lines = ["background:0,0,0::", *(f"{name}:{i % 256},{i // 256},7::" for i, name in enumerate(NAMES))]
    (tmp_path / "labelmap.txt").write_text("\n".join(lines))
    picture = np.zeros((*SHAPE, 3), np.uint8)
    picture[3] = (299 % 256, 1, 7)
    for path in (root / "masks").rglob("*.png"):
        Image.fromarray(picture).save(path)
    data = opened(root, colors=str(tmp_path / "labelmap.txt"))
    assert all(found[3].unique().tolist() == [300] for found in maps(data.labelled).values())


def test_more_classes_than_a_label_set_holds_are_refused(tmp_path: Path) -> None:
    names = tuple(f"class {i}" for i in range(MAX_CLASSES + 1))
    text = refusal(folder_set(tmp_path), classes=names)
    assert "32767 classes (allowed: at most 32766 and background)" in text


@pytest.mark.parametrize("many", [False, True])
def test_ids_out_of_range_in_a_16_bit_mask_are_refused(tmp_path: Path, many: bool) -> None:
    root = folder_set(tmp_path)
    if many:
        (root / "class_names.txt").write_text("\n".join(["background", *NAMES]))
    Image.fromarray(np.full(SHAPE, 301, np.uint16)).save(root / "masks" / "train" / "00.png")
    allowed = "0 to 300 and 65535 (ignored)" if many else "0 to 2 and 255 (ignored)"
    assert f"holds id 301 (first at x=0, y=0); allowed: {allowed}" in refusal(root)

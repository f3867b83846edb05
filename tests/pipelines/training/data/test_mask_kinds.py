"""Masks that are named or coloured in another way than segray's, in training's data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segray.pipelines.training.data.datasets import LabelledImages
from tests.pipelines.training.data.small_sets import folder_set, mask_of, opened, refusal

PALETTE = np.array([(0, 0, 0), (250, 0, 0), (0, 0, 250)], np.uint8)


def colour_set(root: Path) -> Path:
    folder_set(root)
    for path in root.glob("masks/*/*.png"):
        ids = mask_of(1, 2)
        Image.fromarray(PALETTE[ids]).save(path)
    (root / "labelmap.txt").write_text("background:0,0,0::\ndog:0,0,250::\ncat:250,0,0::")
    return root


def test_colour_masks_are_read_by_a_table(tmp_path: Path) -> None:
    root = colour_set(tmp_path)
    text = refusal(root)
    assert "masks/train/00.png and 5 others: a mask of colours (RGB), not of ids: data.colors=FILE" in text
    assert "\n" not in text
    data = opened(root, colors=str(root / "labelmap.txt"))
    assert np.array_equal(LabelledImages(data.labelled)[0][1].numpy(), mask_of(1, 2))
    (root / "class_names.txt").unlink()
    # Without class names, the table's order counts.
    own = opened(root, colors=str(root / "labelmap.txt"))
    assert own.space.classes == ("background", "dog", "cat")
    assert np.array_equal(LabelledImages(own.labelled)[0][1].numpy(), mask_of(2, 1))


def test_binary_and_a_table_of_colours_do_not_go_together(tmp_path: Path) -> None:
    text = refusal(folder_set(tmp_path), colors="gray", binary=True)
    assert text == "data.binary: not with data.colors, whose table names all colours"


def renamed(root: Path, change: str) -> Path:
    for path in list(root.glob("masks/*/*.png")):
        path.rename(path.with_name(f"{path.stem}{change}"))
    return root


def test_masks_with_a_suffix_are_found_by_its_key(tmp_path: Path) -> None:
    root = renamed(folder_set(tmp_path), "_mask.png")
    text = refusal(root)
    assert text.startswith(
        f"data.root={root}: no image has a mask: for images/train/00.png, looked for train/00.png"
    )
    assert "masks has train/00_mask.png; data.mask_suffix=_mask finds train/00_mask.png" in text
    for suffix in ("_mask", "_mask.png"):
        data = opened(root, mask_suffix=suffix)
        assert len(data.labelled) == 4
        assert LabelledImages(data.labelled)[0][1].unique().tolist() == [0, 1, 2, 255]


def test_a_part_of_the_images_name_can_be_replaced(tmp_path: Path) -> None:
    root = renamed(folder_set(tmp_path), "_gtFine_labelTrainIds.png")
    for path in list(root.glob("images/*/*.png")):
        path.rename(path.with_name(f"{path.stem}_leftImg8bit.png"))
    assert len(opened(root, mask_suffix="_leftImg8bit:_gtFine_labelTrainIds").labelled) == 4


@pytest.mark.parametrize("ending", [".tif", ".TIFF", ".bmp"])
def test_masks_of_other_lossless_formats(tmp_path: Path, ending: str) -> None:
    root = folder_set(tmp_path)
    for path in list(root.glob("masks/*/*.png")):
        Image.open(path).save(path.with_suffix(ending))
        path.unlink()
    data = opened(root)
    assert len(data.labelled) == 4
    assert LabelledImages(data.labelled)[0][1].unique().tolist() == [0, 1, 2, 255]


def test_lossy_masks_are_refused_and_not_taken_for_no_mask(tmp_path: Path) -> None:
    root = folder_set(tmp_path)
    path = root / "masks" / "train" / "01.png"
    Image.open(path).save(path.with_suffix(".jpg"))
    path.unlink()
    text = refusal(root)
    assert text.startswith(f"mask {path.with_suffix('.jpg')}: JPEG is lossy, it mixes ids along every edge")

"""Masks that are named or coloured in another way than segray's, in training's data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from segray.pipelines.training.data.datasets import LabelledImages
from tests.pipelines.training.data.small_sets import folder_set, mask_of, opened, refusal, write_mask

PALETTE = np.array([(0, 0, 0), (250, 0, 0), (0, 0, 250)], np.uint8)


def labelled(root: Path, **keys: Any) -> list[list[list[int]]]:
    """The masks of the labelled images."""
    images = LabelledImages(opened(root, **keys).labelled)
    return [images[i][1].tolist() for i in range(len(images))]


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


@pytest.mark.parametrize(
    ("suffix", "mask"),
    [
        ("mask_*", "mask_{}.png"),
        ("*/mask", "{}/mask.png"),
        ("0*:gt-*", "gt-{:.1}.png"),
    ],
)
def test_masks_with_the_name_of_the_image_inside(tmp_path: Path, suffix: str, mask: str) -> None:
    root = folder_set(tmp_path / "set")
    expected = labelled(root)
    for path in sorted(root.glob("masks/*/*.png")):
        stem = path.stem if "{}" in mask else path.stem[1:]
        new = path.parent / mask.format(stem)
        new.parent.mkdir(exist_ok=True)
        path.rename(new)
    if suffix != "0*:gt-*":
        text = refusal(root)
        assert f"data.mask_suffix={suffix} finds train/" in text
    assert labelled(root, mask_suffix=suffix) == expected


def rewritten(root: Path, change: Callable[[NDArray[np.uint8]], NDArray[Any]], ending: str = ".png") -> Path:
    """The data set with its masks changed; ids alone, without ignored pixels."""
    for path in sorted(root.glob("masks/*/*.png")):
        ids = np.array(Image.open(path))
        changed = change(np.where(ids == 255, 0, ids).astype(np.uint8))
        path.unlink()
        if ending == ".npy":
            np.save(path.with_suffix(ending), changed)
        else:
            Image.fromarray(changed).save(path.with_suffix(ending))
    return root


def test_binary_masks_of_16_bits_are_binary_masks(tmp_path: Path) -> None:
    root = rewritten(folder_set(tmp_path / "set"), lambda ids: (ids > 0).astype(np.uint16) * np.uint16(65535))
    keys: dict[str, Any] = {"classes": "cat", "validation": "none"}
    assert "data.binary=true reads 255 as class 1 (cat)" in refusal(root, **keys)
    assert "data.binary=true reads 255 as class 1 (cat)" in refusal(root, **keys, ignore_index=65535)
    pixels = opened(root, **keys, binary=True).labelled_pixels
    assert pixels.pixels[1] > 0 == pixels.ignored


def test_ids_that_begin_with_1_are_told_so(tmp_path: Path) -> None:
    root = rewritten(folder_set(tmp_path / "set"), lambda ids: ids + 1)
    text = refusal(root, validation="none")
    assert "its ids seem to begin with 1: line 1 of the class list is id 0" in text
    assert "ignores these pixels" not in text


def surrounded(root: Path, rows: int = 3) -> Path:
    """A set whose masks have 255 where the background was, in so many rows, and else class 2."""

    def change(ids: NDArray[np.uint8]) -> NDArray[np.uint8]:
        around = np.where(np.arange(len(ids))[:, None] < rows, np.uint8(255), np.uint8(2))
        return np.where(ids == 0, around, ids).astype(np.uint8)

    return rewritten(folder_set(root), change)


def test_masks_whose_background_is_255_stop_the_command(tmp_path: Path) -> None:
    root = surrounded(tmp_path / "set", rows=12)
    text = refusal(root)
    assert "no pixel has id 0 (background), and 88 % have 255, which is ignored" in text
    assert "data.colors=FILE reads it so, with a line for each class as in background: 255,255,255" in text
    assert text.endswith("data.ignore_index=255 ignores it")
    table = tmp_path / "ids.txt"
    table.write_text("background: 255,255,255\ncat: 1,1,1\ndog: 2,2,2\n")
    pixels = opened(root, colors=str(table)).labelled_pixels
    assert pixels.pixels[0] > pixels.pixels[1] > 0 == pixels.ignored
    assert opened(root, ignore_index=255).labelled_pixels.pixels[0] == 0
    # Only a class that is called background is missed.
    (root / "class_names.txt").write_text("sky\ncat\ndog\n")
    assert opened(root).labelled_pixels.ignored > 0


def test_ignored_outlines_in_masks_without_a_background_are_no_background(tmp_path: Path) -> None:
    root = surrounded(tmp_path / "set", rows=3)
    assert opened(root).labelled_pixels.absent == [0]


def test_a_background_in_one_mask_is_enough(tmp_path: Path) -> None:
    root = surrounded(tmp_path / "set", rows=12)
    write_mask(root / "masks" / "val" / "06.png", mask_of(1))
    assert opened(root).labelled_pixels.absent == [0]


def test_ids_that_begin_with_1_are_read_as_colours(tmp_path: Path) -> None:
    root = rewritten(folder_set(tmp_path / "set"), lambda ids: ids + 1)
    assert "data.colors=FILE reads ids as colours, with lines as in background: 1,1,1" in refusal(root)
    table = tmp_path / "ids.txt"
    table.write_text("background: 1,1,1\ncat: 2,2,2\ndog: 3,3,3\n")
    assert opened(root, colors=str(table)).labelled_pixels.absent == []


def test_greys_that_stand_for_classes_name_the_table(tmp_path: Path) -> None:
    root = rewritten(folder_set(tmp_path / "set"), lambda ids: ids * 100)
    assert "if the greys 0, 100, 200 stand for classes, data.colors=FILE reads them" in refusal(root)
    table = tmp_path / "greys.txt"
    table.write_text("background: 0,0,0\ncat: 100,100,100\ndog: 200,200,200\n")
    pixels = opened(root, colors=str(table), validation="none").labelled_pixels
    assert all(pixels.pixels)


def test_an_array_of_one_channel_per_class_is_no_mask(tmp_path: Path) -> None:
    root = rewritten(folder_set(tmp_path / "set"), lambda ids: np.eye(3, dtype=np.uint8)[ids], ".npy")
    assert "uint8 [12, 16, 3]; a mask is an array [H, W] of whole numbers" in refusal(root)


def test_masks_of_turned_images_are_told_of_exif(tmp_path: Path) -> None:
    root = rewritten(folder_set(tmp_path / "set"), np.rot90)
    assert "the sides are exchanged: images are turned upright by EXIF" in refusal(root)


def test_what_lies_in_a_folder_without_masks_is_named(tmp_path: Path) -> None:
    root = folder_set(tmp_path / "set")
    for path in sorted(root.glob("masks/*/*.png")):
        path.rename(path.with_suffix(".mat"))
    assert "masks: no mask there (6 files with other endings left out (.mat 6))" in refusal(root)
    (root / "masks").rename(root / "gt")
    text = refusal(root)
    assert f"there is no masks in {root} (it has class_names.txt, gt, images); data.masks=FOLDER" in text

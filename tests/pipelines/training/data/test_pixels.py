"""What masks hold: binary ones, ignored pixels, classes without a pixel; in training's data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segray.pipelines.config.commands.train import DataConfig, TrainConfig
from segray.pipelines.errors import UserError
from segray.pipelines.training.data.coco_area import area
from segray.pipelines.training.data.datasets import LabelledImages
from segray.pipelines.training.data.summary import check_pixels, data_lines
from segray.pipelines.understood import PixelCounts
from tests.pipelines.training.data.small_sets import (
    HEIGHT,
    WIDTH,
    annotation,
    box,
    coco_set,
    folder_set,
    mask_of,
    opened,
    refusal,
    voc_set,
    write_mask,
)


def binary_set(root: Path, names: str = "background\nobject\n") -> Path:
    """Masks of 0 and 255, as `mask > 0` times 255."""
    folder_set(root)
    for path in root.glob("masks/*/*.png"):
        write_mask(path, np.where(mask_of(1) > 0, np.uint8(255), np.uint8(0)))
    (root / "class_names.txt").write_text(names)
    return root


def lines_of(root: Path, method: str = "supervised", **keys: Any) -> list[str]:
    data = DataConfig.model_validate({"root": str(root), **keys})
    config = TrainConfig(out="run", data=data, method=method)
    return data_lines(config, opened(root, **keys))


def test_masks_of_0_and_255_stop_the_command_with_the_key_that_settles_it(tmp_path: Path) -> None:
    text = refusal(binary_set(tmp_path))
    assert "these look like binary masks: object = 255" in text
    assert "data.binary=true reads 255 as class 1 (object), data.binary=false ignores these pixels" in text
    # Also with few labelled images, of which each mask may be all background.
    assert "binary masks" in refusal(tmp_path, labelled="1")


def test_binary_true_reads_255_as_class_1(tmp_path: Path) -> None:
    data = opened(binary_set(tmp_path), binary=True)
    _, mask = LabelledImages(data.labelled)[0]
    assert mask.unique().tolist() == [0, 1]
    assert (data.labelled_pixels.pixels, data.labelled_pixels.ignored) == ((4 * 11 * WIDTH, 4 * WIDTH), 0)


def test_binary_false_ignores_255_and_names_the_class_that_is_left_without_a_pixel(tmp_path: Path) -> None:
    lines = lines_of(binary_set(tmp_path), binary=False)
    assert "ignored 8.3 % of the pixels" in lines[2]
    assert lines[4].startswith("not taught  no labelled mask has object (1 of 2 classes)")


def test_one_id_between_makes_masks_of_ids(tmp_path: Path) -> None:
    root = binary_set(tmp_path)
    write_mask(root / "masks" / "val" / "06.png", mask_of(1, void=255))
    assert opened(root).validation_pixels.pixels[1] == WIDTH


def test_binary_needs_two_classes(tmp_path: Path) -> None:
    text = refusal(binary_set(tmp_path, "background\ncat\ndog\n"), binary=True)
    assert text.endswith("the class list has 3: background, cat, dog")
    assert text.startswith("data.binary=true: masks of 0 and 255 have two classes")
    (tmp_path / "class_names.txt").write_text("object\n")
    assert refusal(tmp_path, binary=True).endswith("the class list has 1: object")


def test_binary_masks_with_another_ignore_index_name_the_key(tmp_path: Path) -> None:
    text = refusal(binary_set(tmp_path), ignore_index=9)
    assert "holds id 255" in text
    assert "this looks like a binary mask: object = 255; data.binary=true reads it as one" in text


def test_binary_is_refused_where_no_png_mask_is_read(tmp_path: Path) -> None:
    assert refusal(coco_set(tmp_path), kind="coco", binary=True).startswith("data.binary: only for masks in")


def test_binary_masks_in_voc_folders(tmp_path: Path) -> None:
    root = voc_set(tmp_path)
    for path in [*root.glob("SegmentationClass*/*.png")]:
        write_mask(path, mask_of(255))
    assert "these look like binary masks: object = 255" in refusal(root, kind="voc")
    assert opened(root, kind="voc", classes="thing", binary=True).labelled_pixels.pixels[1] == 4 * WIDTH


def test_classes_that_no_labelled_mask_has_are_named_with_the_remedy(tmp_path: Path) -> None:
    root = folder_set(tmp_path)
    (root / "l.txt").write_text("01.png\n")
    lines = lines_of(root, labelled=str(root / "l.txt"))
    assert lines[:2] == [
        "classes     0 background, 1 cat, 2 dog",
        "images      1 labelled, 5 unlabelled, 2 validation",
    ]
    assert lines[2] == "labelled    1 mask: background 90.9 %, cat 9.1 %; ignored 8.3 % of the pixels"
    assert lines[4] == (
        "not taught  no labelled mask has dog (1 of 3 classes): they cannot be learnt; "
        "label images that show them, or raise data.labelled"
    )
    assert "only zero-shot labels teach them" in lines_of(root, "segray", labelled=str(root / "l.txt"))[4]
    assert len(lines_of(root)) == 4


def test_masks_without_id_0_may_have_ids_from_1(tmp_path: Path) -> None:
    root = folder_set(tmp_path)
    for path in root.glob("masks/*/*.png"):
        write_mask(path, np.where(mask_of(1) == 0, np.uint8(1), np.uint8(2)))
    assert lines_of(root)[4] == (
        "ids         no mask has id 0 (background); if the ids of the masks begin with 1, data.colors=FILE "
        "reads them, with a line for each class as in background: 1,1,1"
    )
    table = tmp_path / "ids.txt"
    table.write_text("background: 1,1,1\ncat: 2,2,2\n")
    assert not [line for line in lines_of(root, colors=str(table)) if line.startswith("ids")]
    # Where 0 is ignored, the masks may have any number of it.
    assert not [line for line in lines_of(root, ignore_index=0) if line.startswith("ids")]


def test_a_class_that_no_validation_mask_has_is_named(tmp_path: Path) -> None:
    root = folder_set(tmp_path)
    write_mask(root / "masks" / "val" / "06.png", mask_of(1))
    line = "not tested  no validation mask has dog (1 of 3 classes): mIoU leaves them out"
    assert lines_of(root)[-1] == line


@pytest.mark.parametrize("part", ["train", "val"])
def test_masks_of_ignored_pixels_alone_are_refused(tmp_path: Path, part: str) -> None:
    root = folder_set(tmp_path)
    for path in root.glob(f"masks/{part}/*.png"):
        write_mask(path, np.full((HEIGHT, WIDTH), 255, np.uint8))
    name = "labelled" if part == "train" else "validation"
    with pytest.raises(UserError, match=rf"^data\.{name}: all pixels of its \d masks are ignored; "):
        check_pixels(opened(root))


def test_mostly_ignored_masks_ask_about_the_ignore_index() -> None:
    assert (
        PixelCounts(1, (4, 0), 6)
        .text(("a", "b"))
        .endswith("ignored 60.0 % of the pixels (is data.ignore_index right?)")
    )


def test_areas_of_coco_annotations_are_counted_without_rendering(tmp_path: Path) -> None:
    data = opened(coco_set(tmp_path), kind="coco")
    # Boxes of 4i x 6 pixels of person, dog and toothbrush in three images; the fourth has none.
    assert data.labelled_pixels.pixels == (4 * HEIGHT * WIDTH - 144, 24, 48, 72)
    rle = annotation(1, 1, 1, {"size": [HEIGHT, WIDTH], "counts": [5, 3, 4, 2, HEIGHT * WIDTH - 14]})
    assert area(rle["segmentation"]) == 5
    assert area(box(0, 0, 3, 3) + box(5, 5, 6, 7)) == 11

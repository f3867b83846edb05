from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from segray.pipelines.training.data.samples import Sample
from segray.pipelines.training.data.splits import write_split
from tests.pipelines.training.data.small_sets import (
    coco_set,
    draw_image,
    folder_set,
    mask_of,
    names,
    opened,
    refusal,
    voc_set,
    write_mask,
)


def split(folder: Path, *lines: str) -> str:
    path = folder / "split.txt"
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def test_the_format_is_unimatchs(tmp_path: Path) -> None:
    samples = [
        Sample("JPEGImages/x.jpg", "/d/JPEGImages/x.jpg", "/d/S/x.png", "SegmentationClass/x.png"),
        Sample("JPEGImages/y.jpg", "/d/JPEGImages/y.jpg"),
        Sample("JPEGImages/a b.jpg", "/d/JPEGImages/a b.jpg"),
    ]
    write_split(str(tmp_path / "deep" / "s.txt"), samples)
    assert (tmp_path / "deep" / "s.txt").read_text() == (
        "JPEGImages/x.jpg SegmentationClass/x.png\nJPEGImages/y.jpg\nJPEGImages/a b.jpg\t\n"
    )


@pytest.mark.parametrize(("kind", "build"), [("folder", folder_set), ("voc", voc_set), ("coco", coco_set)])
def test_what_was_drawn_is_read_back_as_it_was(
    tmp_path: Path, kind: str, build: Callable[[Path], Path]
) -> None:
    root = build(tmp_path / "set")
    drawn = opened(root, seed=3, kind=kind, labelled="2")
    files = {}
    for name in ("labelled", "unlabelled", "validation"):
        files[name] = str(tmp_path / f"{name}.txt")
        write_split(files[name], getattr(drawn, name))
    reread = opened(root, seed=99, kind=kind, **files)
    assert len(reread.labelled) == 2
    assert reread.labelled == drawn.labelled
    assert reread.validation == drawn.validation
    assert names(reread.unlabelled) == names(drawn.unlabelled)


def test_names_with_spaces_go_round(tmp_path: Path) -> None:
    root = folder_set(tmp_path / "set")
    draw_image(root / "images" / "train" / "a cat.png")
    write_mask(root / "masks" / "train" / "a cat.png", mask_of(1))
    draw_image(root / "images" / "train" / "no mask.png")
    first = opened(root)
    write_split(str(tmp_path / "l.txt"), first.labelled)
    write_split(str(tmp_path / "u.txt"), first.unlabelled)
    reread = opened(root, labelled=str(tmp_path / "l.txt"), unlabelled=str(tmp_path / "u.txt"))
    assert "images/train/a cat.png" in names(reread.labelled)
    assert "images/train/no mask.png" in names(reread.unlabelled)
    assert reread == first


def test_images_are_found_by_any_end_of_their_path(tmp_path: Path) -> None:
    root = folder_set(tmp_path / "set")
    lines = [
        "images/train/00.png",
        "train/01.png masks/train/01.png",
        "02",
        "/elsewhere/set/images/train/03.png",
    ]
    data = opened(root, labelled=split(tmp_path, *lines))
    assert names(data.labelled) == [f"images/train/0{i}.png" for i in range(4)]


def test_a_split_names_another_mask(tmp_path: Path) -> None:
    root = folder_set(tmp_path / "set")
    write_mask(root / "masks" / "second" / "00.png", mask_of(2))
    data = opened(root, labelled=split(tmp_path, "images/train/00.png masks/second/00.png"))
    assert data.labelled[0].mask == str(root / "masks" / "second" / "00.png")


def test_an_unlabelled_list_is_taken_as_it_is(tmp_path: Path) -> None:
    root = folder_set(tmp_path / "set")
    data = opened(root, labelled="2", unlabelled=split(tmp_path, "train/05.png", "train/04.png"))
    assert names(data.unlabelled) == ["images/train/05.png", "images/train/04.png"]


def test_bad_lines_are_listed_with_their_numbers(tmp_path: Path) -> None:
    root = folder_set(tmp_path / "set")
    draw_image(root / "images" / "val" / "00.png")
    write_mask(root / "masks" / "val" / "00.png", mask_of(1))
    bad = ["gone.png", "01.png", "01.png", "00.png", "02.png masks/train/77.png"]
    text = refusal(root, labelled=split(tmp_path, *bad))
    where = f"data.labelled={tmp_path / 'split.txt'}, line"
    both = "images/train/00.png or images/val/00.png"
    assert text.split("\n  ") == [
        "4 bad lines in a split file:",
        f"{where} 1: no image gone.png in the data set",
        f"{where} 3: image images/train/01.png is listed twice",
        f"{where} 4: image 00.png could be {both}; write more of its path",
        f"{where} 5: no mask masks/train/77.png in {root}",
    ]


def test_a_labelled_image_without_a_mask_is_refused(tmp_path: Path) -> None:
    root = folder_set(tmp_path / "set")
    text = refusal(root, labelled=split(tmp_path, "train/05.png"))
    assert text.startswith(f"image images/train/05.png has no mask in {root}: looked for train/05.png")


def test_learning_from_validation_images_is_refused(tmp_path: Path) -> None:
    root = folder_set(tmp_path / "set")
    text = refusal(root, labelled=split(tmp_path, "train/00.png", "val/06.png"))
    assert text.startswith("data.labelled and data.validation share 1 images, such as images/val/06.png")


@pytest.mark.parametrize("key", ["labelled", "unlabelled", "validation"])
def test_missing_and_empty_split_files(tmp_path: Path, key: str) -> None:
    root = folder_set(tmp_path / "set")
    text = refusal(root, **{key: "nosuch.txt"})
    assert text.startswith(f"data.{key}: no file 'nosuch.txt' (allowed: a split file")
    assert refusal(root, **{key: split(tmp_path, "")}).startswith(
        f"data.{key}={tmp_path}/split.txt: no image"
    )

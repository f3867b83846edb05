from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segray.pipelines.commands.picture_book import run as draw_book
from segray.pipelines.config.commands.picture_book import PictureBookConfig
from segray.pipelines.io.label_png import encode_gray_png
from segray.pipelines.training.data.datasets import LabelledImages
from tests.pipelines.training.data.small_sets import (
    CLASSES,
    HEIGHT,
    WIDTH,
    draw_image,
    folder_set,
    mask_of,
    names,
    opened,
    refusal,
    shared,
    write_mask,
)


def test_parts_masks_and_classes(tmp_path: Path) -> None:
    data = opened(folder_set(tmp_path))
    assert data.space.classes == CLASSES
    assert names(data.labelled) == [f"images/train/0{i}.png" for i in range(4)]
    assert names(data.unlabelled) == ["images/train/04.png", "images/train/05.png"]
    assert names(data.validation) == ["images/val/06.png", "images/val/07.png"]
    assert data.labelled[0].mask == str(tmp_path / "masks" / "train" / "00.png")


def test_what_is_drawn_leaves_the_rest_unlabelled(tmp_path: Path) -> None:
    folder_set(tmp_path)
    data = opened(tmp_path, labelled="1/2")
    assert len(data.labelled) == 2
    assert sorted(names(data.labelled) + names(data.unlabelled)) == [
        f"images/train/0{i}.png" for i in range(6)
    ]
    assert opened(tmp_path, labelled="1/2") == data
    draws = {tuple(names(opened(tmp_path, seed=seed, labelled="1/2").labelled)) for seed in range(8)}
    assert len(draws) > 1


def test_without_a_val_part_a_fifth_of_the_masks_is_put_aside(tmp_path: Path) -> None:
    data = opened(folder_set(tmp_path, train=12, val=0, flat=True))
    assert (len(data.labelled), len(data.unlabelled), len(data.validation)) == (8, 2, 2)
    assert not {*names(data.labelled), *names(data.unlabelled)} & {*names(data.validation)}
    half = opened(tmp_path, labelled="2", validation="1/2")
    assert (len(half.labelled), len(half.unlabelled), len(half.validation)) == (2, 5, 5)


def test_a_held_out_part_spares_the_labelled_list(tmp_path: Path) -> None:
    folder_set(tmp_path, train=6, val=0, flat=True)
    (tmp_path / "l.txt").write_text("00.png\n01.png\n02.png\n")
    for seed in range(5):
        data = opened(tmp_path, seed=seed, labelled=str(tmp_path / "l.txt"))
        assert names(data.validation) == ["images/03.png"]


def test_other_folders_than_train_and_val_stay_out(tmp_path: Path) -> None:
    root = folder_set(tmp_path)
    draw_image(root / "images" / "test" / "99.png")
    data = opened(root)
    assert "images/test/99.png" not in names([*data.labelled, *data.unlabelled, *data.validation])


def test_given_classes_are_read_as_annotate_reads_them(tmp_path: Path) -> None:
    (folder_set(tmp_path) / "class_names.txt").unlink()
    assert opened(tmp_path, classes="cat,dog").space.classes == CLASSES
    assert opened(tmp_path, classes=("cat", "dog")).space.classes == CLASSES
    line = "has no class_names.txt; write it (line 1 is id 0), or set data.classes or data.colors"
    assert refusal(tmp_path) == f"data.root={tmp_path} {line}"
    assert opened(tmp_path, kind="picture_book").space.classes[1] == "tree"
    assert refusal(tmp_path, classes="cat,cat") == "data.classes: 'cat' is listed twice; each class once"


def test_masks_are_read_with_void_as_255(tmp_path: Path) -> None:
    root = folder_set(tmp_path)
    write_mask(root / "masks" / "train" / "00.png", mask_of(1, void=200))
    assert "00.png holds id 200" in refusal(root)
    for path in [*root.glob("masks/*/*.png")]:
        write_mask(path, mask_of(1, void=200))
    image, mask = LabelledImages(opened(root, ignore_index=200).labelled)[0]
    assert (image.dtype, image.shape) == (torch.uint8, (3, HEIGHT, WIDTH))
    assert mask.dtype == torch.uint8
    assert torch.equal(mask, torch.from_numpy(mask_of(1, void=255)))


def bad_mask(path: Path, how: str) -> None:
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    if how == "rgb":
        Image.fromarray(pixels).save(path)
    elif how == "16 bit":
        Image.fromarray(pixels[..., 0].astype(np.uint16) + 999).save(path)
    elif how == "size":
        write_mask(path, np.zeros((HEIGHT, WIDTH - 1), np.uint8))
    elif how == "turned":
        write_mask(path, np.zeros((WIDTH, HEIGHT), np.uint8))
    elif how == "id":
        write_mask(path, mask_of(1, 3))
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:50])
    elif how == "no png":
        path.write_text("hello")


@pytest.mark.parametrize("part", ["train", "val"])
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("rgb", "a mask of colours (RGB), not of ids: data.colors=FILE gives the colours of the classes"),
        ("16 bit", "holds id 999 (first at x=0, y=0); allowed: 0 to 2 and 255 (ignored)"),
        ("size", f"is {WIDTH - 1}x{HEIGHT} pixels"),
        ("turned", f"is {HEIGHT}x{WIDTH} pixels"),
        ("id", "holds id 3 (first at x=0, y=2); allowed: 0 to 2 and 255 (ignored)"),
        ("cut", "truncated PNG"),
        ("no png", "not an image"),
    ],
)
def test_a_bad_mask_is_refused_in_one_line(tmp_path: Path, part: str, how: str, message: str) -> None:
    root = folder_set(tmp_path)
    path = root / "masks" / part / ("01.png" if part == "train" else "06.png")
    bad_mask(path, how)
    text = refusal(root)
    assert str(path) in text
    assert message in text
    assert "\n" not in text
    if part == "train":
        assert message in refusal(root, labelled="2")


def test_a_missing_mask_is_refused_where_it_counts(tmp_path: Path) -> None:
    root = folder_set(tmp_path)
    (root / "masks" / "train" / "01.png").unlink()
    assert "images/train/01.png" in names(opened(root).unlabelled)
    (root / "masks" / "val" / "06.png").unlink()
    text = refusal(root)
    assert text.startswith(
        f"image images/val/06.png has no mask in {root}: looked for val/06.png or val/06.png.png"
    )
    assert f"{root}/masks has train/00.png, train/02.png" in text


def test_a_bad_mask_of_an_unlabelled_image_is_nobodys_business(tmp_path: Path) -> None:
    root = folder_set(tmp_path)
    bad_mask(root / "masks" / "train" / "01.png", "rgb")
    (tmp_path / "l.txt").write_text("00.png\n")
    assert "images/train/01.png" in names(opened(root, labelled=str(tmp_path / "l.txt")).unlabelled)


def test_many_bad_masks_are_counted(tmp_path: Path) -> None:
    root = folder_set(tmp_path, train=30, val=3)
    for number, path in enumerate(sorted(root.glob("masks/*/*.png")), 10):
        path.write_bytes(encode_gray_png(np.full((HEIGHT, WIDTH), number, np.uint8)))
    lines = refusal(root).split("\n")
    assert (len(lines), lines[0], lines[-1]) == (22, "31 bad masks or images:", "  ... and 11 more")


def test_masks_with_the_same_bad_id_are_one_line_with_the_key(tmp_path: Path) -> None:
    root = folder_set(tmp_path, train=30, val=3)
    for number, path in enumerate(sorted(root.glob("masks/*/*.png"))):
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[0, number % WIDTH] = 11
        path.write_bytes(encode_gray_png(mask))
    line = refusal(root)
    assert line.startswith(f"mask {root}/masks/")
    assert " and 30 others holds id 11 (first at x=" in line
    assert line.endswith("(ignored); data.ignore_index=11 ignores these pixels")


def test_no_mask_no_image_no_folder(tmp_path: Path) -> None:
    root = folder_set(tmp_path / "set")
    for path in root.glob("masks/*/*.png"):
        path.rename(path.with_name(f"x{path.name}"))
    assert refusal(root).startswith(
        f"data.root={root}: no image has a mask: for images/train/00.png, looked for train/00.png or "
    )
    assert refusal(tmp_path / "nosuch").endswith(f"no such path: {tmp_path}/nosuch/images")
    (tmp_path / "empty" / "images").mkdir(parents=True)
    assert "no image in" in refusal(tmp_path / "empty")


def test_two_images_cannot_share_a_mask(tmp_path: Path) -> None:
    root = folder_set(tmp_path)
    draw_image(root / "images" / "train" / "00.jpg")
    assert "00.png could belong to train/00.jpg or train/00.png" in refusal(root)


def test_a_broken_labelled_image_is_refused(tmp_path: Path) -> None:
    root = folder_set(tmp_path)
    path = root / "images" / "train" / "01.png"
    path.write_text("hello")
    assert refusal(root) == f"image {path}: not an image"


def test_sizes_are_those_of_the_upright_picture(tmp_path: Path) -> None:
    root = folder_set(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (HEIGHT, WIDTH)).save(root / "images" / "train" / "zz.jpg", exif=exif)
    write_mask(root / "masks" / "train" / "zz.png", mask_of(1))
    data = opened(root)
    assert LabelledImages(data.labelled)[4][0].shape == (3, HEIGHT, WIDTH)


def test_picture_book_as_it_is_written(tmp_path: Path) -> None:
    draw_book(PictureBookConfig(out=str(tmp_path / "book"), n=10, size=32))
    data = opened(tmp_path / "book", kind="picture_book", labelled="3")
    assert (len(data.labelled), len(data.unlabelled), len(data.validation)) == (3, 5, 2)
    assert (len(data.space.classes), data.space.classes[:2]) == (10, ("background", "tree"))


def test_street_photographs_in_the_order_of_their_class_names() -> None:
    data = opened(shared("camvid-mini"), ignore_index=11, labelled="1/5")
    assert (len(data.labelled), len(data.unlabelled), len(data.validation)) == (6, 24, 10)
    assert (data.space.classes[0], len(data.space.classes)) == ("sky", 11)
    _, mask = LabelledImages(data.labelled)[0]
    assert set(mask.unique().tolist()) <= {*range(11), 255}
    assert 255 in mask
    assert " and 39 others holds id 11 " in refusal(shared("camvid-mini"))


def class_names(root: Path, text: str) -> Path:
    (root / "class_names.txt").write_text(text)
    return root


def test_class_names_of_other_tools(tmp_path: Path) -> None:
    root = folder_set(tmp_path)
    cvat = "# label:color_rgb:parts:actions\nunlabeled:0,0,0::\ncat:1,2,3::\ndog:4,5,6::\n"
    assert opened(class_names(root, cvat)).space.classes == CLASSES
    assert opened(class_names(root, "0: _background_\n1: cat\n2: dog\n")).space.classes == CLASSES
    (tmp_path / "data.yaml").write_text("names: [cat, dog]\n")
    assert opened(root, classes=str(tmp_path / "data.yaml")).space.classes == CLASSES


def test_a_background_that_is_not_first_is_refused_as_masks_have_ids(tmp_path: Path) -> None:
    root = class_names(folder_set(tmp_path), "cat\ndog\nbackground\n")
    message = "'background' is name 3 of the list, which makes it id 2; id 0 is the background: put it first"
    assert message in refusal(root)
    assert message in refusal(root, classes="cat,dog,background")
    assert "'Dog' and 'dog' are the same name" in refusal(class_names(root, "cat\ndog\nDog\n"))


def test_a_last_name_that_is_the_ignore_index_is_no_class(tmp_path: Path) -> None:
    root = class_names(folder_set(tmp_path), "sky\ncat\ndog\nunlabelled\n")
    for path in root.glob("masks/*/*.png"):
        write_mask(path, mask_of(1, 2, void=3))
    data = opened(root, ignore_index=3)
    assert data.space.classes == ("sky", "cat", "dog")
    assert data.labelled_pixels.ignored == 4 * WIDTH

"""`segray masks`: any kind of masks becomes PNG files of ids, with a page that shows them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segray.pipelines.commands.masks import run
from segray.pipelines.config.commands.masks import MasksConfig
from segray.pipelines.config.commands.train import DataConfig
from segray.pipelines.config.loading import load
from segray.pipelines.errors import UserError
from segray.pipelines.io.images import FORMATS
from segray.pipelines.io.label_png import decode_gray_png, encode_gray_png
from segray.pipelines.io.listing import is_image
from segray.pipelines.masks.folder import MaskFolder
from segray.pipelines.training.data.datasets import LabelledImages
from segray.pipelines.training.data.training_data import open_data
from tests.pipelines.io.containers import write_table
from tests.pipelines.training.data.small_sets import (
    coco_set,
    folder_set,
    mask_of,
    opened,
    voc_set,
    write_mask,
)
from tests.pipelines.training.data.test_mask_kinds import colour_set
from tests.pipelines.training.data.test_outlines import LOW, SQUARE, cvat_set, labelme_set, shape
from tests.pipelines.training.data.test_yolo import square, yolo_set


def convert(source: Path, out: Path, *overrides: str) -> None:
    run(load(MasksConfig, None, [f"in={source}", f"out={out}", *overrides]))


def masks_of(root: Path, **keys: Any) -> dict[str, Any]:
    data = opened(root, **{"validation": "none", **keys})
    pairs = zip(data.labelled, LabelledImages(data.labelled), strict=True)  # type: ignore[call-overload]
    return {sample.image_id.rpartition("/")[2]: mask.tolist() for sample, (_, mask) in pairs}


def make(kind: str, root: Path) -> Path:
    if kind == "coco":
        return coco_set(root)
    if kind == "labelme":
        return labelme_set(root, shape("dog", SQUARE))
    if kind == "yolo":
        return yolo_set(root, square(1, 2, 6))
    return cvat_set(root, LOW) if kind == "cvat" else voc_set(root) if kind == "voc" else folder_set(root)


@pytest.mark.parametrize("kind", ["folder", "voc", "coco", "labelme", "cvat", "yolo"])
def test_each_kind_becomes_the_plain_layout_with_the_same_masks(tmp_path: Path, kind: str) -> None:
    convert(make(kind, tmp_path / "in"), tmp_path / "out")
    before = opened(tmp_path / "in", kind=kind)
    after = opened(tmp_path / "out")
    assert after.space.classes == before.space.classes
    assert len(after.validation) == len(before.validation)
    wanted = masks_of(tmp_path / "in", kind=kind)
    got = masks_of(tmp_path / "out")
    assert wanted.items() <= got.items()


@pytest.mark.parametrize(("kind", "overrides"), [("folder", ["masks=masks"]), ("labelme", [])])
def test_a_data_yaml_beside_other_masks_is_not_asked(tmp_path: Path, kind: str, overrides: list[str]) -> None:
    root = make(kind, tmp_path / "in")
    (root / "data.yaml").write_text("names: [cat]\n")
    convert(root, tmp_path / "out", *overrides)
    assert masks_of(tmp_path / "out").items() >= masks_of(root, kind=kind).items()


def test_colours_become_ids_and_the_page_shows_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = colour_set(tmp_path / "in")
    out = tmp_path / "out"
    convert(root, out, f"colors={root}/labelmap.txt")
    assert np.array_equal(decode_gray_png((out / "masks" / "train" / "00.png").read_bytes()), mask_of(1, 2))
    assert (out / "class_names.txt").read_text() == "background\ncat\ndog\n"
    text = (out / "masks.html").read_text()
    assert text.count("data:image/png") == 6
    assert "Masks with the class" in text
    printed = capsys.readouterr()
    assert "  1  cat             8.33      6" in printed.out
    assert printed.err.splitlines() == [
        "classes     0 background, 1 cat, 2 dog",
        "images      6 with a mask, 2 without a mask are not copied",
    ]


def test_bad_masks_are_left_out_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = folder_set(tmp_path / "in")
    (root / "masks" / "train" / "01.png").write_bytes(b"hello")
    convert(root, tmp_path / "out")
    assert not (tmp_path / "out" / "masks" / "train" / "01.png").exists()
    assert f"left out    mask {root}/masks/train/01.png: not an image" in capsys.readouterr().err
    page = (tmp_path / "out" / "masks.html").read_text()
    assert "01.png: not an image" in page
    assert f"<title>segray masks: {root}</title>" in page
    assert '<div class="samples"><article' in page.replace("\n", "")


def test_messages_name_the_keys_of_this_command(tmp_path: Path) -> None:
    root = colour_set(tmp_path / "in")
    with pytest.raises(
        UserError, match=r"00\.png and 5 others: a mask of colours \(RGB\), not of ids: colors=FILE"
    ):
        convert(root, tmp_path / "out")
    with pytest.raises(UserError, match=rf"^in={tmp_path}/nowhere: "):
        convert(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(UserError, match=r"^in: required, give in=FOLDER$"):
        load(MasksConfig, None, ["out=x"])


def test_a_folder_with_files_is_not_written_into(tmp_path: Path) -> None:
    root = folder_set(tmp_path / "in")
    with pytest.raises(UserError, match="is not an empty folder; give a new one"):
        convert(root, root)


def test_masks_of_images_that_differ_by_their_ending_alone_keep_apart(tmp_path: Path) -> None:
    root = coco_set(tmp_path / "in")
    first = root / "train2017" / f"{1:012}.jpg"
    path = root / "annotations" / "instances_train2017.json"
    Image.open(first).save(root / "train2017" / f"{1:012}.png")
    path.write_text(path.read_text().replace(f"{2:012}.jpg", f"{1:012}.png"))
    convert(root, tmp_path / "out")
    names = {p.name for p in (tmp_path / "out" / "masks" / "train").iterdir()}
    assert {f"{1:012}.jpg.png", f"{1:012}.png.png", f"{3:012}.png"} <= names


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("set.zip", "damaged, or another kind of file (File is not a zip file)"),
        ("set.tar.gz", "a compressed tar gives no access to single images; unpack it, or write"),
        ("notes.md", "a file, and no folder, archive or table"),
    ],
)
def test_a_file_that_is_no_data_set_is_refused(tmp_path: Path, name: str, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"x")
    with pytest.raises(UserError) as caught:
        convert(path, tmp_path / "out")
    assert str(caught.value).startswith(f"in={path}: {message}")
    with pytest.raises(UserError) as caught:
        open_data(DataConfig(kind="folder", root=str(path)), 0)
    assert str(caught.value).startswith(f"data.root={path}: {message}")


def test_a_damaged_archive_of_masks_is_refused(tmp_path: Path) -> None:
    (tmp_path / "masks.zip").write_bytes(b"x")
    with pytest.raises(UserError, match=r"^masks=\S+/masks\.zip: damaged, or another kind of file"):
        MaskFolder(str(tmp_path / "masks.zip"))


def test_masks_in_a_table_become_files_with_the_endings_of_their_images(tmp_path: Path) -> None:
    files = [path.read_bytes() for path in sorted(folder_set(tmp_path / "in").glob("images/train/*.png"))[:2]]
    masks = [encode_gray_png(mask_of(1)), encode_gray_png(mask_of(2))]
    table = write_table(tmp_path / "train.parquet", {"image": files, "label": masks})
    convert(Path(table), tmp_path / "out", "classes=cat,dog")
    assert sorted(masks_of(tmp_path / "out")) == ["000000.png", "000001.png"]
    assert len(opened(tmp_path / "out", validation="none").labelled) == 2


def test_every_format_of_a_table_gets_an_ending_that_is_listed(tmp_path: Path) -> None:
    formats, scene = (*FORMATS, "MPO"), Image.effect_noise((64, 48), 50).convert("RGB")
    files = []
    for name in formats:
        sink, more = io.BytesIO(), [scene] if name == "MPO" else []
        scene.save(sink, name, save_all=bool(more), append_images=more)
        files.append(sink.getvalue())
    masks = [encode_gray_png(np.ones((48, 64), np.uint8))] * len(files)
    table = write_table(tmp_path / "train.parquet", {"image": files, "label": masks})
    convert(Path(table), tmp_path / "out", "classes=cat,dog")
    names = [path.name for path in (tmp_path / "out" / "images").iterdir()]
    assert len(names) == len(formats)
    assert [name for name in names if not is_image(name)] == []


def test_binary_masks_of_another_grey_name_their_key(tmp_path: Path) -> None:
    root, table = tmp_path / "set", tmp_path / "table.txt"
    folder_set(root)
    for path in root.glob("masks/*/*.png"):
        write_mask(path, np.where(mask_of(1) > 0, np.uint8(128), np.uint8(0)))
    (root / "class_names.txt").write_text("background\ncat\n")
    with pytest.raises(UserError, match="this looks like a binary mask: object = 128; colors=FILE reads it"):
        convert(root, tmp_path / "out")
    table.write_text("background: 0,0,0\ncat: 128,128,128\n")
    convert(root, tmp_path / "out", f"colors={table}")
    assert all(set(np.unique(mask)) == {0, 1} for mask in masks_of(tmp_path / "out").values())


def test_ids_from_1_stop_the_command_where_one_is_too_many_and_get_a_line_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = folder_set(tmp_path / "in")
    paths = sorted((root / "masks").rglob("*.png"))
    for path in paths:
        path.write_bytes(encode_gray_png(np.ones_like(decode_gray_png(path.read_bytes()))))
    convert(root, tmp_path / "low")
    assert "ids         no mask has id 0 (background); if the ids of the masks begin with 1, colors=FILE" in (
        capsys.readouterr().err
    )
    many = np.ones_like(decode_gray_png(paths[0].read_bytes()))
    many[0, 0] = len((root / "class_names.txt").read_text().split())
    paths[0].write_bytes(encode_gray_png(many))
    with pytest.raises(UserError, match="its ids seem to begin with 1: line 1 of the class list is id 0"):
        convert(root, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_list_of_class_names_is_a_description_of_yolo(tmp_path: Path) -> None:
    root = yolo_set(tmp_path / "in", square(1, 2, 6))
    (root / "data.yaml").unlink()
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    convert(root, tmp_path / "out", f"annotations={tmp_path}/classes.txt")
    assert all(set(np.unique(mask)) == {0, 2} for mask in masks_of(tmp_path / "out").values())

"""Data sets and masks in archives, lists and tables: the same images and masks as from folders."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from segray.pipelines.config.commands.train import DataConfig
from segray.pipelines.io.label_png import encode_gray_png
from segray.pipelines.training.data.datasets import LabelledImages
from segray.pipelines.training.data.samples import TrainingData
from segray.pipelines.training.data.training_data import open_data
from segray.pipelines.training.data_record import data_differences, data_record
from tests.pipelines.io.containers import write_table, write_tar, write_zip
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
from tests.pipelines.training.data.test_outlines import SQUARE, labelme_set, shape
from tests.pipelines.training.data.test_yolo import square, yolo_set

CVAT = """<annotations><image id="0" name="a.jpg" width="16" height="12">
<polygon label="cat" points="0,0;8,0;8,8;0,8" z_order="0"/></image>
<image id="1" name="b.jpg" width="16" height="12" subset="val">
<polygon label="dog" points="0,0;8,0;8,8;0,8" z_order="0"/></image></annotations>"""


def cvat_set(root: Path) -> Path:
    """An image for training and one for validation, as CVAT exports them."""
    for name in ("a", "b"):
        draw_image(root / "images" / f"{name}.jpg")
    (root / "annotations.xml").write_text(CVAT)
    return root


def labelme(root: Path) -> Path:
    (labelme_set(root, shape("dog", SQUARE)) / "class_names.txt").write_text("background\ndog\n")
    return root


SETS: dict[str, Callable[[Path], Path]] = {
    "folder": folder_set,
    "voc": voc_set,
    "coco": coco_set,
    "labelme": labelme,
    "cvat": cvat_set,
    "yolo": lambda root: yolo_set(root, square(1, 2, 6)),
}


def contents(root: Path, top: str = "") -> dict[str, bytes]:
    """All files of a folder by their paths in an archive."""
    return {
        f"{top}{p.relative_to(root)}": p.read_bytes()
        for p in sorted(root.rglob("*"))
        if p.is_file() and not p.is_symlink()
    }


def pictures(data: TrainingData) -> dict[str, tuple[bytes, bytes]]:
    """Image and mask of each labelled and validation image."""
    parts = (data.labelled, data.validation)
    return {
        sample.image_id: (image.numpy().tobytes(), mask.numpy().tobytes())
        for part in parts
        for sample, (image, mask) in zip(part, LabelledImages(part), strict=True)  # type: ignore[call-overload]
    }


@pytest.mark.parametrize("kind", SETS)
@pytest.mark.parametrize("top", ["", "my set/"])
@pytest.mark.parametrize("ending", ["zip", "tar"])
def test_an_archive_of_a_data_set_is_that_data_set(tmp_path: Path, kind: str, top: str, ending: str) -> None:
    root = SETS[kind](tmp_path / "set")
    files = {f"__MACOSX/{top}._x.png": b"x", **contents(root, top)}
    path = (write_zip if ending == "zip" else write_tar)(tmp_path / f"set.{ending}", files)
    folder, archive = (opened(place, kind=kind) for place in (root, path))
    assert names(archive.unlabelled) == names(folder.unlabelled)
    assert pictures(archive) == pictures(folder) != {}
    assert archive.space == folder.space
    assert [s.mask_id for s in archive.labelled] == [s.mask_id for s in folder.labelled]
    # A run that began with the folder goes on with the archive.
    assert data_differences(data_record(folder), data_record(archive)) == []


def rows(root: Path) -> list[tuple[Path, Path]]:
    """The images of a folder that have a mask, with it."""
    images = (p for p in sorted(root.glob("images/*/*")))
    pairs = ((p, root / "masks" / p.relative_to(root / "images")) for p in images)
    return [(image, mask) for image, mask in pairs if mask.exists()]


def as_table(root: Path) -> tuple[str, dict[str, Any]]:
    """As Hugging Face writes them: an image and a label in each row, a file for each part."""
    for part in ("train", "validation"):
        pairs = [(i, m) for i, m in rows(root) if i.parent.name == part[:5].removesuffix("id")]
        columns = {
            "image": pa.array([{"bytes": i.read_bytes(), "path": f"{i.name}"} for i, _ in pairs]),
            "label": pa.array([{"bytes": m.read_bytes(), "path": None} for _, m in pairs]),
        }
        write_table(root / "data" / f"{part}-00000.parquet", columns)
    return str(root / "data" / "*.parquet"), {}


def as_csv(root: Path) -> tuple[str, dict[str, Any]]:
    lines = [f"{i.relative_to(root)},{m.relative_to(root)}" for i, m in rows(root)]
    path = root / "pairs.csv"
    path.write_text("\n".join(["image,mask", *lines]))
    return str(path), {"validation": "2"}


def as_lines(root: Path) -> tuple[str, dict[str, Any]]:
    """As UniMatch lists them."""
    lines = [f"{i.relative_to(root)} {m.relative_to(root)}" for i, m in rows(root)]
    path = root / "all.txt"
    path.write_text("\n".join([*lines, "images/train/05.png"]))
    return str(path), {"validation": "2"}


def as_manifest(root: Path) -> tuple[str, dict[str, Any]]:
    pairs = rows(root)
    columns = {
        "image_id": [i.name for i, _ in pairs],
        "uri": [str(i.relative_to(root)) for i, _ in pairs],
        "mask_uri": [str(m.relative_to(root)) for _, m in pairs],
    }
    return write_table(root / "manifest.parquet", columns), {"validation": "2"}


def as_shards(root: Path) -> tuple[str, dict[str, Any]]:
    """As `segray export format=webdataset` writes them."""
    for part in ("train", "val"):
        pairs = [(i, m) for i, m in rows(root) if i.parent.name == part]
        files: dict[str, bytes] = {}
        for image, mask in pairs:
            files |= {f"{image.stem}.png": image.read_bytes(), f"{image.stem}.seg.png": mask.read_bytes()}
            files |= {f"{image.stem}.json": b"{}"}
        write_tar(root / f"{part}-000.tar", files)
    return str(root / "*.tar"), {"mask_suffix": ".seg"}


KINDS = [as_table, as_csv, as_lines, as_manifest, as_shards]


@pytest.mark.parametrize("pack", KINDS)
def test_rows_and_shards_have_the_images_and_masks_of_their_files(
    tmp_path: Path, pack: Callable[[Path], tuple[str, dict[str, Any]]]
) -> None:
    root = folder_set(tmp_path / "set")
    expected = set(pictures(opened(root)).values())
    place, keys = pack(root)
    data = opened(place, **keys)
    assert set(pictures(data).values()) == expected
    assert (len(data.labelled), len(data.validation)) == (4, 2)
    assert len(data.unlabelled) == (1 if pack is as_lines else 0)


def test_shards_of_a_data_set_name_the_suffix_of_their_masks(tmp_path: Path) -> None:
    place, _ = as_shards(folder_set(tmp_path / "set"))
    assert "data.mask_suffix=.seg finds 00.seg.png" in refusal(place)


@pytest.mark.parametrize("kind", ["zip", "deep.zip", "tar", "csv", "txt", "parquet", "folder"])
def test_masks_of_another_place_belong_to_the_images_of_their_names(tmp_path: Path, kind: str) -> None:
    root = folder_set(tmp_path / "set")
    expected = pictures(opened(root))
    shutil.move(root / "masks", tmp_path / "gt")
    masks = sorted((tmp_path / "gt").rglob("*.png"))
    lines = "\n".join(str(mask.relative_to(tmp_path)) for mask in masks)
    place = tmp_path / f"masks.{kind}"
    if kind == "folder":
        place = tmp_path / "gt"
    elif kind == "parquet":
        ids = [f"images/{m.relative_to(tmp_path / 'gt')}" for m in masks]
        write_table(place, {"image_id": ids, "mask": [m.read_bytes() for m in masks]})
    elif kind in ("csv", "txt"):
        place.write_text(lines if kind == "txt" else f"mask\n{lines}")
    else:
        write = write_tar if kind == "tar" else write_zip
        write(place, contents(tmp_path / "gt", "project 7/masks/" if kind == "deep.zip" else ""))
    assert pictures(opened(root, masks=str(place))) == expected


def test_the_masks_of_one_part_are_not_taken_for_those_of_another(tmp_path: Path) -> None:
    root = folder_set(tmp_path / "set", flat=True)
    place = write_zip(tmp_path / "gt.zip", contents(root / "masks", "val/"))
    assert "looked for 00.png" in refusal(root, masks=place)


def test_images_of_another_place_have_the_masks_of_their_names(tmp_path: Path) -> None:
    root = folder_set(tmp_path / "set")
    expected = set(pictures(opened(root)).values())
    place = write_zip(tmp_path / "photos.zip", contents(root / "images"))
    shutil.rmtree(root / "images")
    assert set(pictures(opened(root, images=place)).values()) == expected


def test_masks_that_cvat_exports_without_images_name_the_keys_of_images_and_colours(tmp_path: Path) -> None:
    """ "Segmentation mask 1.1" beside a folder of links to tiles, with a class list of YOLO."""
    root, tiles = tmp_path / "export", tmp_path / "tiles"
    colours = np.array([(0, 0, 0), (250, 0, 0), (0, 0, 250)], np.uint8)
    tiles.mkdir()
    for n in range(4):
        draw_image(tmp_path / "store" / f"{n}.blob.png", value=n)
        (tiles / f"{n}.png").symlink_to(tmp_path / "store" / f"{n}.blob.png")
        (root / "SegmentationClass").mkdir(parents=True, exist_ok=True)
        Image.fromarray(colours[mask_of(1, 2)]).save(root / "SegmentationClass" / f"{n}.png")
    (root / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nbackground:0,0,0::\n")
    with (root / "labelmap.txt").open("a") as file:
        file.write("cat:250,0,0::\ndog:0,0,250::\n")
    (tmp_path / "data.yaml").write_text("names:\n  0: dog\n  1: cat\n")
    keys: dict[str, Any] = {"kind": "voc", "classes": str(tmp_path / "data.yaml"), "validation": "1"}
    assert "no JPEGImages there; data.images=FOLDER" in refusal(root, **keys)
    keys |= {"images": str(tiles)}
    assert "a mask of colours (RGB), not of ids: data.colors=FILE" in refusal(root, **keys)
    data = opened(root, **keys, colors=str(root / "labelmap.txt"))
    assert data.space.classes == ("background", "dog", "cat")
    masks = [mask for _, mask in LabelledImages(data.labelled)]  # type: ignore[attr-defined]
    assert all(np.array_equal(mask.numpy(), mask_of(2, 1)) for mask in masks)
    assert len(masks) == 3


def test_masks_beside_their_images_are_no_images(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        draw_image(tmp_path / "set" / f"{name}.png")
        write_mask(tmp_path / "set" / f"{name}_mask.png", mask_of(1))
    draw_image(tmp_path / "set" / "e.png")
    keys: dict[str, Any] = {"images": ".", "masks": ".", "mask_suffix": "_mask", "classes": "cat"}
    data = opened(tmp_path / "set", **keys, validation="1")
    assert (len(data.labelled), len(data.validation), names(data.unlabelled)) == (3, 1, ["e.png"])


def test_the_images_of_a_table_may_be_masks_of_any_column(tmp_path: Path) -> None:
    root = folder_set(tmp_path / "set")
    images, masks = zip(*rows(root), strict=True)
    columns: Mapping[str, Any] = {
        "image": [p.read_bytes() for p in images],
        "label": [p.read_bytes() for p in masks],
        "coarse": [encode_gray_png(mask_of(2))] * len(masks),
    }
    place = write_table(tmp_path / "x.parquet", columns)
    pixels = opened(place, classes="cat,dog", mask_column="coarse", validation="none").labelled_pixels
    assert pixels.pixels[1] == 0 < pixels.pixels[2]
    text = refusal(place, classes="cat,dog", mask_column="fine")
    assert "data.mask_column=fine is no column of masks (it has label, coarse)" in text


def test_a_list_names_no_mask_elsewhere(tmp_path: Path) -> None:
    root = folder_set(tmp_path / "set")
    write_mask(tmp_path / "secret.png", mask_of(1))
    (root / "pairs.csv").write_text("image,mask\nimages/train/00.png,../secret.png\n")
    text = refusal(root / "pairs.csv", classes="cat,dog")
    assert "pairs.csv, line 2:" in text
    assert "data.image.roots" in text
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "pairs.csv").write_text("image,mask\nimages/train/00.png,link.png\n")
    assert "leaves the allowed folders" in refusal(root / "pairs.csv", classes="cat,dog", validation="none")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("set.tar.gz", "a compressed tar gives no access to single images; unpack it"),
        ("set.7z", "an archive of this kind is not read"),
        ("set.zip", "damaged, or another kind of file"),
        ("set.csv", "has no column of images"),
    ],
)
def test_what_is_not_read_is_named_with_its_key(tmp_path: Path, name: str, message: str) -> None:
    root = folder_set(tmp_path / "set")
    (tmp_path / name).write_bytes(b"x")
    assert f"data.root={tmp_path / name}: {message}" in refusal(tmp_path / name)
    assert message in refusal(root, masks=str(tmp_path / name))


def test_an_archive_without_its_folder_or_with_a_bad_mask_is_refused(tmp_path: Path) -> None:
    root = folder_set(tmp_path / "set")
    place = write_zip(tmp_path / "set.zip", contents(root))
    assert "no photos there; data.images=FOLDER" in refusal(place, images="photos")
    (root / "masks" / "train" / "01.png").write_bytes(b"x")
    place = write_zip(tmp_path / "bad.zip", contents(root))
    assert f"mask 01.png in {place}: not an image" in refusal(place)


def test_a_member_that_two_shards_have_is_refused(tmp_path: Path) -> None:
    root = folder_set(tmp_path / "set")
    for name in ("a", "b"):
        write_zip(tmp_path / f"{name}.zip", contents(root))
    text = refusal(f"{tmp_path}/a.zip,{tmp_path}/b.zip")
    assert "'class_names.txt' is in" in text


def test_the_masks_of_an_archive_are_those_of_the_archive_that_is_there_now(tmp_path: Path) -> None:
    root = folder_set(tmp_path / "set")
    place = write_zip(tmp_path / "set.zip", contents(root))
    before = opened(place).labelled_pixels
    write_mask(root / "masks" / "train" / "01.png", np.ones((12, 16), np.uint8))
    write_zip(tmp_path / "set.zip", contents(root))
    assert open_data(DataConfig(root=place), 0).labelled_pixels != before


@pytest.mark.parametrize("kind", ["coco", "cvat"])
@pytest.mark.parametrize("packed", [False, True])
def test_annotation_files_without_images_take_those_of_another_place(
    tmp_path: Path, kind: str, packed: bool
) -> None:
    """As CVAT exports them, beside a folder of links."""
    root, tiles, alone = SETS[kind](tmp_path / "set"), tmp_path / "tiles", tmp_path / "export"
    expected = set(pictures(opened(root, kind=kind)).values())
    tiles.mkdir()
    for image in root.rglob("*.jpg"):
        (tiles / image.name).symlink_to(image)
    for path in [*root.rglob("*.json"), *root.rglob("*.xml")]:
        (alone / path.relative_to(root)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, alone / path.relative_to(root))
    place = write_zip(tmp_path / "export.zip", contents(alone)) if packed else str(alone)
    assert "data.images=FOLDER, or another source, has the images" in refusal(place, kind=kind)
    assert set(pictures(opened(place, kind=kind, images=str(tiles))).values()) == expected


def test_a_damaged_file_of_cvat_in_an_archive_is_named_as_there(tmp_path: Path) -> None:
    files = {**contents(cvat_set(tmp_path / "set")), "annotations.xml": b"x"}
    place = write_zip(tmp_path / "set.zip", files)
    assert refusal(place, kind="cvat").startswith(f"annotations.xml in {place} is not XML")


def test_a_bad_source_of_validation_images_names_its_own_key(tmp_path: Path) -> None:
    place = tmp_path / "val.7z"
    place.write_bytes(b"x")
    text = refusal(coco_set(tmp_path / "set"), kind="coco", val_images=str(place))
    assert text.startswith(f"data.val_images={place}: an archive of this kind is not read")


def test_an_annotation_file_in_place_of_a_data_set_names_its_key(tmp_path: Path) -> None:
    root = coco_set(tmp_path / "set")
    text = refusal(root / "annotations" / "instances_train2017.json", kind="coco")
    assert text.endswith("an annotation file: give the folder of the images, and data.annotations=FILE")

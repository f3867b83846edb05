"""Manifests, images and COCO files that somebody sent."""

from __future__ import annotations

import io
import json
import math
import tarfile
import zipfile

import numpy as np
import pillow_heif
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from segray.pipelines.io.label_png import encode_gray_png
from tests.fuzz.edits import PATHS, WORDS, Cut, Edit, cuts, damaged, edits, with_secret
from tests.fuzz.formats import Png, edited_json, edited_rows, pngs
from tests.fuzz.runner import Runner

pytestmark = pytest.mark.slow


def image(kind: str, mode: str = "RGB", **options: object) -> bytes:
    """A small image file."""
    pixels = np.arange(24 * 32 * 3, dtype=np.uint8).reshape(24, 32, 3)
    sink = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(sink, kind, **options)
    return sink.getvalue()


def overviews() -> bytes:
    """A BigTIFF of one image with two overviews."""
    sink = io.BytesIO()
    with tifffile.TiffWriter(sink, bigtiff=True) as writer:
        for factor in (1, 2, 4):
            pixels = np.zeros((24 // factor, 32 // factor, 3), np.uint8)
            writer.write(pixels, photometric="rgb", subfiletype=int(factor > 1))
    return sink.getvalue()


def heic() -> bytes:
    sink = io.BytesIO()
    pillow_heif.from_pillow(Image.new("RGB", (32, 24), (9, 99, 200))).save(sink)
    return sink.getvalue()


IMAGES = {
    "png": image("PNG"),
    "palette": image("PNG", "P"),
    "jpeg": image("JPEG"),
    "progressive": image("JPEG", progressive=True),
    "gray jpeg": image("JPEG", "L"),
    "cmyk": image("JPEG", "CMYK"),
    "tiff": image("TIFF"),
    "lzw": image("TIFF", compression="tiff_lzw"),
    "webp": image("WEBP"),
    "gif": image("GIF", "P"),
    "bmp": image("BMP"),
    "ppm": image("PPM"),
    "jpeg2000": image("JPEG2000"),
    "avif": image("AVIF"),
    "overviews": overviews(),
    "heic": heic(),
}


@given(kind=st.sampled_from(sorted(IMAGES)), changes=cuts)
def test_image_bytes(runner: Runner, kind: str, changes: list[Cut]) -> None:
    runner.check("image", {"image": damaged(IMAGES[kind], changes)})


@given(png=pngs)
def test_image_headers(runner: Runner, png: Png) -> None:
    runner.check("image", {"image": png.data()})


def manifest() -> bytes:
    """Two images below `images`."""
    sink = pa.BufferOutputStream()
    rows = {
        "image_id": ["a.png", "b.png"],
        "uri": ["images/a.png", "images/b.png"],
        "size": [100, 100],
        "mtime": [0.0, 0.0],
        "problem": pa.array([None, None], pa.string()),
        "mask_uri": pa.array([None, None], pa.string()),
    }
    pq.write_table(pa.table(rows), sink)
    return sink.getvalue().to_pybytes()


MANIFEST = manifest()


@pytest.mark.parametrize("reader", ["annotate", "plan"])
@given(changes=edits)
@example(changes=[Edit(4, "replace", ".")])
@example(changes=[Edit(4, "replace", math.inf)])
@example(changes=[Edit(0, "replace", 0), Edit(1, "twice", 0)])
def test_manifest_rows(runner: Runner, valid: dict[str, bytes], reader: str, changes: list[Edit]) -> None:
    rows = edited_rows(MANIFEST, with_secret(changes, str(runner.secret)))
    images = {name: data for name, data in valid.items() if name.startswith("images/")}
    runner.check(reader, {**images, "manifest.parquet": rows})


@given(changes=cuts)
@example(changes=[Cut(342, "flip", 7)])
def test_manifest_bytes(runner: Runner, valid: dict[str, bytes], changes: list[Cut]) -> None:
    images = {name: data for name, data in valid.items() if name.startswith("images/")}
    runner.check("annotate", {**images, "manifest.parquet": damaged(MANIFEST, changes)})


def archives() -> dict[str, bytes]:
    """Two images in each kind of file that holds images."""
    tar_file, zip_file, table = io.BytesIO(), io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=tar_file, mode="w") as archive:
        for name in ("a/" + "b" * 120 + ".png", "c.png"):
            info = tarfile.TarInfo(name)
            info.size = len(IMAGES["png"])
            archive.addfile(info, io.BytesIO(IMAGES["png"]))
    with zipfile.ZipFile(zip_file, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in ("a/b.png", "c.png"):
            packed.writestr(name, IMAGES["png"])
    rows = [{"bytes": IMAGES["png"], "path": f"{n}.png"} for n in range(2)]
    pq.write_table(pa.table({"image": rows, "image_id": ["x", "y"]}), table)
    return {"tar": tar_file.getvalue(), "zip": zip_file.getvalue(), "parquet": table.getvalue()}


ARCHIVES = archives()


@given(kind=st.sampled_from(sorted(ARCHIVES)), changes=cuts)
def test_archive_bytes(runner: Runner, kind: str, changes: list[Cut]) -> None:
    runner.check("sources", {f"source.{kind}": damaged(ARCHIVES[kind], changes)})


@given(column=st.sampled_from(["image", "path", "image_id"]), line=st.sampled_from([*PATHS, *WORDS]))
def test_list_lines(runner: Runner, column: str, line: str) -> None:
    text = with_secret([Edit(0, "replace", line)], str(runner.secret))[0].value
    written = str(text).encode("utf-8", "surrogatepass")
    table = f"{column},image\n".encode() + written + b",a.png\n"
    runner.check("sources", {"source.txt": written, "source.csv": table, "a.png": IMAGES["png"]})


def packed_sets() -> dict[str, bytes]:
    """An image with its mask in each kind of file that a data set may be."""
    mask = encode_gray_png(np.ones((24, 32), np.uint8))
    files = {"set/images/a.png": IMAGES["png"], "set/masks/a.png": mask}
    tar_file, zip_file, table = io.BytesIO(), io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=tar_file, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    with zipfile.ZipFile(zip_file, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in files.items():
            packed.writestr(name, data)
    pq.write_table(pa.table({"image": [IMAGES["png"]], "label": [mask]}), table)
    return {"tar": tar_file.getvalue(), "zip": zip_file.getvalue(), "parquet": table.getvalue()}


PACKED = packed_sets()


@given(kind=st.sampled_from(sorted(PACKED)), changes=cuts)
def test_packed_data_sets(runner: Runner, kind: str, changes: list[Cut]) -> None:
    runner.check("packed", {f"source.{kind}": damaged(PACKED[kind], changes)})


@given(ending=st.sampled_from(["csv", "txt"]), line=st.sampled_from([*PATHS, *WORDS]))
def test_masks_of_lists(runner: Runner, ending: str, line: str) -> None:
    text = str(with_secret([Edit(0, "replace", line)], str(runner.secret))[0].value)
    written = (f"image,mask\na.png,{text}\n" if ending == "csv" else f"a.png\t{text}\n").encode(
        "utf-8", "surrogatepass"
    )
    runner.check("packed", {f"source.{ending}": written, "a.png": IMAGES["png"]})


RUNS = {"size": [24, 32], "counts": [10, 20, 738]}
COCO = {
    "images": [
        {"id": 7, "file_name": "a.png", "height": 24, "width": 32},
        {"id": 8, "file_name": "b.png", "height": 24, "width": 32},
    ],
    "categories": [{"id": 3, "name": "tree"}, {"id": 5, "name": "house"}],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 3, "segmentation": [[1, 1, 20, 1, 20, 20]], "iscrowd": 0},
        {
            "id": 2,
            "image_id": 7,
            "category_id": 5,
            "segmentation": {"size": [24, 32], "counts": [10, 20, 738]},
        },
        {"id": 3, "image_id": 8, "category_id": 5, "segmentation": {"size": [24, 32], "counts": ":d0Rg0"}},
    ],
}


def coco_set(data: bytes) -> dict[str, bytes]:
    """Two images and their annotations."""
    images = {f"data/train2017/{name}.png": IMAGES["png"] for name in "ab"}
    return {**images, "data/annotations/instances_train2017.json": data}


@given(changes=edits)
def test_coco_values(runner: Runner, changes: list[Edit]) -> None:
    text = edited_json(json.dumps(COCO).encode(), with_secret(changes, str(runner.secret)))
    runner.check("coco", coco_set(text))


@given(changes=cuts)
def test_coco_bytes(runner: Runner, changes: list[Cut]) -> None:
    runner.check("coco", coco_set(damaged(json.dumps(COCO).encode(), changes)))


@given(polygon=st.lists(st.floats() | st.integers() | st.sampled_from([0, 1e9, -1e9, 31.5, 24]), max_size=12))
def test_polygons(runner: Runner, polygon: list[float]) -> None:
    annotation = {"id": 1, "image_id": 7, "category_id": 3, "segmentation": [polygon]}
    runner.check("coco", coco_set(json.dumps({**COCO, "annotations": [annotation]}).encode()))


@given(
    size=st.lists(st.sampled_from([24, 32, 0, -1, 2**31, 1.5]), min_size=1, max_size=3),
    counts=st.text(max_size=20) | st.lists(st.integers(-1, 800) | st.integers(), max_size=8),
)
def test_coco_run_lengths(runner: Runner, size: list[float], counts: str | list[int]) -> None:
    segmentation = {"size": size, "counts": counts}
    annotation = {"id": 1, "image_id": 7, "category_id": 3, "segmentation": segmentation}
    runner.check("coco", coco_set(json.dumps({**COCO, "annotations": [annotation]}).encode()))


def test_the_valid_ones_are_taken(runner: Runner, valid: dict[str, bytes]) -> None:
    images = {name: data for name, data in valid.items() if name.startswith("images/")}
    assert runner.check("annotate", {**images, "manifest.parquet": MANIFEST}).how == "ok"
    assert runner.check("coco", coco_set(json.dumps(COCO).encode())).how == "ok"
    for kind, data in PACKED.items():
        assert runner.check("packed", {f"source.{kind}": data}).how == "ok"
    for data in IMAGES.values():
        assert runner.check("image", {"image": data}).how == "ok"

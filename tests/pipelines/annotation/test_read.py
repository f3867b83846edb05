"""Reading: pixels, or the reason why there are none."""

from __future__ import annotations

import hashlib
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from segray.pipelines.annotation.stages import read as read_module
from segray.pipelines.annotation.stages.schemas import READ_SCHEMA, pixels_of
from segray.pipelines.io.images import DecodedImage, ImageOptions, decode_image
from tests.pipelines.annotation.reading import reading, scenes_and_bad_files
from tests.pipelines.plain_runs import manifest_table


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scenes_and_bad_files(tmp_path_factory.mktemp("read") / "images")


@pytest.fixture(scope="module")
def read(images: Path) -> pa.Table:
    return reading()(manifest_table(images))


def _ok(table: pa.Table) -> list[Any]:
    return [row for row in table.to_pylist() if row["status"] == "ok"]


def test_reading_gives_pixels_or_a_reason(images: Path, read: pa.Table) -> None:
    assert read.schema == READ_SCHEMA
    rows = {row["image_id"]: row for row in read.to_pylist()}
    assert sorted(rows) == ["broken.png", "link.png", "scene-0.png", "scene-1.png", "scene-2.png"]
    found = rows["scene-1.png"]
    assert (found["status"], found["error"], found["file"]) == ("ok", None, None)
    assert (found["width"], found["height"]) == (96, 72)
    assert found["sha256"] == hashlib.sha256((images / "scene-1.png").read_bytes()).hexdigest()
    pixels = pixels_of(found)
    assert np.array_equal(pixels, np.asarray(Image.open(images / "scene-1.png")))
    assert pixels.flags.writeable
    broken, link = rows["broken.png"], rows["link.png"]
    assert (broken["status"], broken["error"][:12], broken["pixels"]) == ("error", "not an image", None)
    assert broken["sha256"] == hashlib.sha256(b"no picture").hexdigest()
    assert (link["status"], link["error"], link["sha256"]) == ("skipped", "symlink loop", None)


def test_a_file_that_went_is_an_error_row(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([{"image_id": "a.png", "uri": str(tmp_path / "a.png"), "problem": None}])
    (row,) = reading()(table).to_pylist()
    assert (row["status"], row["error"]) == ("error", "missing")


def test_images_are_read_in_pieces_of_bytes(
    images: Path, read: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = manifest_table(images)
    assert [len(piece) for piece in pieces(table)] == [5]
    monkeypatch.setattr(read_module, "READ_BYTES", 1)
    small = pieces(table)
    assert [len(piece) for piece in small] == [1] * 5
    assert pa.concat_tables(small).equals(read)
    monkeypatch.setattr(read_module, "READ_BYTES", read.slice(0, 3).nbytes // 2)
    assert len(pieces(table)[0]) == 3
    assert pieces(table.slice(0, 0)) == []


def test_an_image_is_gone_when_the_next_one_is_decoded(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of 100 megapixels takes 0.3 GB, beside the 0.7 that decoding the next one takes."""
    decoded: list[weakref.ref[Any]] = []
    alive: list[int] = []

    def decode(data: bytes, options: ImageOptions) -> DecodedImage:
        alive.append(sum(image() is not None for image in decoded))
        image = decode_image(data, options)
        decoded.append(weakref.ref(image.pixels))
        return image

    monkeypatch.setattr(read_module, "READ_BYTES", 1)
    monkeypatch.setattr(read_module, "decode_image", decode)
    assert list(map(len, reading().in_pieces(manifest_table(images)))) == [1] * 5
    assert (len(decoded), alive) == (3, [0] * 4)


def pieces(table: pa.Table) -> list[pa.Table]:
    return list(reading().in_pieces(table))


def test_embedded_images_keep_the_file_byte_for_byte(images: Path) -> None:
    table = reading(embed_images=True)(manifest_table(images))
    for row in _ok(table):
        assert row["file"] == (images / row["image_id"]).read_bytes()


def test_options_reach_the_decoder(images: Path) -> None:
    table = reading(ImageOptions(max_pixels=99))(manifest_table(images))
    assert _ok(table) == []
    assert all("too large" in row["error"] for row in table.to_pylist()[2:])


def test_too_little_memory_to_decode_is_an_error_row(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(read_module, "decode_image", full)
    rows = reading()(manifest_table(images)).to_pylist()
    assert [row["status"] for row in rows] == ["error", "skipped", "error", "error", "error"]
    assert rows[2]["error"] == "read: out of memory on this image alone"

"""Label sets that are made to harm: small files that unpack to far more than a machine has."""

from __future__ import annotations

import base64
import struct
import subprocess
import sys
import textwrap
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pycocotools import mask as coco_mask

from segray.pipelines.commands import report
from segray.pipelines.errors import UserError
from segray.pipelines.io.label_png import decode_gray_png
from segray.pipelines.label_set import part_files
from segray.pipelines.label_set.part_reader import PartReader
from segray.pipelines.label_set.store import LabelStore, write_part
from tests.faults.runs import only_error, segray
from tests.pipelines.label_sets import PROVENANCE, ok_row, segment_rows, tables, write_manifest
from tests.processes import REPOSITORY

GB = 1 << 30
SIDE = 40_000

RECORD = {
    **PROVENANCE,
    "sam": {"model": "vit_b", "sha256": None},
    "clip": {"model": "builtin", "sha256": None, "weights": None},
    "config": {"label.templates": "single", "classes": "picture_book"},
    "prompts": {"names": [], "templates": []},
}


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_bomb(width: int, height: int, depth: int = 8, colour: int = 0) -> bytes:
    """A PNG of zeros."""
    stride = 1 + (width * depth + 7) // 8
    packer = zlib.compressobj(9)
    body = b"".join([*(packer.compress(bytes(stride)) for _ in range(height)), packer.flush()])
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    palette = _chunk(b"PLTE", bytes(3)) if colour == 3 else b""
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + palette
        + _chunk(b"IDAT", body)
        + _chunk(b"IEND", b"")
    )


def memory_of(program: str, *arguments: str, limit: int = GB) -> str:
    """Run a program that may take `limit` bytes beyond what its imports take; what it prints."""
    run = """
    import os, resource, sys
    import torch, segray.pipelines.commands.relabel, segray.pipelines.commands.verify
    import segray.pipelines.commands.report, segray.pipelines.training.data.datasets
    def peak():
        return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]) << 10
    before = peak()
    """
    text = textwrap.dedent(run) + textwrap.dedent(program) + "\nprint(peak() - before)\n"
    done = subprocess.run(
        [sys.executable, "-c", text, *arguments], capture_output=True, text=True, cwd=REPOSITORY, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    *lines, grown = done.stdout.splitlines()
    assert int(grown) < limit
    return "\n".join(lines)


def _one_image(folder: Path, row: dict[str, Any], segments: list[dict[str, Any]] | None = None) -> Path:
    root = folder / "labels"
    write_part(str(root), *tables([row], segments, provenance=RECORD, dim=64))
    write_manifest(str(root), [row["image_id"]])
    return root


VERIFY = """
from segray.pipelines.commands.verify import verify
print(*(problem.what for problem in verify(sys.argv[1]).problems), sep="\\n")
"""
REPORT = """
from segray.pipelines.commands.report import build
from segray.pipelines.errors import UserError
try:
    build(sys.argv[1])
except UserError as error:
    print(error)
"""
TRAIN = """
from segray.pipelines.errors import UserError
from segray.pipelines.training.data.datasets import UnlabelledImages
from segray.pipelines.training.data.samples import Sample
try:
    UnlabelledImages([Sample("a", "a")], sys.argv[1], ["background", "B\u00e4ume", "house"]).labels(0)
except UserError as error:
    print(error)
"""
RELABEL = """
from segray.pipelines.commands import relabel
from segray.pipelines.config.commands.relabel import RelabelConfig
from segray.pipelines.errors import UserError
try:
    relabel.run(RelabelConfig(labels=sys.argv[1], out=sys.argv[1] + "-2", classes=("cat", "dog")))
except UserError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize("program", [VERIFY, REPORT, TRAIN], ids=["verify", "report", "train"])
@pytest.mark.parametrize("colour", [0, 3])
def test_a_label_png_of_any_size_is_not_unpacked(tmp_path: Path, program: str, colour: int) -> None:
    bomb = png_bomb(SIDE, SIDE, 8 if colour == 0 else 1, colour)
    row = ok_row("a", label=bomb, confidence=bomb, width=SIDE, height=SIDE, n_segments=0)
    root = _one_image(tmp_path, row, [])
    assert "a PNG of 40000x40000 pixels (allowed: at most" in memory_of(program, str(root))


@pytest.mark.slow
def test_a_label_png_of_another_size_than_its_row_is_not_unpacked(tmp_path: Path) -> None:
    bomb = png_bomb(16_000, 16_000)
    root = _one_image(tmp_path, ok_row("a", label=bomb, confidence=bomb))
    seen = memory_of(VERIFY, str(root), limit=GB // 8)
    assert "label: the PNG is 16000x16000, its image 30x20" in seen


def _rle_of(height: int, width: int) -> dict[str, Any]:
    text = coco_mask.frPyObjects({"size": [height, width], "counts": [0, height * width]}, height, width)
    return {"size": [height, width], "counts": text["counts"]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("row", "segment", "why"),
    [
        ({}, {"rle": _rle_of(50_000, 50_000)}, "a mask of another size than the image, 30x20"),
        (
            {},
            {"rle": {"size": [20, 30], "counts": _rle_of(50_000, 50_000)["counts"]}},
            "run lengths that are",
        ),
        ({}, {"rle": None}, "a mask of another size than the image"),
        (
            {"width": 50_000, "height": 50_000},
            {"rle": _rle_of(50_000, 50_000)},
            "an image of 50000x50000 pixels (allowed: at most",
        ),
    ],
)
def test_a_mask_of_any_size_is_not_unpacked(
    tmp_path: Path, row: dict[str, Any], segment: dict[str, Any], why: str
) -> None:
    root = _one_image(tmp_path, ok_row("a", **row), segment_rows("a", 64, **segment))
    assert why in memory_of(RELABEL, str(root))
    memory_of(VERIFY, str(root))


@pytest.mark.slow
def test_more_masks_than_an_image_can_have_are_not_unpacked(tmp_path: Path) -> None:
    side = 8_000
    one = segment_rows("a", 64, rle=_rle_of(side, side))[0]
    many = [{**one, "segment_id": number} for number in range(100)]
    root = _one_image(tmp_path, ok_row("a", width=side, height=side, n_segments=100), many)
    assert "100 segments that cover the image more than 8 times" in memory_of(RELABEL, str(root))


def _texts(labels: pa.Table) -> pa.Table:
    return labels.set_column(
        labels.schema.get_field_index("error"), "error", pa.array(["x" * 3_000_000] * 400)
    )


def _numbers(labels: pa.Table) -> pa.Table:
    kind = labels.schema.field("class_ids").type
    index = labels.schema.get_field_index("class_ids")
    offsets = pa.array(np.arange(401, dtype=np.int32) * 700_000)
    values = pa.array(np.ones(280_000_000, kind.value_type.to_pandas_dtype()))
    lists = pa.ListArray.from_arrays(offsets, values, type=kind)
    return labels.set_column(index, labels.schema.field(index), lists)


def _pngs(labels: pa.Table) -> pa.Table:
    """The column that a report reads of the few images that it shows."""
    kind, index = labels.schema.field("label").type, labels.schema.get_field_index("label")
    cells = pa.chunked_array([pa.array([{"bytes": bytes(1 << 21), "path": None}] * 400, kind)])
    return labels.set_column(index, labels.schema.field(index), cells)


SHARED_PREFIXES = {"use_dictionary": False, "column_encoding": {"error": "DELTA_BYTE_ARRAY"}}
BOMBS: list[tuple[Callable[[pa.Table], pa.Table], dict[str, Any], str]] = [
    (_texts, {"use_dictionary": True}, "bytes unpack to"),
    (_texts, {"use_dictionary": False}, "bytes unpack to"),
    (_texts, SHARED_PREFIXES, "has the encoding DELTA_BYTE_ARRAY"),
    (_numbers, {"use_dictionary": True}, "bytes unpack to"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("change", "options", "why"), BOMBS)
@pytest.mark.parametrize("program", [VERIFY, REPORT, RELABEL], ids=["verify", "report", "relabel"])
def test_a_part_that_unpacks_to_any_size_is_not_read(
    tmp_path: Path, program: str, change: Callable[[pa.Table], pa.Table], options: dict[str, Any], why: str
) -> None:
    root = _bomb(tmp_path, change, options)
    assert why in memory_of(program, str(root), limit=GB // 2)


@pytest.mark.slow
@pytest.mark.parametrize("program", [VERIFY, REPORT], ids=["verify", "report"])
def test_labels_of_a_part_that_unpack_to_any_size_are_not_read(tmp_path: Path, program: str) -> None:
    root = _bomb(tmp_path, _pngs, {"use_dictionary": False})
    assert "bytes unpack to" in memory_of(program, str(root), limit=GB // 2)


@pytest.mark.slow
def test_a_label_sets_manifest_that_unpacks_to_any_size_is_not_read(tmp_path: Path) -> None:
    root = _one_image(tmp_path, ok_row("a"))
    ids = pa.DictionaryArray.from_arrays(pa.array([0] * 40_000, pa.int32()), pa.array(["a" * 80_000]))
    pq.write_table(pa.table({"image_id": ids, "uri": ids}), root / "manifest.parquet", store_schema=False)
    seen = memory_of(VERIFY, str(root), limit=GB // 4)
    assert "column image_id holds 80000 characters" in seen


def _bomb(folder: Path, change: Callable[[pa.Table], pa.Table], options: dict[str, Any]) -> Path:
    """A label set of 400 images, whose only part was changed by somebody who knows the format."""
    rows = [ok_row(f"{i:03}") for i in range(400)]
    labels, segments = tables(rows, segment_rows("000", 64), provenance=RECORD, dim=64)
    root = folder / "labels"
    part = write_part(str(root), labels, segments)
    write_manifest(str(root), [row["image_id"] for row in rows])
    key = change, repr(options)
    if key not in _made:
        _made[key] = _signed(change(labels), options)
    (root / "labels" / part).write_bytes(_made[key])
    return root


_made: dict[tuple[Callable[[pa.Table], pa.Table], str], bytes] = {}
"""Bombs that were made, which takes seconds each."""


def _signed(table: pa.Table, options: dict[str, Any]) -> bytes:
    """Parquet with a checksum that fits: whoever makes a bomb also writes that."""
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink, table.schema, compression="zstd", write_page_checksum=True, **options
    ) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({part_files._KEY: part_files._EMPTY.decode()})
    data = bytearray(sink.getvalue())
    position = part_files._digest_position(data)
    data[position : position + 64] = part_files._digest(data, position)
    return bytes(data)


@pytest.mark.slow
@pytest.mark.parametrize(("change", "options", "why"), BOMBS)
def test_the_reader_refuses_what_unpacks_to_any_size(
    change: Callable[[pa.Table], pa.Table], options: dict[str, Any], why: str
) -> None:
    data = _signed(change(tables([ok_row(f"{i:03}") for i in range(400)])[0]), options)
    with pytest.raises(pa.ArrowInvalid, match=why):
        PartReader(pa.BufferReader(data)).read()


def test_the_reader_reads_what_segray_writes(tmp_path: Path) -> None:
    labels, segments = tables([ok_row(f"{i:04}") for i in range(300)])
    for table, size in ((labels, 128), (segments, 4096)):
        data = part_files.encode_part(table, row_group_size=size)
        assert PartReader(pa.BufferReader(data)).read().equals(table)
    rng = np.random.default_rng(0)
    noise = pa.table({"a": rng.random(1_000_000), "b": [f"image-{i // 9:09}" for i in range(1_000_000)]})
    sink = pa.BufferOutputStream()
    pq.write_table(noise, sink, compression="zstd", row_group_size=100_000)
    assert PartReader(pa.BufferReader(sink.getvalue())).read().equals(noise)


@pytest.mark.parametrize("name", ["width", "height"])
def test_a_labelled_row_without_its_size_is_damage(tmp_path: Path, name: str) -> None:
    write_part(str(tmp_path), *tables([ok_row("a", **{name: None})]))
    write_manifest(str(tmp_path), ["a"])
    with pytest.raises(UserError, match=f"is damaged .a labelled row without {name}"):
        report.build(str(tmp_path))


def test_a_labelled_row_without_a_label_is_reported_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels, masks = tmp_path / "set", tmp_path / "masks"
    write_part(str(labels), *tables([ok_row("a", label=None)]))
    write_manifest(str(labels), ["a"])
    masks.mkdir()
    (masks / "a.png").write_bytes(ok_row("a")["label"])
    with pytest.raises(ValueError, match=r"not a PNG \(empty\)"):
        decode_gray_png(None)  # type: ignore[arg-type]
    for command in (
        ("export", f"labels={labels}", f"out={tmp_path / 'out'}"),
        ("evaluate", f"labels={labels}", f"masks={masks}"),
    ):
        assert segray(*command) == 2
        assert "is damaged (a labelled row without label); run: segray verify" in only_error(capsys)
    assert segray("report", f"out={labels}") == 2
    assert "label of a: not a PNG (empty); `segray verify` checks" in only_error(capsys)


def test_a_column_whose_name_is_no_text_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "part.parquet"
    pq.write_table(pa.table({"namename": ["a"]}), path)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"namename", b"name\xe8\xff\xe8\xff"))
    with pytest.raises(pa.ArrowInvalid, match="a column whose name is no text"):
        PartReader(pa.OSFile(str(path))).check([0], ["x"])


def _with_long_nulls(path: Path, size: int) -> None:
    """The part whose embeddings are null, and of this size by the schema in its footer."""
    table = pq.read_table(path)
    index = table.schema.get_field_index("embedding")
    kinds = [pa.list_(pa.field("element", pa.float16()), n) for n in (64, size)]
    table = table.set_column(index, "embedding", pa.nulls(table.num_rows, kinds[0]))
    data = part_files.encode_part(table, row_group_size=4096)
    schemas = (table.schema.set(index, pa.field("embedding", kind)) for kind in kinds)
    true, lie = (base64.b64encode(schema.serialize().to_pybytes()) for schema in schemas)
    assert data.count(true) == 1
    changed = bytearray(data.replace(true, lie))
    place = part_files._digest_position(changed)
    changed[place : place + 64] = part_files._digest(changed, place)
    path.write_bytes(changed)


@pytest.mark.parametrize(
    ("size", "why"), [(60_000, "bytes unpack to"), (70_000, "other columns than a label set's: embedding")]
)
def test_embeddings_that_are_null_and_of_any_length_are_refused(tmp_path: Path, size: int, why: str) -> None:
    """A null takes as much memory as the schema says: from four rows of a kilobyte, 17 GB."""
    row = ok_row("a.png")
    root = _one_image(tmp_path, row, segment_rows("a.png", dim=64) * 400)
    (path,) = (root / "segments").iterdir()
    _with_long_nulls(path, size)
    store = LabelStore(str(root))
    with pytest.raises(UserError, match=why):
        store.segments(store.parts()[0])

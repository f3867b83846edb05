"""Manifests of a few kilobytes that would unpack to gigabytes, and columns of kinds that no manifest has."""

from __future__ import annotations

import resource
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from segray.pipelines.errors import UserError
from segray.pipelines.io.parquet_pages import chunk_cost
from segray.pipelines.io.sources import list_images
from segray.pipelines.label_set.part_reader import PartReader

ROWS = 20_000
IDS = pa.array([f"{i:06d}.png" for i in range(ROWS)])


def repeated(text: str, rows: int = ROWS) -> pa.Array:
    """The same text in every row, without holding it as often."""
    return pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([text]))


BOMBS = {
    "a long uri in each row": (
        {"image_id": IDS, "uri": repeated("a" * 80_000)},
        "column uri holds 80000 characters",
    ),
    "a long reason in each row": (
        {"image_id": IDS, "uri": repeated("a"), "problem": repeated("x" * 80_000)},
        "column problem holds 80000 characters",
    ),
    "one endless uri": (
        {"image_id": ["a.png"], "uri": pa.array(["a" * 100_000_000])},
        "column uri unpacks from",
    ),
    "one endless mask": (
        {"image_id": ["a.png"], "uri": ["a.png"], "mask_uri": pa.array(["a" * 100_000_000])},
        "column mask_uri unpacks from",
    ),
    "endless rows": (
        {"image_id": repeated("a.png", 2_000_000), "uri": repeated("a.png", 2_000_000)},
        "it repeats values",
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_manifest_that_unpacks_to_gigabytes_is_refused_from_its_footer(tmp_path: Path, name: str) -> None:
    columns, reason = BOMBS[name]
    path = tmp_path / "m.parquet"
    pq.write_table(pa.table(columns), path, compression="zstd", store_schema=False)
    assert path.stat().st_size < 300_000
    del columns
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=rf"^manifest .*m\.parquet: (refused|unreadable) \(.*{reason}"):
        list_images(str(path))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024


def _varint(value: int, size: int = 0) -> bytes:
    """A number as Thrift's footer has it; with more bytes than it needs, if `size` asks for them."""
    value, data = value << 1, bytearray()
    while value > 127 or len(data) < size - 1:
        data.append(value & 127 | 128)
        value >>= 7
    return bytes([*data, value])


@pytest.mark.parametrize("dictionary", [True, False])
@pytest.mark.parametrize("name", ["image_id", "uri"])
def test_a_footer_that_tells_small_sizes_is_not_believed(tmp_path: Path, name: str, dictionary: bool) -> None:
    path = tmp_path / "m.parquet"
    columns = {"image_id": ["a.png"], "uri": ["a.png"], name: ["a" * 100_000_000]}
    pq.write_table(
        pa.table(columns), path, compression="zstd", use_dictionary=dictionary, write_statistics=False
    )
    index = list(columns).index(name)
    size = pq.read_metadata(path).row_group(0).column(index).total_uncompressed_size
    data = path.read_bytes()
    footer = int.from_bytes(data[-8:-4], "little") + 8
    true = _varint(size)
    lie = data[-footer:].replace(true, _varint(1000, len(true)))
    path.write_bytes(data[:-footer] + lie)
    assert (
        pq.read_metadata(path).row_group(0).column(list(columns).index(name)).total_uncompressed_size == 1000
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=rf"refused \(column {name} unpacks from \d+ to 1000\d+ bytes\)"):
        list_images(str(path))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024


def test_texts_that_share_prefixes_are_refused(tmp_path: Path) -> None:
    columns = {"image_id": IDS.to_pylist(), "uri": ["a" * 8_000] * ROWS}
    encoding = {"image_id": "PLAIN", "uri": "DELTA_BYTE_ARRAY"}
    path = tmp_path / "m.parquet"
    pq.write_table(pa.table(columns), path, use_dictionary=False, column_encoding=encoding)
    with pytest.raises(UserError, match=r"unreadable \(column uri has the encoding DELTA_BYTE_ARRAY\)"):
        list_images(str(path))


@pytest.mark.parametrize(
    ("name", "values", "wanted"),
    [
        ("uri", pa.array([["a.png"]]), "text"),
        ("uri", pa.array([b"a.png"]), "text"),
        ("mask_uri", pa.array([7]), "text"),
        ("problem", pa.array([{"x": "y"}]), "text"),
        ("size", pa.array(["many"]), "a number"),
        ("mtime", pa.array([[1.0]]), "a number"),
    ],
)
def test_a_column_of_another_kind_is_refused(
    tmp_path: Path, name: str, values: pa.Array, wanted: str
) -> None:
    columns = {"image_id": pa.array(["a.png"]), "uri": pa.array(["a.png"]), name: values}
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    with pytest.raises(UserError, match=rf"column {name} of .* is not {wanted}$"):
        list_images(str(tmp_path / "m.parquet"))


@pytest.mark.parametrize("size", [float("inf"), float("nan"), -1.0])
def test_odd_numbers_are_refused_or_harmless(tmp_path: Path, size: float) -> None:
    columns = {"image_id": ["a.png"], "uri": ["a.png"], "size": [size], "mtime": [size]}
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    if size > 0 or size != size:
        with pytest.raises(UserError, match="refused"):
            list_images(str(tmp_path / "m.parquet"))
    else:
        assert len(list(list_images(str(tmp_path / "m.parquet")))) == 1


def test_a_large_manifest_is_read_as_before(tmp_path: Path) -> None:
    ids = [f"2026/07/station-{i % 7}/camera/frame-{i:09d}.jpg" for i in range(40_000)]
    pq.write_table(
        pa.table({"image_id": sorted(ids), "uri": sorted(ids)}), tmp_path / "m.parquet", compression="zstd"
    )
    assert sum(1 for _ in list_images(str(tmp_path / "m.parquet"))) == len(ids)


def _manifest(path: Path, group: int = 100_000) -> bytes:
    ids = [f"{i:04d}.png" for i in range(200)]
    pq.write_table(pa.table({"image_id": ids, "uri": ids}), path, row_group_size=group, compression=None)
    return path.read_bytes()


def test_groups_of_rows_that_share_pages_are_refused(tmp_path: Path) -> None:
    """A page for each of a million groups: a small file is read for days."""
    path = tmp_path / "m.parquet"
    data = _manifest(path, 100)
    metadata = pq.read_metadata(path)
    first, second = (metadata.row_group(i).column(1).data_page_offset for i in (0, 1))
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    shared = data[footer:].replace(_varint(second), _varint(first))
    path.write_bytes(data[:footer] + shared)
    assert pq.read_metadata(path).row_group(1).column(1).data_page_offset == first
    with pytest.raises(UserError, match="its column chunks share bytes of the file"):
        list_images(str(path))
    with pytest.raises(pa.ArrowInvalid, match="share bytes"):
        PartReader(pa.OSFile(str(path)))


def test_more_rows_than_the_groups_hold_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    data = _manifest(path)
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    path.write_bytes(data[:footer] + data[footer:].replace(_varint(200), _varint(8000), 1))
    assert pq.read_metadata(path).num_rows == 8000
    with pytest.raises(UserError, match="8000 rows, its groups have others"):
        list_images(str(path))


def test_millions_of_images_in_a_few_bytes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "images.parquet"
    pq.write_table(pa.table({"image": pa.nulls(2_000_000, pa.binary())}), path, compression="zstd")
    assert path.stat().st_size < 10_000
    with pytest.raises(UserError, match=r"2000000 rows in \d+ bytes: it repeats values"):
        list_images(str(path))


def test_a_column_of_several_dictionaries_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    pq.write_table(pa.table({"x": ["a" * 100, "b"]}), path, compression=None)
    with pa.OSFile(str(path)) as source:
        chunk = pq.read_metadata(source).row_group(0).column(0)
        page = source.read_at(chunk.data_page_offset - 4, 4)
        twice = SimpleNamespace(
            **{name: getattr(chunk, name) for name in ("path_in_schema", "has_dictionary_page")},
            data_page_offset=4 + 2 * len(page),
            dictionary_page_offset=4,
            total_compressed_size=2 * len(page),
        )
        with pytest.raises(pa.ArrowInvalid, match="column x has several dictionaries"):
            chunk_cost(pa.BufferReader(b"PAR1" + page + page), twice)


@pytest.mark.parametrize("ids", [["a", "b", "b"], ["b", "a", "b"]])
def test_an_image_that_a_manifest_has_twice_is_refused(tmp_path: Path, ids: list[str]) -> None:
    """`plan` labelled both, and ended with a traceback."""
    path = tmp_path / "m.parquet"
    pq.write_table(pa.table({"image_id": ids, "uri": ids}), path)
    with pytest.raises(UserError, match=r"m\.parquet: image_id 'b' is in it twice; each must be unique"):
        list_images(str(path))


def test_a_column_whose_name_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    data = _manifest(path)
    path.write_bytes(data.replace(b"\x03uri", b"\x03u\xedi"))
    with pytest.raises(UserError, match=r"^manifest .*m\.parquet: refused \('utf-8' codec can't decode"):
        list_images(str(path))


@pytest.mark.parametrize("field", range(3))
def test_a_page_of_a_negative_size_is_refused(field: int) -> None:
    """It would make room for others."""
    sizes = [b"\x00"] * 3
    sizes[field] = b"\x01"
    unpacked, packed, values = sizes
    page = b"\x15\x00\x15" + unpacked + b"\x15" + packed + b"\x2c\x15" + values + b"\x15\x00\x00\x00"
    places = {"data_page_offset": 4, "has_dictionary_page": False, "total_compressed_size": len(page)}
    chunk = SimpleNamespace(path_in_schema="x", **places)
    with pytest.raises(pa.ArrowInvalid, match="a page with a negative size"):
        chunk_cost(pa.BufferReader(b"PAR1" + page), chunk)

"""Manifests of a few kilobytes that would unpack to gigabytes, and columns of kinds that no manifest has."""

from __future__ import annotations

import resource
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from segray.pipelines.errors import UserError
from segray.pipelines.io.sources import list_images

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
    with pytest.raises(UserError, match=rf"^manifest .*m\.parquet: refused \(.*{reason}"):
        list_images(str(path))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024


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

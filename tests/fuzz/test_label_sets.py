"""Label sets that somebody sent: rows, footers, PNGs, run lengths, manifest, run.json and config.yaml."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.fuzz.conftest import LABEL_SET_READERS
from tests.fuzz.edits import Built, Cut, Edit, cuts, damaged, edits, with_secret
from tests.fuzz.formats import Png, edited_footer, edited_json, edited_rows, edited_yaml, pngs
from tests.fuzz.runner import Runner

pytestmark = pytest.mark.slow

TABLES = ("set/labels/", "set/segments/", "set/manifest.parquet")
every_reader = pytest.mark.parametrize("reader", LABEL_SET_READERS)


def name_of(files: dict[str, bytes], prefix: str) -> str:
    return next(name for name in files if name.startswith(prefix))


def replaced(files: dict[str, bytes], prefix: str, data: bytes) -> dict[str, bytes]:
    return {**files, name_of(files, prefix): data}


def column_of(files: dict[str, bytes], prefix: str, column: str, cell: object) -> bytes:
    """The table with a column that holds one value in every row."""
    table = pq.read_table(io.BytesIO(files[name_of(files, prefix)]))
    index = table.schema.get_field_index(column)
    field = table.schema.field(index)
    table = table.set_column(index, field, pa.array([cell] * table.num_rows, field.type))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


@every_reader
@given(prefix=st.sampled_from(TABLES), changes=edits)
@example(prefix="set/labels/", changes=[Edit(5, "replace", 0)])
@example(prefix="set/labels/", changes=[Edit(3, "replace", None)])
@example(prefix="set/segments/", changes=[Edit(79, "replace", 0)])
def test_rows(runner: Runner, valid: dict[str, bytes], reader: str, prefix: str, changes: list[Edit]) -> None:
    rows = edited_rows(valid[name_of(valid, prefix)], with_secret(changes, str(runner.secret)))
    runner.check(reader, replaced(valid, prefix, rows))


@every_reader
@given(prefix=st.sampled_from(TABLES[:2]), changes=edits)
@example(prefix="set/labels/", changes=[Edit(0, "replace", 0)])
@example(prefix="set/labels/", changes=[Edit(1, "replace", 0)])
@example(prefix="set/labels/", changes=[Edit(1, "replace", -1)])
def test_footers(
    runner: Runner, valid: dict[str, bytes], reader: str, prefix: str, changes: list[Edit]
) -> None:
    footer = edited_footer(valid[name_of(valid, prefix)], with_secret(changes, str(runner.secret)))
    runner.check(reader, replaced(valid, prefix, footer))


@every_reader
@given(prefix=st.sampled_from((*TABLES, "set/run.json", "set/config.yaml")), changes=cuts)
def test_bytes(runner: Runner, valid: dict[str, bytes], reader: str, prefix: str, changes: list[Cut]) -> None:
    runner.check(reader, replaced(valid, prefix, damaged(valid[name_of(valid, prefix)], changes)))


@every_reader
@given(column=st.sampled_from(["label", "confidence"]), png=pngs)
@example(column="label", png=Png(0, 0, 1, 0, 0))
def test_pngs(runner: Runner, valid: dict[str, bytes], reader: str, column: str, png: Png) -> None:
    cell = {"bytes": png.data(), "path": None}
    runner.check(reader, replaced(valid, "set/labels/", column_of(valid, "set/labels/", column, cell)))


@every_reader
@given(
    size=st.lists(st.sampled_from([0, 1, 48, 64, -1, 2**20, 2**31 - 1]), min_size=2, max_size=2),
    counts=st.binary(max_size=30) | st.sampled_from([b"ooooooooooooooooooo", b"P" * 100_000, b"PP\\n1", b""]),
)
def test_run_lengths(
    runner: Runner, valid: dict[str, bytes], reader: str, size: list[int], counts: bytes
) -> None:
    cell = {"size": size, "counts": counts}
    runner.check(reader, replaced(valid, "set/segments/", column_of(valid, "set/segments/", "rle", cell)))


@every_reader
@given(changes=edits)
@example(changes=[Edit(0, "replace", Built("nested", 3000))])
@example(changes=[Edit(475, "replace", "")])
def test_run_records(runner: Runner, valid: dict[str, bytes], reader: str, changes: list[Edit]) -> None:
    record = edited_json(valid["set/run.json"], with_secret(changes, str(runner.secret)))
    config = edited_yaml(valid["set/config.yaml"], with_secret(changes, str(runner.secret)))
    runner.check(reader, {**valid, "set/run.json": record, "set/config.yaml": config})


TRANSITION = b"""{"transition": {"classes": ["background", "tree", "house"],
 "shares": [[0.8, 0.1, 0.1], [0.2, 0.8, 0], [0, 0.25, 0.75]], "prior": [0.5, 0.5, 0]}}"""


@given(changes=edits)
@example(changes=[])
def test_calibrations(runner: Runner, changes: list[Edit]) -> None:
    runner.check("transition", {"set/calibration.json": edited_json(TRANSITION, changes)})


@given(changes=edits)
@example(changes=[Edit(0, "replace", "\U00010000")])
@example(changes=[Edit(0, "replace", "a" * 100_000)])
def test_repairs(runner: Runner, valid: dict[str, bytes], changes: list[Edit]) -> None:
    config = edited_yaml(valid["set/config.yaml"], with_secret(changes, str(runner.secret)))
    runner.check("repair", {**valid, "set/config.yaml": config})


@given(name=st.sampled_from(["set/manifest.parquet", "set/config.yaml", "set/run.json"]), changes=cuts)
def test_repairs_of_damaged_files(
    runner: Runner, valid: dict[str, bytes], name: str, changes: list[Cut]
) -> None:
    runner.check("repair", {**valid, name: damaged(valid[name], changes)})

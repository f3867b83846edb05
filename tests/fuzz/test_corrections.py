"""Corrections and files of other tools that somebody sent."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from segray.models.masks import encode_rle, segment_from_mask
from segray.pipelines.corrections import Correction
from segray.pipelines.corrections.correction import SCHEMA, to_table
from segray.pipelines.exporting.brush import encode_brush
from segray.pipelines.exporting.cvat import row_runs
from segray.pipelines.exporting.label_studio import task
from segray.pipelines.label_set.part_files import encode_part
from tests.fuzz.edits import Built, Cut, Edit, cuts, damaged, edits, with_secret
from tests.fuzz.formats import edited_json, edited_table
from tests.fuzz.runner import Runner

pytestmark = pytest.mark.slow

PART = "set/corrections/part-20260101T000000000000-00000000.parquet"
IMAGE, SIZE = "a.png", (48, 64)
MASK = np.zeros(SIZE, bool)
MASK[4:20, 8:40] = True
RLE = encode_rle(segment_from_mask(MASK), *SIZE)[1]


def log_of(valid: dict[str, bytes]) -> pa.Table:
    """A log of three corrections of the label set's first image."""
    name = next(name for name in valid if name.startswith("set/labels/"))
    rows = pq.read_table(io.BytesIO(valid[name]), columns=["image_id", "sha256"]).to_pylist()
    digest = next(row["sha256"] for row in rows if row["image_id"] == IMAGE)
    common: dict[str, Any] = {"image": IMAGE, "image_digest": digest, "size": SIZE, "who": "fuzz"}
    keys = [f"20260101T00000000000{i}-00000000" for i in range(3)]
    return to_table(
        [
            Correction(key=keys[0], kind="name", segments=(0,), class_name="house", **common),
            Correction(key=keys[1], kind="paint", mask=RLE, class_name="tree", **common),
            Correction(key=keys[2], kind="undo", target=keys[0], **common),
        ]
    )


def part_of(table: pa.Table) -> bytes:
    """With the checksum that a part needs, in the log's types where the values allow that."""
    columns = []
    for field in SCHEMA:
        values = (
            table[field.name].to_pylist() if field.name in table.column_names else [None] * table.num_rows
        )
        try:
            columns.append(pa.array(values, field.type))
        except (pa.ArrowException, ValueError, TypeError, OverflowError):
            columns.append(pa.array([None] * table.num_rows, field.type))
    return encode_part(pa.table(columns, schema=SCHEMA), row_group_size=100)


@given(changes=edits)
@example(changes=[])
@example(changes=[Edit(23, "replace", Built("nested", 3000))])
def test_logs(runner: Runner, valid: dict[str, bytes], changes: list[Edit]) -> None:
    table = log_of(valid).set_column(
        SCHEMA.get_field_index("when"),
        "when",
        pa.array(["2026"] * 3),  # edits know no times
    )
    edited = edited_table(table, with_secret(changes, str(runner.secret)))
    if "when" in edited.column_names:
        when = pa.array([0] * edited.num_rows, pa.timestamp("us", "UTC"))
        edited = edited.set_column(edited.column_names.index("when"), "when", when)
    answer = runner.check("corrections", {**valid, PART: part_of(edited)})
    assert changes or answer.how == "ok"


@given(changes=cuts)
def test_damaged_logs(runner: Runner, valid: dict[str, bytes], changes: list[Cut]) -> None:
    runner.check("corrections", {**valid, PART: damaged(part_of(log_of(valid)), changes)})


def _coco() -> bytes:
    rle = {"size": list(SIZE), "counts": RLE.decode()}
    annotations = [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": rle}]
    annotations.append({"id": 2, "image_id": 1, "category_id": 2, "segmentation": [[1, 1, 9, 1, 9, 9]]})
    return json.dumps(
        {
            "images": [{"id": 1, "file_name": IMAGE, "height": SIZE[0], "width": SIZE[1]}],
            "annotations": annotations,
            "categories": [{"id": 1, "name": "tree"}, {"id": 2, "name": "house"}],
        }
    ).encode()


def _label_studio() -> bytes:
    one = task(IMAGE, "", SIZE, [("tree", encode_brush(MASK))])
    result = one.pop("predictions")[0]["result"]
    shape = {k: v for k, v in result[0].items() if k not in ("type", "value")}
    value = {"points": [[1, 1], [50, 1], [50, 50]], "polygonlabels": ["house"]}
    result.append({**shape, "type": "polygonlabels", "value": value})
    return json.dumps([{**one, "annotations": [{"result": result}]}]).encode()


def _cvat() -> bytes:
    box = segment_from_mask(MASK)
    place = 'left="{}" top="{}" width="{}" height="{}"'.format(*box.box)
    mask = f'<mask label="tree" rle="{row_runs(box.mask)}" {place} z_order="0"/>'
    size = f'width="{SIZE[1]}" height="{SIZE[0]}"'
    polygon = '<polygon label="house" points="1,1;9,1;9,9"/>'
    return f'<annotations><image id="0" name="{IMAGE}" {size}>{mask}{polygon}</image></annotations>'.encode()


@pytest.mark.parametrize("source", [_coco, _label_studio])
@given(changes=edits)
@example(changes=[])
def test_json_of_other_tools(
    runner: Runner, valid: dict[str, bytes], source: Any, changes: list[Edit]
) -> None:
    data = edited_json(source(), with_secret(changes, str(runner.secret)))
    answer = runner.check("import", {**valid, "source.json": data})
    assert changes or answer.how == "ok"


@pytest.mark.parametrize("source", [_coco, _label_studio, _cvat])
@given(changes=cuts)
def test_damaged_files_of_other_tools(
    runner: Runner, valid: dict[str, bytes], source: Any, changes: list[Cut]
) -> None:
    runner.check("import", {**valid, "source.any": damaged(source(), changes)})


@given(changes=cuts)
def test_damaged_labels_of_yolo(runner: Runner, valid: dict[str, bytes], changes: list[Cut]) -> None:
    label = damaged(b"0 0.1 0.1 0.9 0.1 0.5 0.9\n1 0 0 1 0 1 1\n", changes)
    files = {"source.yolo/labels/a.txt": label, "source.yolo/data.yaml": b"names: [tree, house]"}
    answer = runner.check("import", {**valid, **files})
    assert changes or answer.how == "ok"


@given(
    runs=st.lists(st.integers(-1, 10**6) | st.sampled_from([10**30, -(2**63)]), max_size=6),
    side=st.integers(-1, 10**9),
)
@example(runs=[0, 4], side=2)
def test_masks_of_cvat(runner: Runner, valid: dict[str, bytes], runs: list[int], side: int) -> None:
    place = f'left="0" top="0" width="{side}" height="{side}"'
    mask = f'<mask label="tree" rle="{",".join(map(str, runs))}" {place} z_order="0"/>'
    image = f'<image id="0" name="{IMAGE}" width="{max(side, 64)}" height="{max(side, 48)}">{mask}</image>'
    runner.check("import", {**valid, "source.xml": f"<annotations>{image}</annotations>".encode()})

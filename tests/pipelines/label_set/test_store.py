from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import segray
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.label_set.store import (
    DamagedPartError,
    LabelStore,
    class_counts,
    labels_schema,
    part_name,
    prepare_output,
    segments_schema,
    write_part,
    write_run,
)
from tests.pipelines.label_sets import (
    IDS,
    PROVENANCE,
    error_row,
    label_map,
    ok_row,
    segment_rows,
    tables,
    write_set,
)
from tests.pipelines.object_stores import s3_server


@pytest.fixture(params=["local", "memory", "flaky", "s3 with 503"])
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param.startswith("s3"):
        yield from s3_server(monkeypatch, 10)
    else:
        yield str(tmp_path) if request.param == "local" else f"{request.param}:/{tmp_path}"


def test_a_set_reads_back_as_it_was_written_on_every_storage(root: str) -> None:
    parts = write_set(root)
    store = LabelStore(root)
    assert store.parts() == sorted(parts)
    assert store.provenance == PROVENANCE
    assert sorted(store.statuses()) == sorted(
        (i, "error" if i == IDS[-1] else "ok", part_name(IDS[k : k + 2]))
        for k in (0, 2, 4)
        for i in IDS[k : k + 2]
    )
    labels, segments = tables([ok_row(IDS[0]), ok_row(IDS[1])])
    assert pa.Table.from_pylist(list(store.rows(parts=[parts[0]])), schema=labels.schema).equals(labels)
    assert store.segments(parts[0]).equals(segments)
    assert store.run() is None
    write_run(root, {"n_ok": 5, "name": "日本"})
    assert store.run() == {"n_ok": 5, "name": "日本"}
    for part in parts:
        store.discard(part)
    assert (store.parts(), store.orphans()) == ([], [])


def test_the_schema_is_the_documented_one() -> None:
    assert labels_schema(PROVENANCE).to_string(show_schema_metadata=False).splitlines() == [
        "image_id: string",
        "image: struct<bytes: binary, path: string>",
        "  child 0, bytes: binary",
        "  child 1, path: string",
        "sha256: string",
        "width: int32",
        "height: int32",
        "label: struct<bytes: binary, path: string>",
        "  child 0, bytes: binary",
        "  child 1, path: string",
        "confidence: struct<bytes: binary, path: string>",
        "  child 0, bytes: binary",
        "  child 1, path: string",
        "class_ids: list<element: int64>",
        "  child 0, element: int64",
        "class_pixels: list<element: int64>",
        "  child 0, element: int64",
        "mean_confidence: float",
        "labelled_fraction: float",
        "n_segments: int32",
        "status: string",
        "error: string",
        "run_id: string",
    ]
    kinds = {field.name: str(field.type) for field in segments_schema(512, PROVENANCE)}
    assert kinds == {
        "image_id": "string",
        "segment_id": "int32",
        "bbox": "fixed_size_list<element: float>[4]",
        "area": "int64",
        "class_id": "int16",
        "score": "float",
        "margin": "float",
        "runner_up_class": "int16",
        "predicted_iou": "float",
        "stability_score": "float",
        "rle": "struct<size: fixed_size_list<element: int32>[2], counts: binary>",
        "embedding": "fixed_size_list<element: halffloat>[512]",
    }


def test_files_keep_pngs_as_they_are_and_compress_the_rest(tmp_path: Path) -> None:
    rows = [ok_row(f"{i}.jpg") for i in range(300)]
    part = write_part(str(tmp_path), *tables(rows))
    meta = pq.ParquetFile(tmp_path / "labels" / part).metadata
    assert [meta.row_group(i).num_rows for i in range(meta.num_row_groups)] == [128, 128, 44]
    leaves = [meta.row_group(0).column(i) for i in range(meta.num_columns)]
    codecs = {leaf.path_in_schema: leaf.compression for leaf in leaves}
    plain = {"image.bytes", "label.bytes", "confidence.bytes"}
    assert {name for name, codec in codecs.items() if codec == "UNCOMPRESSED"} == plain
    assert {codec for name, codec in codecs.items() if name not in plain} == {"ZSTD"}
    data = (tmp_path / "labels" / part).read_bytes()
    assert data.count(ok_row("")["label"]) == 300


@pytest.mark.parametrize("dim", [None, 1, 512])
def test_empty_and_null_columns_survive(tmp_path: Path, dim: int | None) -> None:
    labels, segments = tables([error_row("a"), error_row("b", status="skipped", error="animated")], dim=dim)
    part = write_part(str(tmp_path), labels, segments)
    store = LabelStore(str(tmp_path))
    assert store.segments(part).equals(segments)
    assert store.segments(part, ["image_id", "area"]).schema.names == ["image_id", "area"]
    assert [(r["status"], r["label"], r["class_ids"], r["width"]) for r in store.rows()] == [
        ("error", None, None, None),
        ("skipped", None, None, None),
    ]
    assert pq.ParquetFile(tmp_path / "segments" / part).num_row_groups == 0


def test_a_missing_embedding_is_null_and_others_keep_every_bit(tmp_path: Path) -> None:
    rows = [*segment_rows("a", 4), *segment_rows("b", 4, embedding=None)]
    part = write_part(str(tmp_path), *tables([ok_row("a"), ok_row("b")], rows))
    column = LabelStore(str(tmp_path)).segments(part)["embedding"]
    assert [v is None for v in column.to_pylist()] == [False, False, True, False]
    stored = column.combine_chunks().flatten().to_numpy()
    np.testing.assert_array_equal(stored, np.concatenate([rows[i]["embedding"] for i in (0, 1, 3)]))


def test_wrong_rows_are_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown columns \['lable'\]; allowed: \['image_id'"):
        tables([ok_row("a", lable=b"")])
    with pytest.raises(ValueError, match=r"an embedding has shape \(3,\), the schema says \(4,\)"):
        tables([ok_row("a")], segment_rows("a", embedding=np.zeros(3)))
    with pytest.raises(ValueError, match=r"provenance\['classes'\] must list the class names"):
        tables([error_row("a")], provenance={"classes": []})


def test_a_part_must_hold_each_image_once_and_no_strange_segments(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="each once: 2 rows, 1 ids"):
        write_part(str(tmp_path), *tables([error_row("a"), error_row("a")]))
    with pytest.raises(ValueError, match="each once: 0 rows"):
        write_part(str(tmp_path), *tables([]))
    with pytest.raises(ValueError, match=r"segments of images that are not in the labels: \['b'\]"):
        write_part(str(tmp_path), *tables([ok_row("a")], segment_rows("b")))
    assert storage.list_names(str(tmp_path)) == []


def test_names_come_from_the_ids_in_any_order() -> None:
    # printf 'a.jpg\0b.jpg' | sha256sum
    assert part_name(["b.jpg", "a.jpg"]) == "part-c5fcd6f89f789abd.parquet"
    assert part_name(["a.jpg", "b.jpg"]) == part_name(iter(["b.jpg", "a.jpg"]))
    assert part_name(["a.jpgb.jpg"]) != part_name(["a.jpg", "b.jpg"])


def test_class_counts_leave_out_the_ignore_index() -> None:
    assert class_counts(label_map()) == ([0, 1, 2], [427, 63, 80])
    assert class_counts(label_map(), 0) == ([1, 2, 255], [63, 80, 30])


def test_a_retried_task_leaves_one_committed_part(tmp_path: Path) -> None:
    first = write_part(str(tmp_path), *tables([ok_row("a"), ok_row("b")]))
    before = (tmp_path / "labels" / first).read_bytes()
    again = write_part(str(tmp_path), *tables([ok_row("b"), ok_row("a", run_id="other")]))
    assert again == first
    assert LabelStore(str(tmp_path)).parts() == [first]
    assert (tmp_path / "labels" / first).read_bytes() == before


def test_errors_travel_between_processes() -> None:
    error = pickle.loads(pickle.dumps(DamagedPartError("damaged", exit_code=1)))
    assert (str(error), error.exit_code) == ("damaged", 1)


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda path: path.write_bytes(b""), "empty file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "truncated or not Parquet"),
        (lambda path: path.write_bytes(_flipped(path.read_bytes(), 600)), "changed after it was written"),
    ],
)
def test_readers_refuse_a_damaged_part(tmp_path: Path, harm: Any, reason: str) -> None:
    part = write_part(str(tmp_path), *tables([ok_row("a")]))
    harm(tmp_path / "labels" / part)
    harm(tmp_path / "segments" / part)
    store = LabelStore(str(tmp_path))
    for read in (lambda: list(store.rows()), lambda: store.segments(part)):
        with pytest.raises(
            DamagedPartError, match=rf"{part} is damaged \({reason}.*; run: segray verify out="
        ):
            read()


def test_an_unanswering_disk_is_not_called_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_part(str(tmp_path), *tables([ok_row("a")]))

    def refuse(uri: str) -> pa.NativeFile:
        raise OSError("Stale file handle")

    monkeypatch.setattr(storage, "open_input", refuse)
    with pytest.raises(UserError, match=r"cannot read .*: Stale file handle$") as caught:
        list(LabelStore(str(tmp_path)).statuses())
    assert not isinstance(caught.value, DamagedPartError)


def _flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :]


def test_missing_sets_and_unknown_columns_are_named(tmp_path: Path) -> None:
    store = LabelStore(str(tmp_path / "none"))
    assert (store.parts(), list(store.rows()), list(store.statuses()), store.run()) == ([], [], [], None)
    with pytest.raises(UserError, match="none: no label set here"):
        _ = store.provenance
    write_part(str(tmp_path), *tables([ok_row("a")]))
    with pytest.raises(ValueError, match=r"no columns \['lable'\] in labels; allowed: \['image_id'"):
        list(LabelStore(str(tmp_path)).rows(["image_id", "lable"]))


def test_statuses_read_two_columns_only(tmp_path: Path) -> None:
    """With the pages of every other column destroyed, ids and statuses still come."""
    part = write_part(str(tmp_path), *tables([ok_row("a"), ok_row("b")]))
    path = tmp_path / "labels" / part
    data = bytearray(path.read_bytes())
    group = pq.ParquetFile(path).metadata.row_group(0)
    for leaf in (group.column(i) for i in range(group.num_columns)):
        if leaf.path_in_schema not in {"image_id", "status"}:
            start = leaf.dictionary_page_offset or leaf.data_page_offset
            data[start : start + leaf.total_compressed_size] = bytes(leaf.total_compressed_size)
    path.write_bytes(data)
    assert list(LabelStore(str(tmp_path)).statuses()) == [("a", "ok", part), ("b", "ok", part)]


def test_an_output_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    prepare_output(str(tmp_path / "new"))
    write_set(tmp_path / "ours")
    for name in (".DS_Store", "README.md"):
        (tmp_path / "ours" / name).write_bytes(b"")
    prepare_output(str(tmp_path / "ours"))
    for name in ("photo.jpg", "labels/photo.txt", "README.md"):
        folder = tmp_path / name.replace("/", "_").partition(".")[0]
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(b"")
        with pytest.raises(UserError, match=rf"holds 1 files of something else \({name}\); allowed: a new"):
            prepare_output(str(folder))
    with pytest.raises(UserError, match="is not a folder that can be listed"):
        prepare_output(str(tmp_path / "photo" / "photo.jpg"))


@pytest.mark.parametrize(
    ("folder", "column", "values", "why"),
    [
        ("labels", "width", pa.array(["wide"]), r"other columns than a label set's: width"),
        ("labels", "status", pa.array([None], pa.string()), "a row without status"),
        ("labels", "image_id", pa.array([None], pa.string()), "a row without image_id"),
        ("segments", "rle", pa.array([1, 2]), r"other columns than a label set's: rle"),
        ("segments", "embedding", pa.array(["a", "b"]), r"other columns than a label set's: embedding"),
        ("segments", "score", None, r"other columns than a label set's: score"),
    ],
)
def test_readers_refuse_columns_of_another_type_and_rows_without_keys(
    tmp_path: Path, folder: str, column: str, values: pa.Array | None, why: str
) -> None:
    part = write_part(str(tmp_path), *tables([ok_row("a")]))
    path = tmp_path / folder / part
    table = pq.read_table(path)
    table = table.drop_columns([column]) if values is None else _with_column(table, column, values)
    pq.write_table(table, path)
    store = LabelStore(str(tmp_path))
    readers = {
        "labels": [lambda: list(store.rows()), lambda: list(store.statuses())],
        "segments": [lambda: store.segments(part)],
    }
    for read in readers[folder]:
        with pytest.raises(DamagedPartError, match=rf"{part} is damaged \({why}\); run: segray verify"):
            read()


def _with_column(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, values)


@pytest.mark.parametrize(
    "segment", [{"rle": None}, {"rle": {"size": [20, 31], "counts": b"1"}}, {"rle": {"size": [20, 30]}}]
)
def test_the_python_api_refuses_masks_that_are_not_the_images(
    tmp_path: Path, segment: dict[str, Any]
) -> None:
    write_part(str(tmp_path), *tables([ok_row("a")], segment_rows("a", **segment)))
    (sample,) = segray.LabelSet(tmp_path)
    with pytest.raises(UserError, match="segment 0 is damaged"):
        _ = sample.segments[0].mask
    assert sample.segments[1].mask.shape == sample.label.shape


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"label": b"PNG"}, "a is damaged"),
        ({"height": 21}, "a is damaged"),
        *(({name: None}, f"a labelled row without {name}") for name in ("width", "label", "confidence")),
    ],
)
def test_the_python_api_refuses_labels_that_are_not_the_images(
    tmp_path: Path, change: dict[str, Any], why: str
) -> None:
    write_part(str(tmp_path), *tables([ok_row("a", **change)]))
    with pytest.raises(UserError, match=why):
        list(segray.LabelSet(tmp_path))


def test_run_json_is_plain_json(tmp_path: Path) -> None:
    write_run(str(tmp_path), {"b": 1, "a": [1, 2]})
    text = (tmp_path / "run.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"a": [1, 2], "b": 1}
    assert text.endswith("}\n")
    for damaged in ('{"a"', "[1]", "[" * 100_000, '{"rows": 1}', '{"rows": {"ok": "1"}}'):
        (tmp_path / "run.json").write_text(damaged, encoding="utf-8")
        with pytest.raises(UserError, match=r"run.json is damaged: .*; delete it"):
            LabelStore(str(tmp_path)).run()

"""The parts of an export: written here, or by tasks that know no more than their part."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from segray.models.masks import encode_rle, segment_from_mask
from segray.pipelines.config.commands.export import LABEL_FORMATS, ExportConfig
from segray.pipelines.corrections import CorrectionLog
from segray.pipelines.corrections.log import decode_corrections
from segray.pipelines.engine import cluster, ray_data, shared_storage
from segray.pipelines.engine.ledger import Ledger
from segray.pipelines.errors import UserError
from segray.pipelines.exporting import graph, run
from segray.pipelines.exporting.graph import MAX_TRIES, WriteParts, work_of
from segray.pipelines.exporting.writer import Writer
from segray.pipelines.io.run_lock import RunLock
from segray.pipelines.label_set.store import LabelStore
from tests.faults.invariant import files
from tests.pipelines.exporting.labelled import HEIGHT, IDS, WIDTH, export, write_labels


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """With a corner that was painted by hand."""
    root = write_labels(tmp_path)
    corner = np.zeros((HEIGHT, WIDTH), np.bool_)
    corner[:5, :7] = True
    log = CorrectionLog(root)
    mask = encode_rle(segment_from_mask(corner), HEIGHT, WIDTH)[1]
    log.append([log.make(IDS[0], "paint", class_name="car", mask=mask)])
    return root


def by_tasks(
    config: ExportConfig, writer: Writer, pending: Sequence[str], token: str
) -> Iterator[tuple[str, str]]:
    """What a cluster does, the last part first: each task unpickles a writer and what it has to do."""
    for part in reversed(pending):
        task = WriteParts(pickle.loads(pickle.dumps(writer.knowing([]))), token, Ledger())
        (row,) = task(pa.Table.from_pylist([work_of(writer, part)])).to_pylist()
        assert (row["part"], row["error"]) == (part, None)
        yield row["part"], row["finished"]


@pytest.mark.parametrize("form", LABEL_FORMATS)
def test_tasks_write_the_same_bytes_as_this_process(
    labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    keys = {"format": form, "val": 0.25, "min_confidence": 0.3, "classes.rider": "car"}
    here = export(labels, tmp_path / "here", **keys)
    monkeypatch.setattr(run, "_on_cluster", by_tasks)
    there = export(labels, tmp_path / "there", workers=2, **keys)
    assert files(tmp_path / "here") == files(tmp_path / "there")
    assert (here.class_pixels, here.losses) == (there.class_pixels, there.losses)


def test_few_images_need_no_ray_unless_it_is_asked_for(
    labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[int | None] = []

    def on_cluster(
        config: ExportConfig, writer: Writer, pending: Sequence[str], token: str
    ) -> Iterator[tuple[str, str]]:
        used.append(config.workers)
        return by_tasks(config, writer, pending, token)

    monkeypatch.setattr(run, "_on_cluster", on_cluster)
    monkeypatch.setattr(run, "FEW", len(IDS))
    export(labels, tmp_path / "few")
    assert used == []
    export(labels, tmp_path / "asked", workers=3)
    assert used == [3]
    monkeypatch.setattr(run, "FEW", len(IDS) - 1)
    export(labels, tmp_path / "many")
    assert used == [3, None]
    # Nothing is left to write.
    (tmp_path / "photos" / "four.png").unlink()
    export(labels, tmp_path / "gone")
    assert used == [3, None, None]


@pytest.fixture
def writer(labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Writer:
    """Of an export to out/ that has written nothing."""
    kept: list[Writer] = []

    def keep(
        config: ExportConfig, writer: Writer, pending: Sequence[str], token: str
    ) -> Iterator[tuple[str, str]]:
        kept.append(writer)
        yield from ()

    with monkeypatch.context() as patch:
        patch.setattr(run, "_on_cluster", keep)
        with pytest.raises(UserError, match=r"cannot read .*part-.*json"):
            export(labels, tmp_path / "out", workers=1)
    return kept[0]


def task_row(task: WriteParts, writer: Writer, part: str) -> dict[str, object]:
    (row,) = task(pa.Table.from_pylist([work_of(writer, part)])).to_pylist()
    return dict(row)


def test_a_task_is_sent_the_images_of_its_part_alone(writer: Writer, tmp_path: Path) -> None:
    sent = {
        part: json.loads(work_of(writer, part)["images"])
        for part in LabelStore(str(tmp_path / "labels")).parts()
    }
    assert sorted(tuple(image) for images in sent.values() for image in images) == [
        (image_id, "train", str(tmp_path / "photos" / image_id)) for image_id in IDS
    ]
    assert {len(images) for images in sent.values()} == {2}
    knows_nothing = writer.knowing([])
    assert (knows_nothing.plan.ids, knows_nothing.images.uris) == ((), {})


def test_a_task_is_sent_the_corrections_of_its_images_alone(writer: Writer, labels: Path) -> None:
    sent = {part: decode_corrections(work_of(writer, part)["corrections"]) for part in writer.plan.parts}
    assert sorted(map(len, sent.values())) == [0, 1]
    (part,) = (part for part, images in writer.plan.images.items() if IDS[0] in images)
    assert sent[part] == tuple(CorrectionLog(labels).read())
    assert writer.knowing([]).source.corrections == {}


def test_the_error_of_a_task_ends_the_export_with_its_status(writer: Writer, tmp_path: Path) -> None:
    part, other = LabelStore(str(tmp_path / "labels")).parts()
    stranger = task_row(WriteParts(writer.knowing([]), "another run", Ledger()), writer, part)
    assert stranger["exit_code"] == 4
    assert "another run took over" in str(stranger["error"])
    with RunLock(writer.out) as lock:
        task = WriteParts(writer.knowing([]), lock.token, Ledger())
        (tmp_path / "labels" / "labels" / part).write_bytes(b"PAR1")
        damaged = task_row(task, writer, part)
        assert task_row(task, writer, other)["error"] is None
    assert (damaged["finished"], damaged["exit_code"]) == (None, 2)
    assert f"{part} is damaged" in str(damaged["error"])


def test_a_part_whose_worker_died_often_is_not_begun_again(writer: Writer, tmp_path: Path) -> None:
    part, _ = LabelStore(str(tmp_path / "labels")).parts()
    ledger = Ledger()
    with RunLock(writer.out) as lock:
        task = WriteParts(writer.knowing([]), lock.token, ledger)
        # Whoever has ended a part may be asked for it again: its answer was on a machine that is lost.
        assert [task_row(task, writer, part)["error"] for _ in range(MAX_TRIES + 1)] == [None] * (
            MAX_TRIES + 1
        )
        for _ in range(MAX_TRIES):
            ledger.begin_alone("export", part)
        row = task_row(task, writer, part)
    assert row["error"] == f"{part} of {tmp_path / 'labels'}: its worker died 3 times"
    assert row["exit_code"] == 1


def test_all_machines_must_see_labels_roots_and_images(writer: Writer, tmp_path: Path) -> None:
    labels, photos = str(tmp_path / "labels"), tmp_path / "photos"
    roots = [str(photos)]
    assert run.shared_inputs(writer, roots) == [
        *(labels, *roots, str(photos / "a/two three.png"), str(photos / "b/ü.png"), str(photos / "four.png")),
    ]
    # Nobody has it: it is left out, and no machine is at fault.
    (photos / "four.png").unlink()
    assert run.shared_inputs(writer, ())[1:] == [str(photos / "a/two three.png"), str(photos / "b/ü.png")]


def test_ray_gives_a_part_of_many_images_more_time(
    writer: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patience: list[int] = []
    monkeypatch.setattr(cluster, "session", lambda *_: nullcontext())
    monkeypatch.setattr(shared_storage, "require_shared", lambda *_: None)
    monkeypatch.setattr(ray_data, "configure", patience.append)
    monkeypatch.setattr(graph, "finished_parts", lambda *_: iter(()))
    config = ExportConfig(labels=str(tmp_path / "labels"), out=writer.out, workers=1)
    assert list(run._on_cluster(config, writer, writer.plan.parts, "token")) == []
    assert patience == [ray_data.NO_PROGRESS_S + 2]

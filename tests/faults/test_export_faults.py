"""`segray export` is killed and started again; label sets that are made to harm."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from segray.pipelines.commands import export as command
from segray.pipelines.commands.export import export_labels
from segray.pipelines.config.commands.export import ExportConfig
from segray.pipelines.errors import UserError
from segray.pipelines.exporting.journal import Journal
from tests.faults.export_workers import DIES, DIES_ONCE, DyingWriter, deaths
from tests.faults.invariant import files
from tests.pipelines.exporting.labelled import RECORD, label_of
from tests.pipelines.label_set.small_store import (
    bad_row,
    ok_row,
    picture_book_store,
    png,
    write_manifest,
    write_store,
)
from tests.processes import REPOSITORY

_KILLED = """
import os, signal, sys
from segray.pipelines.cli import main
from segray.pipelines.io import local_files

left = int(sys.argv[1])
whole = local_files.write_atomic

def write(path, chunks):
    global left
    left -= 1
    if left < 0:
        # Half of a temporary file is what a killed writer leaves.
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / f".{path.name}.0.tmp").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    whole(path, chunks)

local_files.write_atomic = write
main(sys.argv[2:])
"""


@pytest.mark.parametrize(
    ("form", "writes"),
    # Within the first part; after its commit; between the last files.
    [
        ("png", 6),
        ("coco-panoptic", 13),
        pytest.param("coco", 14, marks=pytest.mark.slow),
        pytest.param("huggingface", 4, marks=pytest.mark.slow),
    ],
)
def test_an_export_that_is_killed_is_resumed_with_the_same_bytes(
    tmp_path: Path, form: str, writes: int
) -> None:
    labels, _ = picture_book_store(tmp_path / "store", 8, 32)
    out = tmp_path / "out"
    words = [f"labels={labels}", f"out={out}", f"format={form}", "val=0.25"]
    program = [sys.executable, "-c", _KILLED, str(writes), "export", *words]
    killed = subprocess.run(program, cwd=REPOSITORY, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert list(out.rglob(".*.tmp"))
    config = ExportConfig(labels=str(labels), out=str(out), format=form, val="0.25")
    export_labels(config)
    export_labels(config.model_copy(update={"out": str(tmp_path / "undisturbed")}))
    assert files(out) == files(tmp_path / "undisturbed")
    assert not list(out.rglob(".*.tmp"))


_KILLED_DRIVER = """
import os, signal, sys
from segray.pipelines.cli import main
from segray.pipelines.exporting.journal import Journal

left = int(sys.argv[1])
whole = Journal.commit

def commit(journal, part, finished):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    whole(journal, part, finished)

Journal.commit = commit
main(sys.argv[2:])
"""


def _labels(folder: Path, *names: str) -> Path:
    """Seven parts of two images each, and one for each of these names."""
    ids = [[f"{i}/a.png", f"{i}/b.png"] for i in range(7)] + [[name] for name in names]
    label = [label_of(number) for number in range(len(ids))]
    parts = [
        [ok_row(i, label[n], image=png(np.repeat(label[n][..., None], 3, -1))) for i in part]
        for n, part in enumerate(ids)
    ]
    return write_store(folder / "labels", *parts, provenance=RECORD)


def _check_same(config: ExportConfig, out: Path) -> None:
    """The files are those of an export in one process, and nothing half is left."""
    alone = out.parent / "alone"
    export_labels(config.model_copy(update={"out": str(alone), "workers": None}))
    assert files(out) == files(alone)
    assert not list(out.rglob(".*.tmp"))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_address")
@pytest.mark.timeout(600)
def test_an_export_by_workers_whose_driver_is_killed_is_resumed_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, out = _labels(tmp_path), tmp_path / "out"
    words = [f"labels={labels}", f"out={out}", "format=coco-panoptic", "val=0.25", "workers=2"]
    program = [sys.executable, "-c", _KILLED_DRIVER, "3", "export", *words]
    killed = subprocess.run(program, cwd=REPOSITORY, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    finished = {path.stem for path in (out / ".export").iterdir()}
    assert len(finished) == 3
    config = ExportConfig(labels=str(labels), out=str(out), format="coco-panoptic", val="0.25", workers=2)
    resumed: list[str] = []
    whole = Journal.commit

    def commit(journal: Journal, part: str, finished: str) -> None:
        resumed.append(part)
        whole(journal, part, finished)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "commit", commit)
        export_labels(config)
    assert len(resumed) == 4
    assert finished.isdisjoint(resumed)
    _check_same(config, out)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
@pytest.mark.timeout(600)
def test_a_worker_that_dies_while_it_exports_a_part_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, out = _labels(tmp_path, DIES_ONCE), tmp_path / "out"
    config = ExportConfig(labels=str(labels), out=str(out), format="webdataset", val="0.25", workers=2)
    with monkeypatch.context() as patch:
        patch.setattr(command, "Writer", DyingWriter)
        export_labels(config)
    assert deaths(out) == 1
    _check_same(config, out)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
@pytest.mark.timeout(600)
def test_a_part_that_kills_its_worker_again_and_again_ends_the_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, out = _labels(tmp_path, DIES), tmp_path / "out"
    config = ExportConfig(labels=str(labels), out=str(out), format="yolo-seg", workers=1)
    with monkeypatch.context() as patch:
        patch.setattr(command, "Writer", DyingWriter)
        with pytest.raises(
            UserError, match=r"^part-\w+\.parquet of .*labels: its worker died 3 times$"
        ) as caught:
            export_labels(config)
    assert (caught.value.exit_code, deaths(out)) == (1, 3)
    export_labels(config.model_copy(update={"workers": None}))
    _check_same(config, out)


@pytest.mark.parametrize("image_id", ["../../x.png", "/etc/x.png", "a/../../x.png", "a\nb.png"])
@pytest.mark.parametrize("form", ["png", "huggingface"])
def test_an_id_of_a_label_set_is_never_a_path_out_of_the_export(
    tmp_path: Path, form: str, image_id: str
) -> None:
    store = write_store(tmp_path / "labels", [ok_row(image_id, np.ones((4, 4), np.uint8))])
    with pytest.raises(UserError, match=r"image_id .* is refused; allowed: a relative path"):
        export_labels(ExportConfig(labels=str(store), out=str(tmp_path / "out"), format=form, images="none"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels"]


@pytest.mark.parametrize("mode", ["copy", "link"])
def test_an_export_takes_no_file_that_the_user_did_not_name(tmp_path: Path, mode: str) -> None:
    secret = tmp_path / "home" / "secret.png"
    secret.parent.mkdir()
    secret.write_bytes(b"secret")
    row = {**ok_row("x.png", np.ones((4, 4), np.uint8)), "sha256": None}
    store = write_store(tmp_path / "set" / "labels", [row, bad_row("y.png")])
    write_manifest(store, {"x.png": str(secret)})
    config = ExportConfig(labels=str(store), out=str(tmp_path / "out"), images=mode)
    result = export_labels(config)
    assert result.bad == (("x.png", "skipped", "not an image below the label set or image.roots"),)
    assert result.not_ok == {"error": 1}
    assert not list((tmp_path / "out").rglob("*.png"))


def test_a_map_with_an_id_that_is_no_class_stops_the_export(tmp_path: Path) -> None:
    store = write_store(tmp_path / "labels", [ok_row("x.png", np.full((4, 4), 77, np.uint8))])
    with pytest.raises(UserError, match=r"x\.png: its label has id 77, which is not a class; see"):
        export_labels(ExportConfig(labels=str(store), out=str(tmp_path / "out"), images="none"))


def test_noise_is_left_out_of_formats_with_objects(tmp_path: Path) -> None:
    noise = np.zeros((520, 520), np.uint8)
    noise[::2, ::2] = 1
    store = write_store(tmp_path / "labels", [ok_row("x.png", noise)])
    result = export_labels(
        ExportConfig(labels=str(store), out=str(tmp_path / "out"), format="coco", images="none")
    )
    assert result.bad == (("x.png", "skipped", "67600 objects of a class (allowed: at most 65536)"),)

"""Label sets, runs and searches of version 0.1.0.dev0 are read, resumed and trained on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from segray.pipelines import cli
from tests.previous_version.archive import unpack

BUILTIN = ["sam.model=builtin", "clip.model=builtin"]
RUN = [
    "data.kind=picture_book",
    "data.labelled=2",
    "network.name=builtin",
    "method=segray",
    "augment.crop=64",
    "train.batch=1",
    "train.lr=0.0004",
    "seed=1",
]

Segray = Callable[..., str]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return unpack(tmp_path)


@pytest.fixture
def segray(capsys: pytest.CaptureFixture[str]) -> Segray:
    """Runs a command that has to succeed; what it printed."""

    def run(*words: str) -> str:
        with pytest.raises(SystemExit) as ended:
            cli.main(words)
        output = capsys.readouterr()
        assert not ended.value.code, output.err
        return output.out + output.err

    return run


def rows(folder: Path) -> list[dict[str, object]]:
    """(image_id, status, run_id) of every image of a label set."""
    columns = ["image_id", "status", "run_id"]
    parts = sorted((folder / "labels").glob("part-*.parquet"))
    return [row for part in parts for row in pq.read_table(part, columns=columns).to_pylist()]


def data_of(root: Path) -> list[str]:
    return [f"data.root={root}/book", f"data.labels={root}/labels"]


@pytest.mark.ray
def test_a_label_set_is_resumed(
    root: Path, segray: Segray, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    labels = root / "labels"
    kept, removed = sorted((labels / "labels").glob("part-*.parquet"))
    before = pq.read_table(kept, columns=["image_id", "status", "run_id"]).to_pylist()
    removed.unlink()
    printed = segray(
        "annotate",
        "images=book/images",
        "classes=picture_book",
        f"out={labels}",
        "rows_per_part=4",
        "sam.points_per_side=8",
        "max_tries=2",
        "label.templates=single",
        *BUILTIN,
    )
    assert "8 images, 4 to do" in printed
    after = rows(labels)
    assert len({row["image_id"] for row in after}) == len(after) == 8
    assert all(row in after for row in before)


def test_a_label_set_is_verified_scored_reported_and_relabelled(root: Path, segray: Segray) -> None:
    labels = f"{root}/labels"
    segray("verify", f"out={labels}")
    assert "mIoU" in segray("evaluate", f"labels={labels}", f"masks={root}/book/masks")
    segray("report", f"out={labels}")
    segray(
        "relabel",
        f"labels={labels}",
        f"out={root}/new",
        "classes=picture_book",
        "label.threshold=0.2",
        "label.templates=single",
    )
    assert len(rows(root / "new")) == 8


@pytest.mark.slow
@pytest.mark.usefixtures("in_this_process")
def test_a_run_is_resumed_and_predicts(root: Path, segray: Segray) -> None:
    checkpoints = sorted((root / "run" / "checkpoints").glob("checkpoint_*/state.json"))
    stored = json.loads(checkpoints[-1].read_text(encoding="utf-8"))["history"]
    segray("train", f"out={root}/run", *data_of(root), *RUN, "train.epochs=24")
    history = json.loads((root / "run" / "history.json").read_text(encoding="utf-8"))
    entries = history["history"] if isinstance(history, dict) else history
    assert [entry["step"] for entry in entries] == [4 * epoch for epoch in range(1, 25)]
    assert [entry["loss"] for entry in entries[: len(stored)]] == [entry["loss"] for entry in stored]
    segray("report", f"out={root}/run")
    segray("predict", f"checkpoint={root}/run", f"images={root}/book/images", f"out={root}/predictions")
    assert len(list((root / "predictions" / "masks").rglob("*.png"))) == 8


@pytest.mark.ray
@pytest.mark.slow
def test_a_search_is_resumed(
    root: Path, segray: Segray, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    trials = root / "search" / "trials"
    assert len(list(trials.glob("*/trial.json"))) == 2
    printed = segray(
        "tune",
        f"out={root}/search",
        "data.root=book",
        "data.labels=labels",
        *[word for word in RUN if not word.startswith("data.labelled")],
        "train.epochs=2",
        "space.data.labelled=grid(2,3)",
        "space.pseudo.tau=uniform(0.5,0.9)",
        "search.trials=2",
        "search.finalists=1",
        "search.final_seeds=0",
        "search.held_out=0",
        "search.concurrent=1",
        "search.grace=1",
    )
    assert "4 trials: " in printed
    results = json.loads((root / "search" / "results.json").read_text(encoding="utf-8"))
    assert "0.2129855685763889" in json.dumps(results)

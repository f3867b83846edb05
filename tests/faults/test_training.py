"""A training run is killed in every way; the same command resumes it as if nothing had happened."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.faults.runs import segray
from tests.pipelines.training.runs import SHORT, book, config, trainer
from tests.processes import REPOSITORY, Finished, Process, started

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]

EPOCHS = 12
WORKER = "RayTrainWorker"


@dataclass(frozen=True)
class Story:
    """A run whose driver was killed, and then, in the run after it, its worker.

    Attributes:
        plain: history of an undisturbed run, without Ray.
        first: checkpoints that the killed driver left.
        second: how the run after it ended.
    """

    out: Path
    labels: Path
    root: Path
    plain: list[dict[str, Any]]
    first: int
    second: Finished

    @property
    def history(self) -> list[dict[str, Any]]:
        return json.loads((self.out / "history.json").read_text())


def checkpoints(out: Path) -> int:
    """How many are whole."""
    return len(list(out.glob("checkpoints/checkpoint_*/state.json")))


def train(out: Path, labels: Path, root: Path) -> list[str]:
    """Paths are relative, as a user types them; Ray's workers have other working directories."""
    paths = {"out": out, "data.root": root, "data.labels": labels}
    relative = [f"{key}={os.path.relpath(path, REPOSITORY)}" for key, path in paths.items()]
    return ["train", *SHORT, *relative, f"train.epochs={EPOCHS}", "train.num_cpus=1"]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    folder = tmp_path_factory.mktemp("training")
    labels, root = book(folder / "book")
    alone = config(folder / "plain", labels, root, f"train.epochs={EPOCHS}")
    plain = [dict(entry) for entry in trainer(alone, folder / "plain").run()]
    out = folder / "run"
    with started(train(out, labels, root), folder / "first") as process:
        process.wait_for(lambda: checkpoints(out) > 0)
        process.kill()
        process.wait_for_workers()
    first = checkpoints(out)
    with started(train(out, labels, root), folder / "second") as process:
        _kill_worker(process, out)
        second = process.wait()
    return Story(out, labels, root, plain, first, second)


def _kill_worker(process: Process, out: Path) -> None:
    """Once it has got further than the run before it."""
    known = {path.name for path in out.glob("checkpoints/checkpoint_*")}
    process.wait_for(lambda: any(p.name not in known for p in out.glob("checkpoints/checkpoint_*")))
    assert process.kill_worker(WORKER)


@pytest.fixture
def in_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory of the runs, which their paths are relative to."""
    monkeypatch.chdir(REPOSITORY)


def test_killed_driver_and_killed_worker_cost_nothing(story: Story) -> None:
    assert story.second.code == 0, story.second.err
    assert 0 < story.first < EPOCHS
    same = ("step", "loss", "miou", "iou", "from_model", "agreement", "enhanced_miou")
    assert [[e[k] for k in same] for e in story.history] == [[e[k] for k in same] for e in story.plain]


@pytest.mark.usefixtures("in_repository")
def test_finished_training_run_is_only_shown_again(story: Story, capsys: pytest.CaptureFixture[str]) -> None:
    before = (story.out / "history.json").read_bytes()
    assert segray(*train(story.out, story.labels, story.root)) == 0
    printed = capsys.readouterr()
    assert "best epoch" in printed.out
    assert "epoch 1/" not in printed.err
    assert (story.out / "history.json").read_bytes() == before


@pytest.mark.usefixtures("in_repository")
def test_training_run_with_another_configuration_is_refused(
    story: Story, capsys: pytest.CaptureFixture[str]
) -> None:
    assert segray(*train(story.out, story.labels, story.root), "pseudo.tau=0.8") == 2
    complaints = [line for line in capsys.readouterr().err.splitlines() if line.startswith("segray: ")]
    assert complaints[1] == "segray:   pseudo.tau: None -> 0.8"


def test_best_and_last_checkpoints_are_whole(story: Story) -> None:
    from segray.pipelines.training.checkpoints import load_checkpoint

    last = load_checkpoint(str(story.out / "last"))
    best = load_checkpoint(str(story.out / "best"))
    assert last.state["step"] == last.state["total"]
    assert best.state["history"][-1]["miou"] == max(entry["miou"] for entry in story.history)

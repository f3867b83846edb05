"""A search on a small picture book: ends, resumes, stops weak trials, and leaves what it promises."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from segray.pipelines.config.commands.annotate import LabelConfig
from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.config.commands.tune import TuneConfig
from segray.pipelines.config.loading import load
from segray.pipelines.errors import UserError
from segray.tuning.folder import SearchFolder, read_trials
from segray.tuning.label_sets import relabelling
from segray.tuning.records import Trial
from segray.tuning.search import run
from segray.tuning.trial import STOPPED, cause
from tests.pipelines.label_set.small_store import PROVENANCE, bad_row, write_store
from tests.pipelines.ray_actors import left_over
from tests.pipelines.training.runs import SHORT, book
from tests.tuning.searches import run as steady
from tests.tuning.searches import search_folder, trial

Search = Callable[..., TuneConfig]


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> Search:
    """Configurations of searches on one picture book; `name` is the folder's name."""
    folder = tmp_path_factory.mktemp("search")
    labels, root = book(folder / "book")
    overrides = [override for override in SHORT if not override.startswith("data.labelled")]
    # Folders that tests prepare hold, as those of searches do, what `auto` became.
    places = [f"data.root={root}", f"data.labels={labels}", "train.precision=fp32"]

    def make(name: str, *more: str) -> TuneConfig:
        few = ["space.data.labelled=grid(2,4)", "search.held_out=0", "search.final_seeds=0", "train.epochs=2"]
        return load(TuneConfig, None, [*overrides, *places, *few, f"out={folder / name}", *more])

    return make


@pytest.fixture(scope="module")
def finished(search: Search, ray_session: None) -> TuneConfig:
    """A search that ran to its end; split 4 had a trial before, and split 2 its best with all seeds."""
    further = ["search.finalists=1", "search.final_seeds=1", "search.held_out=1"]
    config = search("whole", "search.trials=2", "search.algorithm=random", *further)
    best = trial(0, 0.9, finals=[steady(0.9, seed=1)], held_out=[steady(0.9, seed=2)])
    search_folder(config, trial(0, 0.01, split="4"), best)
    before = signal.getsignal(signal.SIGINT)
    run(config)
    assert left_over() == []
    assert signal.getsignal(signal.SIGINT) is before
    return config


@pytest.mark.ray
@pytest.mark.slow
def test_a_search_runs_every_trial_of_every_split(finished: TuneConfig) -> None:
    trials = {one.file: one for one in read_trials(finished.out)}
    assert sorted(trials) == ["2-000", "2-001", "4-000", "4-001"]
    assert all(one.state == "done" for one in trials.values())
    further = {
        one.file: ([run.seed for run in one.finals], [run.seed for run in one.held_out])
        for one in trials.values()
        if one.split == "4"
    }
    assert further == {"4-000": ([1], [2]), "4-001": ([1], [2])}
    (kept,) = trials["2-001"].runs
    assert (kept.epochs, kept.labelled, len(kept.curve)) == (2, 2, 2)
    history = json.loads((Path(finished.out) / "trials/2-001/seed-0/history.json").read_text())
    assert kept.curve == [(entry["epoch"], entry["miou"]) for entry in history]


@pytest.mark.ray
@pytest.mark.slow
def test_labels_and_values_reach_the_training(finished: TuneConfig) -> None:
    one = next(one for one in read_trials(finished.out) if one.file == "4-001")
    folder = Path(finished.out) / "trials" / one.file
    config = load(TrainConfig, str(folder / "seed-0" / "config.yaml"))
    assert config.pseudo.tau == float(one.values["pseudo.tau"])
    assert config.pseudo.epsilon == float(one.values["pseudo.epsilon"])
    assert len((folder / "seed-0" / "splits" / "labelled.txt").read_text().splitlines()) == 4
    assert load(TrainConfig, str(folder / "seed-1" / "config.yaml")).seed == 1


@pytest.mark.ray
@pytest.mark.slow
def test_a_finished_search_is_only_shown_again(
    finished: TuneConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    records = {path: path.read_bytes() for path in Path(finished.out).glob("trials/*/trial.json")}
    run(finished)
    assert {path: path.read_bytes() for path in Path(finished.out).glob("trials/*/trial.json")} == records
    out, err = capsys.readouterr()
    assert "4 trials: 4 done" in out
    assert "trial" not in err  # the data as ever, no progress


@pytest.mark.ray
@pytest.mark.slow
def test_a_trial_that_is_behind_is_stopped_on_all_its_workers(search: Search, ray_session: None) -> None:
    config = search(
        "stopping",
        *("data.labelled=2", "space.data.labelled=null", "train.epochs=4", "train.workers=2"),
        *("train.num_cpus=0.5", "search.trials=4", "search.grace=1"),
    )
    ahead = [trial(number, None, "done") for number in range(3)]
    for one in ahead:
        one.runs = [steady(0.9, epochs=1)]
    search_folder(config, *ahead)
    run(config)
    (stopped,) = [one for one in read_trials(config.out) if one.number == 3]
    assert (stopped.state, stopped.reason) == ("stopped", STOPPED)
    assert stopped.runs[0].epoch == 1
    assert not list(Path(config.out).glob("trials/2-003/seed-0/best"))


def test_what_is_wrong_is_reported_before_anything_is_written(search: Search) -> None:
    for name, override, message in (
        ("a", "space.data.labelled=grid(2,400)", "data.labelled=400"),
        ("b", "search.algorithm=grid", "is a range"),
        ("c", "address=ray://host:10001", "address=auto"),
        ("d", "network.weights=/no/such/file", "network:"),
    ):
        config = search(name, override, "network.pretrained=true")
        with pytest.raises(UserError, match=message):
            run(config)
        assert not Path(config.out).exists()


def test_an_interrupted_search_says_what_is_kept_and_how_to_resume(
    search: Search, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    config = search("interrupted")
    search_folder(config, trial(0, 0.5), trial(1, None, "running"))
    monkeypatch.setattr("segray.tuning.search._search", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    assert "1 finished trials are kept; run the same command again to resume" in capsys.readouterr().err
    assert (Path(config.out) / "results.csv").exists()


def test_no_finished_trial_of_a_split_is_an_error() -> None:
    from segray.tuning import search as module

    with pytest.raises(
        UserError, match=r"data\.labelled=8: no trial ran to its end: RuntimeError: x"
    ) as caught:
        module._require_outcome(_Crashed(_one_split()))
    assert caught.value.exit_code == 1


class _Crashed(SearchFolder):
    def trials(self, split: str | None = None) -> list[Trial]:
        return [trial(0, None, "crashed", split="8", reason="RuntimeError: x")]


def _one_split() -> TuneConfig:
    return load(TuneConfig, None, ["out=x", "data.root=y", "data.labelled=8"])


def test_a_threshold_changes_nothing_but_the_threshold(search: Search, tmp_path: Path) -> None:
    made_with = {f"label.{name}": value for name, value in LabelConfig().model_dump(mode="json").items()}
    made_with |= {"classes": "picture_book", "label.templates": "imagenet80"}
    labels = write_store(
        tmp_path / "labels", [bad_row("a.png")], provenance={**PROVENANCE, "config": made_with}
    )
    config = search("t", f"data.labels={labels}", "space.label.threshold=choice(0.1,0.25)")
    target = relabelling(config, "0.25")
    assert (target.label.threshold, target.label.templates) == (0.25, "imagenet80")
    assert (target.classes, target.labels) == ("picture_book", str(labels))
    assert target.out == f"{config.out}/labels/threshold-0.25"


def test_a_crash_is_reported_in_one_line() -> None:
    lost = RuntimeError("a traceback")
    lost.worker_failures = {0: ValueError("first\n  last line")}  # type: ignore[attr-defined]
    assert cause(lost) == "ValueError: last line"
    assert cause(UserError("data.root: no folder")) == "data.root: no folder"
    assert cause(KeyError()) == "KeyError"

"""What a search keeps on disk."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.config.commands.tune import TuneConfig, splits_of, train_config
from segray.pipelines.config.search_space import parse_dimension
from segray.pipelines.errors import UserError
from segray.pipelines.training.data.samples import TrainingData
from segray.pipelines.training.data.training_data import open_data
from segray.tuning.folder import SearchFolder, configured, read_trials, split_names, threshold_labels
from segray.tuning.plans import SearchPlan
from segray.tuning.space import frozen_trial
from tests.pipelines.training.runs import book
from tests.tuning.searches import config, run, search_folder, trial


def test_trials_are_read_back_as_they_were_kept(tmp_path: Path) -> None:
    search = config(tmp_path / "search")
    stored = [trial(0, 0.5), trial(1, 0.3, "stopped"), trial(2, None, "crashed", reason="RuntimeError: x")]
    stored[0].finals, stored[0].held_out = [run(0.45, seed=1)], [run(0.4, seed=2**32)]
    search_folder(search, *stored)
    again = SearchFolder(search)
    again.check()
    again.begin()
    assert again.trials() == stored
    (tmp_path / "search" / "trials" / "2-001" / "trial.json").write_text("{cut")
    assert [one.number for one in read_trials(search.out)] == [0, 2]


def test_the_best_ran_to_the_end(tmp_path: Path) -> None:
    kept = search_folder(config(tmp_path / "s"), trial(0, 0.5), trial(1, 0.6), trial(2, 0.9, "stopped"))
    best = kept.best("2")
    assert best is not None
    assert best.number == 1
    assert kept.best("4") is None


def test_score_is_the_mean_over_seeds() -> None:
    one = trial(1, 0.4)
    one.runs.append(run(0.6, seed=1))
    assert one.score == pytest.approx(0.5)
    assert trial(1, None, "running").score is None


def test_a_crash_is_no_outcome_and_a_diverged_loss_is_the_worst_one() -> None:
    assert [trial(1, None, state).finished for state in ("running", "crashed", "diverged")] == [
        False,
        False,
        True,
    ]
    dimensions = [parse_dimension(TrainConfig, "pseudo.tau", "uniform(0.4,1)")]
    diverged = frozen_trial(dimensions, trial(1, None, "diverged"))
    assert diverged is not None
    assert diverged.value == 0.0
    assert frozen_trial(dimensions, trial(1, None, "crashed")) is None


def test_another_configuration_is_refused_with_the_difference(tmp_path: Path) -> None:
    search_folder(config(tmp_path / "s"))
    SearchFolder(config(tmp_path / "s", "search.trials=99")).check()
    with pytest.raises(UserError) as caught:
        SearchFolder(config(tmp_path / "s", "space.pseudo.tau=uniform(0.5,1)", "train.lr=0.1")).check()
    assert caught.value.exit_code == 2
    assert [line.strip() for line in str(caught.value).splitlines()[1:3]] == [
        "space.pseudo.tau: 'uniform(0.4,1)' -> 'uniform(0.5,1)'",
        "train.lr: 0.0005 -> 0.1",
    ]


def _resume(search: TuneConfig) -> None:
    """What a search does before it trains."""
    folder, base = SearchFolder(search), train_config(search)
    folder.check()
    data = {}
    for split in ("2", "4"):
        chosen = base.model_copy(update={"data": base.data.model_copy(update={"labelled": split})})
        data[split] = open_data(chosen.data, chosen.seed)
    folder.check_data(data)
    folder.begin(data)


def test_a_search_is_resumed_with_moved_data_and_with_no_other(tmp_path: Path) -> None:
    labels, root = book(tmp_path / "first")
    out = tmp_path / "s"
    _resume(config(out, f"data.root={root}", f"data.labels={labels}"))
    moved = (tmp_path / "first").rename(tmp_path / "second")
    places = [moved / path.relative_to(tmp_path / "first") for path in (root, labels)]
    keys = [f"data.root={places[0]}", f"data.labels={places[1]}"]
    _resume(config(out, *keys))
    image = min((places[0] / "images").rglob("*.png"))
    with Image.open(image) as picture:
        picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(image)
    with pytest.raises(UserError, match=r"data.*: (other images, by their sizes|.* is not the file)"):
        _resume(config(out, *keys))
    with pytest.raises(UserError, match=r"train\.lr: 0\.0005 -> 0\.1"):
        _resume(config(out, *keys, "train.lr=0.1"))


def _with_split_files(folder: Path, places: list[str], names: list[list[str]]) -> list[str]:
    """The overrides of a search over split files of these images."""
    folder.mkdir()
    files = [folder / name for name in places]
    for file, lines in zip(files, names, strict=True):
        file.write_text("\n".join(lines))
    return [f"space.data.labelled=grid({','.join(map(str, files))})"]


def _opened(search: TuneConfig) -> dict[str, TrainingData]:
    base = train_config(search)
    configs = {s: base.data.model_copy(update={"labelled": s}) for s in splits_of(search)}
    return {split: open_data(data, base.seed) for split, data in configs.items()}


def test_a_search_goes_on_with_split_files_that_were_moved(tmp_path: Path) -> None:
    labels, root = book(tmp_path / "book")
    masked = sorted(path.stem for path in (root / "masks").rglob("*.png"))
    splits = [masked[:1], masked[1:3]]
    places = [f"data.root={root}", f"data.labels={labels}", "data.validation=1"]

    def resume(*overrides: str) -> SearchFolder:
        folder = SearchFolder(config(tmp_path / "s", *places, *overrides))
        folder.check()
        data = _opened(folder.config)
        folder.check_data(data)
        folder.begin(data)
        return folder

    before = resume(*_with_split_files(tmp_path / "first", ["few.txt", "more.txt"], splits))
    one, two = splits_of(before.config)
    before.save(replace(trial(0, 0.5), split=one, file="few-000"))
    before.save(replace(trial(0, 0.6), split=two, file="more-000"))
    after = resume(*_with_split_files(tmp_path / "second", ["more.txt", "few.txt"], splits))
    new = splits_of(after.config)
    assert [[t.file for t in after.trials(split)] for split in new] == [["few-000"], ["more-000"]]
    # Further trials do not take the names of the other file's.
    assert after.names() == {new[0]: "few", new[1]: "more"}
    # The command that follows finds all of it under the new places.
    again = resume(f"space.data.labelled=grid({','.join(new)})")
    assert len(again.trials()) == 2
    with pytest.raises(UserError, match=r"data\.labelled: (other images, by their ids|1 images -> 2)"):
        resume(*_with_split_files(tmp_path / "third", ["a.txt", "b.txt"], [splits[1], splits[0]]))
    with pytest.raises(UserError, match=r"space\.data\.labelled: 'a place,a place' -> 'a place'"):
        resume(*_with_split_files(tmp_path / "fourth", ["a.txt"], splits[:1]))


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "thesis.tex").touch()
    with pytest.raises(UserError, match=r"holds something else \(thesis.tex\)"):
        SearchFolder(config(tmp_path / "s")).check()
    (tmp_path / "s" / "config.yaml").write_text("out: x\n")
    with pytest.raises(UserError, match="not the configuration of a search"):
        SearchFolder(config(tmp_path / "s")).check()


def test_a_trial_is_a_training_run_with_its_values(tmp_path: Path) -> None:
    search = config(tmp_path / "s", "data.labels=z", "space.label.threshold=choice(0.1,0.2)")
    one = trial(3, None, "running", split="4", tau=0.55)
    one.values["label.threshold"] = "0.2"
    made = SearchFolder(search).run_config(one, 7)
    assert (made.pseudo.tau, made.pseudo.epsilon, made.data.labelled, made.seed) == (0.55, 0.03, "4", 7)
    assert made.out.endswith("trials/4-003/seed-7")
    assert made.data.labels == threshold_labels(search.out, "0.2")
    one.number = 0
    assert configured(search, one).data.labels == "z"


def test_a_trial_that_calibrates_reads_the_labels_of_its_split_and_seed(tmp_path: Path) -> None:
    search = config(tmp_path / "s", "data.labels=z", "space.data.calibrate=choice(true,false)")
    folder, one = SearchFolder(search), trial(3, None, "running", split="4")
    for value, labels in (("true", f"{search.out}/labels/calibrated-4-seed-7"), ("false", "z")):
        one.values["data.calibrate"] = value
        data = folder.run_config(one, 7).data
        assert (data.labels, data.calibrate) == (labels, False)
    one.values["data.calibrate"] = "true"
    best = configured(search, one).data
    assert (best.labels, best.calibrate) == ("z", True)


def test_only_the_best_keeps_its_weights(tmp_path: Path) -> None:
    search = config(tmp_path / "s", "search.final_seeds=0")
    kept = search_folder(search, trial(0, 0.5), trial(1, 0.6), trial(2, None, "running"))
    folders = [tmp_path / "s" / "trials" / f"2-00{i}" / "seed-0" for i in range(3)]
    for folder in folders:
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "history.json").touch()
    kept.drop_weights("2")
    assert [(folder / "checkpoints").exists() for folder in folders] == [False, True, True]
    assert all((folder / "history.json").exists() for folder in folders)


def test_whoever_may_become_the_best_keeps_its_weights_until_that_is_known(tmp_path: Path) -> None:
    search = config(tmp_path / "s", "search.finalists=2", "search.final_seeds=1")
    stored = [trial(0, 0.5), trial(1, 0.9), trial(2, 0.8), trial(3, 0.7)]
    kept = search_folder(search, *stored)
    folders = [tmp_path / "s" / "trials" / f"2-00{i}" / "seed-0" / "checkpoints" for i in range(4)]
    for folder in folders:
        folder.mkdir(parents=True)
    kept.drop_weights("2")
    assert [folder.exists() for folder in folders] == [True, True, True, False]
    for one, miou in zip(stored, (0.5, 0.1, 0.8), strict=False):
        one.finals = [run(miou, seed=1)]
    kept.drop_weights("2")
    assert [folder.exists() for folder in folders] == [False, False, True, False]


def test_a_search_of_the_previous_version_is_resumed(tmp_path: Path) -> None:
    search = config(tmp_path / "s", "search.trials=2")
    search_folder(search, trial(0, 0.5), trial(1, None, "running"))
    stored = tmp_path / "s" / "config.yaml"
    assert "name: builtin" in stored.read_text()
    stored.write_text(stored.read_text().replace("name: builtin", "name: picture_book"))
    resumed = SearchFolder(search)
    resumed.check()
    resumed.begin()
    job = SearchPlan(resumed, 10, lambda _: None).next()
    assert job is not None
    assert (job.trial.file, job.trial.values) == ("2-001", trial(1, None).values)


def test_a_record_of_an_older_search_is_read(tmp_path: Path) -> None:
    kept = search_folder(config(tmp_path / "s"), trial(0, 0.5))
    file = tmp_path / "s" / "trials" / "2-000" / "trial.json"
    record = json.loads(file.read_text())
    del record["finals"]
    file.write_text(json.dumps(record))
    assert read_trials(kept.out) == [trial(0, 0.5)]


@pytest.mark.parametrize(
    "change",
    [
        {"miou": 1e308},
        {"best": -0.1},
        {"curve": []},
        {"curve": [[1.0, 2.0]]},
        {"labelled": -3},
        {"epoch": 1e300},
        {"seed": -1},
        None,
    ],
)
def test_a_record_with_impossible_figures_is_left_out(
    tmp_path: Path, change: dict[str, object] | None
) -> None:
    kept = search_folder(config(tmp_path / "s"), trial(0, 0.5), trial(1, 0.6))
    file = tmp_path / "s" / "trials" / "2-000" / "trial.json"
    record = json.loads(file.read_text())
    runs = [] if change is None else [{**record["runs"][0], **change}]
    file.write_text(json.dumps({**record, "runs": runs}))
    again = SearchFolder(kept.config)
    again.begin()
    assert [one.file for one in again.trials()] == ["2-001"]


def test_names_of_splits_are_fit_for_files_and_differ() -> None:
    names = split_names(["1/16", "8", "lists/a.txt", "other/a.txt", "1-16"])
    assert names["1/16"] == "1-16"
    assert len(set(names.values())) == 5
    assert all(name.replace("-", "").isalnum() for name in names.values())


def test_a_new_split_takes_no_name_of_a_moved_one() -> None:
    begun = {"new/b.txt": "a-txt", "new/c.txt": "a-txt-2"}
    names = split_names(["new/b.txt", "new/a.txt", "new/c.txt"], begun)
    assert list(names.items()) == [
        ("new/b.txt", "a-txt"),
        ("new/a.txt", "a-txt-3"),
        ("new/c.txt", "a-txt-2"),
    ]

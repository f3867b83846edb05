"""The label sets that trials share: what is made, once, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.config.commands.tune import TuneConfig
from segray.pipelines.config.loading import load
from segray.pipelines.errors import UserError
from segray.pipelines.training.data.training_data import open_data
from segray.pipelines.training.data_record import data_record, stored_record
from segray.pipelines.training.run_folder import RunFolder
from segray.tuning import label_sets
from segray.tuning import search as searching
from segray.tuning.folder import SearchFolder, read_trials
from segray.tuning.label_sets import variants_of
from tests.faults.invariant import contents
from tests.pipelines.training.runs import book
from tests.previous_version.archive import unpack
from tests.tuning.searches import search_folder, trial

SHORT = [
    "data.kind=picture_book",
    "data.validation=2",
    "network.name=builtin",
    "network.pretrained=false",
    "augment.crop=32",
    "train.batch=2",
    "train.epochs=1",
    "train.precision=fp32",
    "trackers=",
    "search.trials=1",
    "search.final_seeds=0",
    "space.pseudo.epsilon=null",
    "space.pseudo.tau=choice(0.7,0.9)",
]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`labels`, with embeddings, and the data set `book`; no GPU is seen."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return unpack(tmp_path)


def _config(root: Path, *words: str) -> TuneConfig:
    places = [f"out={root / 'new-search'}", f"data.root={root / 'book'}", f"data.labels={root / 'labels'}"]
    splits = (
        [] if any(word.startswith("data.labelled") for word in words) else ["space.data.labelled=grid(2,3)"]
    )
    return load(TuneConfig, None, [*SHORT, *splits, *places, *words])


def test_which_trials_calibrate(root: Path) -> None:
    for words, expected in (
        (["method=segray_v3"], [True]),
        (["method=segray_v3", "data.calibrate=false"], [False]),
        (["method=segray"], [False]),
        (["method=segray", "space.data.calibrate=choice(false,true)"], [False, True]),
        (["method=segray_v3", "space.data.calibrate=choice(no)"], [True, False]),
    ):
        found = [variant.data.calibrate for variant in variants_of(_config(root, *words))]
        assert found == expected


@pytest.mark.parametrize("key", ["data.validation=choice(1,2)", "label.threshold=choice(0.1,0.2)"])
def test_calibrated_labels_have_no_second_cause(root: Path, key: str) -> None:
    with pytest.raises(UserError, match=rf"^space\.{key.partition('=')[0]}: not with data\.calibrate"):
        searching.run(_config(root, "method=segray_v3", f"space.{key}"))
    assert not (root / "new-search").exists()


def test_each_split_and_seed_is_calibrated_once(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(searching, "_search", lambda *_: None)
    config = _config(root, "method=segray_v3", "search.seeds=2")
    for _ in range(2):
        with pytest.raises(UserError, match="no trial ran to its end"):
            searching.run(config)
    labels = root / "new-search" / "labels"
    names = ["2-seed-0", "2-seed-1", "3-seed-0", "3-seed-1"]
    assert sorted(path.name for path in labels.iterdir() if path.is_dir()) == [
        f"calibrated-{n}" for n in names
    ]
    for name in names:
        folder = labels / f"calibrated-{name}"
        told = json.loads((folder / "calibration.json").read_text())
        listed = (labels / f"calibrated-{name}.txt").read_text().splitlines()
        assert {line.split()[0].removeprefix("images/") for line in listed} == set(told["images"])
        assert len(contents(folder)) == 8
        assert len(told["images"]) == int(name[0])
    lines = [line for line in capsys.readouterr().err.splitlines() if ": calibrated, " in line]
    assert len(lines) == 2 * len(names)


def test_a_split_with_finished_trials_waits_until_its_labels_are_needed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "_search", lambda *_: None)
    config = _config(root, "method=segray_v3")
    done = [trial(0, 0.5, split=split) for split in ("2", "3")]
    for one in done:
        one.values = {"pseudo.tau": "0.7"}
    search_folder(config, *done)
    searching.run(config)
    assert not (root / "new-search" / "labels").exists()


def test_places_in_a_store_keep_their_options(root: Path) -> None:
    store = "s3://bucket/search?endpoint_override=localhost:9000"
    folder = SearchFolder(_config(root, f"out={store}"))
    assert folder.calibrated_labels("2", 5) == (
        "s3://bucket/search/labels/calibrated-2-seed-5?endpoint_override=localhost:9000"
    )
    assert folder.calibrated_split("2", 5) == (
        "s3://bucket/search/labels/calibrated-2-seed-5.txt?endpoint_override=localhost:9000"
    )


def test_masks_that_teach_nothing_name_their_split_and_seed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise UserError("was made with another configuration:\n  a: 1 -> 2\n  give another out=DIR")

    monkeypatch.setattr(label_sets, "calibrate_into", refuse)
    message = "^data.labelled=2, seed 0: was made .*; a: 1 -> 2; give another out=DIR$"
    with pytest.raises(UserError, match=message):
        searching.run(_config(root, "method=segray_v3"))


def test_labels_that_cannot_be_calibrated_stop_a_search_before_its_trials(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "_search", lambda *_: pytest.fail("a trial was begun"))
    labels, folder = book(root / "plain")
    words = [f"data.labels={labels}", f"data.root={folder}", "space.data.calibrate=choice(false,true)"]
    with pytest.raises(UserError, match=r"^data\.calibrate: .* holds no embeddings"):
        searching.run(_config(root, "method=segray", *words))
    assert not (root / "new-search").exists()


@pytest.mark.ray
@pytest.mark.slow
def test_trials_and_unseen_seeds_train_on_calibrated_labels(
    root: Path, ray_session: None, capsys: pytest.CaptureFixture[str]
) -> None:
    config = _config(root, "method=segray_v3", "data.labelled=3", "search.held_out=1")
    searching.run(config)
    # The first seed's labels are made before its trial, and not again for it.
    assert capsys.readouterr().err.count(": calibrated, ") == 2
    (one,) = read_trials(config.out)
    assert one.state == "done"
    assert [run.seed for run in one.held_out] == [1]
    for seed in (0, 1):
        own = load(TrainConfig, f"{config.out}/trials/{one.file}/seed-{seed}/config.yaml")
        assert own.data.labels == f"{config.out}/labels/calibrated-3-seed-{seed}"
        assert (Path(own.data.labels) / "calibration.json").exists()
        RunFolder(own).check()
        opened = data_record(open_data(own.data, own.seed))
        assert opened["labels"] == (stored_record(own.out) or {})["labels"]
    best = load(TrainConfig, f"{config.out}/best-3.yaml").data
    assert (best.labels, best.calibrate) == (f"{root}/labels", True)
    SearchFolder(config).check()

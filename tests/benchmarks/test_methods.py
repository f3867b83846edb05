from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import click
import pytest

from benchmarks import methods
from benchmarks.methods import PHOTOGRAPHS, Run, chosen_epochs, gathered, usable
from segray.models.semi.methods import METHODS
from segray.pipelines.training.history import HistoryEntry
from tests.benchmarks.programs import run
from tests.pipelines.training.data.small_sets import shared

WITHOUT_LABELS = ["supervised", "fixmatch", "unimatch", "unimatch_v2"]


def finished(method: str, seed: int, *mious: float) -> tuple[Run, list[HistoryEntry]]:
    entries = [{"miou": miou, "step": i} for i, miou in enumerate(mious)]
    return (method, 8, seed, []), cast("list[HistoryEntry]", entries)


def test_a_folder_without_labels_takes_the_methods_that_need_none(tmp_path: Path) -> None:
    assert usable(None, None, tmp_path) == WITHOUT_LABELS
    assert usable(None, tmp_path, tmp_path) == usable(None, None, None) == list(METHODS)
    with pytest.raises(click.UsageError, match="segray needs --label-set"):
        usable("supervised,segray", None, tmp_path)
    with pytest.raises(click.UsageError, match="'fixmtch' is none of supervised"):
        usable("fixmtch", None, None)


def test_the_epoch_is_chosen_by_other_runs() -> None:
    others = [finished("a", 10, 0.5, 0.6, 0.2), finished("a", 11, 0.5, 0.3, 0.2), finished("b", 10, 0, 0, 1)]
    chosen = chosen_epochs(others)
    assert chosen == {("a", 8): 0, ("b", 8): 2}
    reported = [
        finished("a", 0, 0.1, 0.2, 0.3),
        finished("a", 1, 0.4, 0.5, 0.6),
        finished("b", 0, 0.7, 0.8, 0.9),
    ]
    assert gathered(reported, chosen) == {"a": {"8": [0.1, 0.4]}, "b": {"8": [0.9]}}
    assert gathered(reported, {}) == {"a": {"8": [0.3, 0.6]}, "b": {"8": [0.9]}}


def test_the_seeds_that_choose_are_not_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "_train", None)
    words = ["--work", str(tmp_path), "--seeds", "0", "1", "--choose-seeds", "1", "2"]
    with pytest.raises(click.UsageError, match="other seeds than --seeds"):
        methods.main(words, standalone_mode=False)


def test_photographs_are_trained_and_their_choice_sees_no_held_out_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[dict[str, str]] = []

    def train_once(overrides: list[str], folder: Path) -> list[HistoryEntry]:
        settings = dict(text.split("=", 1) for text in overrides)
        trained.append(settings)
        return finished("x", 0, 0.2, 0.1)[1]

    monkeypatch.setattr(methods, "train_once", train_once)
    out = tmp_path / "methods.json"
    words = ["--work", str(tmp_path), "--data", str(tmp_path), "--methods", "fixmatch", "--labels", "8"]
    words += ["--seeds", "0", "--choose-seeds", "5", "--epochs", "2"]
    words += ["--out", str(out), "data.ignore_index=11"]
    record, printed = run(methods.main, *words)
    reported, choosing = trained
    assert "data.validation" not in reported
    assert choosing["data.validation"] == "1/5"
    assert (reported["seed"], choosing["seed"]) == ("0", "5")
    assert {"data.labels"}.isdisjoint(reported)
    assert all(reported[text.split("=")[0]] == text.split("=")[1] for text in PHOTOGRAPHS)
    assert record["miou"]["fixmatch"]["8"]["values"] == [0.1]
    assert record["miou_chosen"]["fixmatch"]["8"]["values"] == [0.2]
    assert record["chosen_steps"] == {"fixmatch-8": 0}
    assert "mIoU, chosen epoch" in printed


@pytest.mark.slow
def test_a_laptop_learns_photographs_offline(tmp_path: Path) -> None:
    out, photographs = tmp_path / "methods.json", shared("camvid-mini")
    words = ["--work", str(tmp_path / "work"), "--data", photographs, "--methods", "supervised"]
    words += ["--seeds", "0", "--epochs", "10", "--out", str(out), "data.ignore_index=11", "augment.crop=160"]
    record: dict[str, Any] = run(methods.main, *words)[0]
    assert record["recipe"]["network.name"] == "efficientnet_lite0"
    # The most frequent class alone would give less than a tenth.
    assert record["miou"]["supervised"]["8"]["mean"] > 0.12


def test_the_masks_of_a_run_teach_its_own_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[tuple[str, ...]] = []
    trained: dict[str, str] = {}
    shared_book = methods.draw(tmp_path, 20, 0)

    def annotate(*arguments: str) -> None:
        commands.append(arguments)

    def train_once(overrides: list[str], folder: Path) -> list[HistoryEntry]:
        settings = dict(text.split("=", 1) for text in overrides)
        trained[settings["seed"]] = settings["data.labels"]
        return cast("list[HistoryEntry]", [{"miou": 0.5, "step": 1, "zero_shot_miou": 0.4}])

    monkeypatch.setattr(methods, "_segray", annotate)
    monkeypatch.setattr(methods, "train_once", train_once)
    out = tmp_path / "methods.json"
    words = ["--work", str(tmp_path), "--scenes", "20", "--methods", "segray", "--labels", "2"]
    words += ["--seeds", "0", "1", "--annotate", "sam.model=none clip.features=clip", "--out", str(out)]
    record, _ = run(methods.main, *words)
    assert record["zero_shot_miou_by_run"] == [0.4, 0.4]
    assert len(commands) == len(set(trained.values())) == 2
    for command in commands:
        keys = dict(text.split("=", 1) for text in command[1:])
        assert (command[0], keys["sam.model"], keys["clip.features"]) == ("annotate", "none", "clip")
        assert keys["out"] in trained.values()
        assert keys["calibrate.masks"] == str(shared_book / "masks")
        listed = Path(keys["calibrate.split"]).read_text().splitlines()
        assert len(listed) == 2
        assert all(line.startswith("images/train/") for line in listed)

"""What a search leaves for people and programs."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.config.loading import load
from segray.tuning.folder import SearchFolder
from segray.tuning.report import summary
from tests.tuning.searches import config, run, search_folder, trial


@pytest.fixture
def kept(tmp_path: Path) -> SearchFolder:
    """Two splits, the second one better; a stopped, a crashed and a diverged trial."""
    first = [trial(n, 0.5 - (tau - 0.8) ** 2, tau=tau) for n, tau in enumerate((0.7, 0.5, 0.8, 0.9))]
    second = [trial(n, 0.7 - (tau - 0.6) ** 2, split="4", tau=tau) for n, tau in enumerate((0.7, 0.5, 0.6))]
    bad = [trial(4, 0.1, "stopped", tau=0.41), trial(5, None, "crashed", reason="RuntimeError: <b>x</b>")]
    for one in (first[0], first[2]):
        one.held_out = [run(0.45 if one.number else 0.4, seed=1)]
    diverged = trial(3, None, "diverged", split="4", reason="the loss is nan at step 3")
    made = search_folder(config(tmp_path / "s"), *first, *second, *bad, diverged)
    summary.write(made)
    return made


def test_best_of_each_split_is_what_train_takes(kept: SearchFolder) -> None:
    best = load(TrainConfig, str(Path(kept.out) / "best-2.yaml"))
    assert (best.pseudo.tau, best.data.labelled, best.train.epochs) == (0.8, "2", 9)
    assert load(TrainConfig, str(Path(kept.out) / "best-4.yaml")).pseudo.tau == 0.6


def test_results_name_the_best_the_defaults_and_every_trial(kept: SearchFolder) -> None:
    results = json.loads((Path(kept.out) / "results.json").read_text())
    first, second = results["splits"]
    assert (first["best"], first["labelled"], first["config"]) == ("2-002", 2, "best-2.yaml")
    assert (first["miou"], first["default_miou"]) == (pytest.approx(0.5), pytest.approx(0.49))
    assert (first["held_out_miou"], first["held_out_default_miou"]) == (0.45, 0.4)
    assert (second["best"], second["held_out_miou"]) == ("4-002", None)
    assert len(results["trials"]) == 10
    assert results["trials"][0]["runs"][0]["curve"][0] == [1.0, pytest.approx(0.49 / 9)]


def test_table_has_a_row_a_trial_with_its_reason(kept: SearchFolder) -> None:
    rows = list(csv.DictReader((Path(kept.out) / "results.csv").open()))
    assert [row["trial"] for row in rows if row["split"] == "2"] == [f"2-00{n}" for n in range(6)]
    by_name = {row["trial"]: row for row in rows}
    assert (by_name["2-005"]["outcome"], by_name["2-005"]["reason"]) == ("crashed", "RuntimeError: <b>x</b>")
    assert (by_name["2-004"]["outcome"], by_name["2-004"]["epochs"]) == ("stopped", "3.0")
    assert float(by_name["2-002"]["pseudo.tau"]) == 0.8


def test_lines_have_counts_bests_and_crashes(kept: SearchFolder) -> None:
    printed = summary.lines(kept)
    assert printed[1] == "10 trials: 7 done, 1 stopped, 1 diverged, 1 crashed"
    assert re.match(r"2 +2 +49\.0% +50\.0% +40\.0% -> 45\.0%  pseudo\.tau=0\.8", printed[3])
    assert "crashed 2-005: RuntimeError: <b>x</b>" in printed


def test_the_best_of_all_seeds_is_listed_with_its_mean(kept: SearchFolder) -> None:
    for one, miou in ((kept.trials("2")[0], 0.47), (kept.trials("2")[2], 0.2), (kept.trials("2")[3], 0.51)):
        one.finals = [run(miou, seed=1), run(miou, seed=2)]
        kept.save(one)
    summary.write(kept)
    first = json.loads((Path(kept.out) / "results.json").read_text())["splits"][0]
    assert first["best"] == "2-003"
    assert first["miou"] == pytest.approx((0.49 + 2 * 0.51) / 3)
    assert first["default_miou"] == pytest.approx((0.49 + 2 * 0.47) / 3)
    rows = {row["trial"]: row for row in csv.DictReader((Path(kept.out) / "results.csv").open())}
    assert (float(rows["2-002"]["miou"]), float(rows["2-002"]["final_miou"])) == (0.5, 0.3)
    assert rows["2-001"]["final_miou"] == ""
    page = (Path(kept.out) / "report.html").read_text()
    assert "the 3 best and the baseline were trained with further seeds" in page
    assert load(TrainConfig, str(Path(kept.out) / "best-2.yaml")).pseudo.tau == 0.9


def test_page_shows_all_plots_and_stays_one_safe_file(kept: SearchFolder) -> None:
    page = (Path(kept.out) / "report.html").read_text()
    for caption in (
        "Mean IoU over pseudo.tau",
        "Mean IoU over pseudo.epsilon",
        "Mean IoU against the number of masks",
        "Mean IoU at epoch 3, data.labelled=2",
        "Mean IoU, data.labelled=4",
        "Learning curves, data.labelled=4",
    ):
        assert f'aria-label="{caption}"' in page
    assert 'aria-label="data.labelled=2, at epoch 3"' in page
    assert "segray train best-2.yaml" in page
    assert "<b>x</b>" not in page
    assert "&lt;b&gt;x&lt;/b&gt;" in page
    assert "<script" not in page
    assert not re.findall(r"""(?:src|href)=["']?https?:""", page)


def test_page_of_a_search_that_has_only_begun(tmp_path: Path) -> None:
    made = search_folder(config(tmp_path / "s"), trial(0, None, "running"))
    summary.write(made)
    page = (tmp_path / "s" / "report.html").read_text()
    assert "No trial has run to its end yet" in page
    assert not (tmp_path / "s" / "best-2.yaml").exists()
    assert summary.lines(made)[3] == f"{'2':<14} no trial ran to its end"

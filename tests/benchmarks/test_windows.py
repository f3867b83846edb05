from __future__ import annotations

import json
from pathlib import Path

import click
import pytest

from benchmarks import windows
from segray.pipelines.commands import picture_book
from segray.pipelines.commands.demo import RECIPE
from segray.pipelines.config.commands.picture_book import PictureBookConfig
from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.config.loading import load
from tests.benchmarks.programs import run
from tests.pipelines.training.runs import trainer


def test_a_network_is_scored_on_whole_images_and_in_windows(tmp_path: Path) -> None:
    book, folder = tmp_path / "picture-book", tmp_path / "runs" / "supervised-2-0-0123abcd"
    picture_book.run(PictureBookConfig(out=str(book), n=5, seed=1))
    words = [*RECIPE, "trackers=", "method=supervised", "data.labelled=2", "train.batch=2", "train.epochs=1"]
    config = load(TrainConfig, None, [*words, f"data.root={book}", f"out={folder}"])
    history = trainer(config, folder).run()
    (folder / "history.json").write_text(json.dumps(history))
    out = tmp_path / "windows.json"
    record, printed = run(
        windows.main, "--work", str(tmp_path), "--labels", "2", "--seeds", "0", "--out", str(out)
    )
    by_way = record["miou"]["supervised"]
    assert by_way["windows"]["values"] == [pytest.approx(history[-1]["miou"])]
    assert by_way["whole"]["values"] != by_way["windows"]["values"]
    assert "supervised" in printed


def test_runs_of_some_seeds_alone_are_no_comparison(tmp_path: Path) -> None:
    for seed in (0, 1):
        folder = tmp_path / "runs" / f"segray_v3-8-{seed}-0123abcd"
        folder.mkdir(parents=True)
        (folder / "history.json").write_text("[]")
    assert [path.name[:11] for path in windows.finished(tmp_path, 8, (1, 0))["segray_v3"]] == [
        "segray_v3-8"
    ] * 2
    for seeds, labels, message in (
        ((0, 1, 2), 8, "segray_v3 has no finished run of seed 2"),
        ((0,), 32, "no finished run of `benchmarks.methods` with 32 labels"),
    ):
        words = ["--work", str(tmp_path), "--labels", str(labels), "--seeds", *map(str, seeds)]
        with pytest.raises(click.ClickException, match=message):
            windows.main(words, standalone_mode=False)
    (tmp_path / "runs" / "segray_v3-8-1-0123abcd").rename(tmp_path / "runs" / "segray_v3-8-0-4567abcd")
    with pytest.raises(ValueError, match="segray_v3 has two runs of seed 0"):
        windows.finished(tmp_path, 8, (0,))

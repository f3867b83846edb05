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
    out, words = tmp_path / "windows.json", ["--work", str(tmp_path)]
    record, printed = run(
        windows.main, *words, "--methods", "supervised", "--labels", "2", "--seeds", "0", "--out", str(out)
    )
    by_way = record["miou"]["supervised"]
    assert by_way["windows"]["values"] == [pytest.approx(history[-1]["miou"])]
    assert by_way["whole"]["values"] != by_way["windows"]["values"]
    assert "supervised" in printed


def test_each_seed_has_one_run(tmp_path: Path) -> None:
    for name in (
        "segray-8-0-0123abcd",
        "segray-8-1-0123abcd",
        "segray-8-1-4567abcd",
        "segray_v2-8-0-0123abcd",
    ):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "history.json").write_text("[]")
    (found,) = windows.finished(tmp_path, "segray", 8, (0,))
    assert found.name == "segray-8-0-0123abcd"
    words = ["--work", str(tmp_path), "--methods", "segray"]
    for seed, runs in ((1, 2), (2, 0)):
        with pytest.raises(
            click.ClickException, match=rf"{runs} finished runs of segray, seed {seed} \(allo"
        ):
            windows.main([*words, "--seeds", str(seed)], standalone_mode=False)

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import common, end_to_end
from benchmarks.labeller import Labeller
from pipelines.config.loading import load
from pipelines.config.settings import AnnotateConfig


def test_plain_way_labels_as_segray_does(tmp_path: Path) -> None:
    paths = common.draw_images(tmp_path / "images", 2, 11, 96)
    config = load(AnnotateConfig, None, [f"images={tmp_path}", "out=none"])
    threads = torch.get_num_threads()
    try:
        assert end_to_end.plain_loop(config, paths, tmp_path / "plain", 1) > 0
        labeller = Labeller(config, 1)
        own = {path.name: labeller.label_segments(np.array(Image.open(path)))[0] for path in paths}
    finally:
        torch.set_num_threads(threads)
    plain = end_to_end.label_files(tmp_path / "plain", paths)
    assert all(label.any() for label in plain.values())
    assert end_to_end.same_pixels(own, plain) >= 0.995


def test_counts_missing_images_as_different() -> None:
    half = np.array([[1, 2]], np.uint8)
    truth = {"a": half, "b": np.zeros((1, 6), np.uint8)}
    assert end_to_end.same_pixels(truth, truth) == 1
    assert end_to_end.same_pixels({"a": np.array([[1, 0]], np.uint8)}, truth) == 1 / 8


def test_ratio_is_to_the_faster_plain_loop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    paths = common.draw_images(tmp_path / "images", 1, 11, 32)
    seconds = {1: 8.0, 2: 10.0}

    def run(work: Any) -> float:
        return 2.0 if work.func is end_to_end.command else seconds[work.args[-1]]

    monkeypatch.setattr(end_to_end, "available_cores", lambda: 2)
    monkeypatch.setattr(end_to_end, "in_fresh_process", run)
    monkeypatch.setattr(end_to_end, "stored_labels", lambda root: {paths[0].name: np.eye(2, dtype=np.uint8)})
    monkeypatch.setattr(
        end_to_end,
        "label_files",
        lambda folder, paths: {paths[0].name: np.full((2, 2), folder.name == "plain-1", np.uint8)},
    )
    found = end_to_end.measure(paths, tmp_path)
    assert found["ratio"] == 4
    assert found["same_pixels"] == 0.5
    assert list(found["ways"]) == ["plain loop, threads: 1", "plain loop, threads: 2", end_to_end.SEGRAY]
    assert found["ways"][end_to_end.SEGRAY].keys() == {"seconds", "seconds_with_setup"}

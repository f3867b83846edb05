from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import store
from segray.models.label_map import SegmentClasses, render_label_map
from segray.models.masks import Segment
from segray.pipelines.engine.rows import Row
from tests.benchmarks.programs import run


def test_writes_the_promised_figures(tmp_path: Path) -> None:
    """Every format gives back the labels that it was given, or the program ends with an error."""
    out = str(tmp_path / "store.json")
    words = ["--images", "3", "--size", "64", "--rows-per-part", "2", "--rounds", "1", "--out", out]
    threads = torch.get_num_threads()
    try:
        record, printed = run(store.main, *words)
    finally:
        torch.set_num_threads(threads)
    assert record["segments"] > 0
    assert record["ways"].keys() == {store.SEGRAY, store.FROM_DISK, store.RLE, store.PNG}
    assert record["ratios"].keys() == {store.RLE, store.PNG}
    assert record["sources"].keys() == {"files", "tar", "zip", "parquet"}
    assert all(rate > 0 for way in record["sources"].values() for rate in way.values())
    own = record["ways"][store.SEGRAY]
    for peer, ratio in record["ratios"].items():
        way = record["ways"][peer]
        assert ratio["bytes"] == pytest.approx(way["bytes_per_image"] / own["bytes_per_image"])
        for step in store.STEPS:
            name = f"{step}_images_per_second"
            assert ratio[step] == pytest.approx(own[name] / way[name])
    for line in ("bytes per image", "segray, not in memory", "RLE in one JSON", "PNG files", out):
        assert line in printed


def test_formats_paint_alike_and_a_wrong_label_is_told(tmp_path: Path) -> None:
    """A small segment over a large one, one that covers as background, and one without a name."""

    def box(x: int, y: int, side: int) -> Segment:
        return Segment((x, y, side, side), np.ones((side, side), bool), side * side, 1.0, 1.0)

    segments = [box(0, 0, 6), box(1, 1, 3), box(5, 5, 2), box(2, 2, 2)]
    score, named = np.array([0.9, 0.8, 0.7, 0.6], np.float32), np.array([True, True, True, False])
    ids, other = np.array([3, 4, 0, 0], np.int16), np.zeros(4, np.int16)
    naming = SegmentClasses(ids, score, score, score, other, named)
    row: Row = {"image_id": "a.png", "status": "ok", "width": 8, "height": 8}
    label, _ = render_label_map(segments, naming, 8, 8)
    pile = {"a.png": store.Labelled(row, segments, naming, b"", label)}
    for name, one in {
        "json": store.Format(store.write_json, store.open_json),
        "png": store.Format(store.write_png, store.open_png),
    }.items():
        assert store.measure(one, pile, tmp_path / name, ["a.png"])["bytes"] > 0
        broken = {"a.png": replace(pile["a.png"], label=label + 1)}
        with pytest.raises(ValueError, match=f"wrong {name} gives back other labels"):
            store.measure(one, broken, tmp_path / f"wrong {name}", ["a.png"])

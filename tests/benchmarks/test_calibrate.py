from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import calibrate
from tests.benchmarks.programs import run


@pytest.mark.slow
def test_every_row_has_its_figures_and_models_run_once(tmp_path: Path) -> None:
    out, work = tmp_path / "calibrate.json", tmp_path / "work"
    words = ["--work", str(work), "--scenes", "16", "--seeds", "31", "--size", "64", "--out", str(out)]
    threads = torch.get_num_threads()
    try:
        record, printed = run(calibrate.main, *words, "sam.points_per_side=3")
    finally:
        torch.set_num_threads(threads)
    assert list(record["rows"]) == [row.name for row in calibrate.ROWS]
    for asked, row in zip(calibrate.ROWS, record["rows"].values(), strict=True):
        assert row["gain"]["mean"] == row["calibrated"]["mean"] - row["plain"]["mean"] == row["worst"]
        assert 0 <= row["plain"]["mean"] <= 1
        (draws,) = row["seeds"]
        everywhere = asked.absent == ((),)
        assert len(draws) == (calibrate.POOL // asked.masks if everywhere else len(calibrate.THIRDS))
        assert all(asked.masks - 2 <= draw["masks"] <= asked.masks for draw in draws)
        assert np.mean([draw["alone"] for draw in draws]) == pytest.approx(row["alone"]["mean"])
        assert row["worst_draw"] == min(draw["calibrated"] - draw["plain"] for draw in draws)
        for draw in draws:
            assert abs(sum(draw["naming"].values()) - 1) < 1e-6
    # Every third of the classes is absent from some scenes, and others are scored.
    plain = [draw["plain"] for draw in record["rows"]["SAM + GEM, absent classes, 8 masks"]["seeds"][0]]
    assert len(set(plain)) == len(calibrate.THIRDS)
    assert "four unlucky synonyms" in printed
    files = {path: path.stat().st_mtime_ns for path in work.iterdir()}
    assert len(files) == 2 * (calibrate.POOL + 16)
    again, _ = run(calibrate.main, *words, "sam.points_per_side=3")
    assert again["rows"] == record["rows"]
    assert {path: path.stat().st_mtime_ns for path in work.iterdir()} == files

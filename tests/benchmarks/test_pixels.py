from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import pixels
from tests.benchmarks.programs import run


@pytest.mark.slow
def test_every_way_has_its_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "MASKS", (2, 4))
    monkeypatch.setattr(pixels, "WAYS", ("plain", "refined", "taught by 2", "taught by 4"))
    words = ["--work", str(tmp_path / "work"), "--scenes", "3", "--seeds", "31", "--size", "64"]
    record, printed = run(pixels.main, *words, "--out", str(tmp_path / "pixels.json"))
    for features, row in record["rows"].items():
        assert list(row["miou"]) == list(pixels.WAYS)
        assert all(0 < way["mean"] < 1 for way in row["miou"].values())
        gain = row["gain"]["taught by 4 over plain"]
        assert (
            gain["worst"] == gain["mean"] == row["miou"]["taught by 4"]["mean"] - row["miou"]["plain"]["mean"]
        )
        assert f"{pixels.FEATURES[features]}, taught by 2" in printed
    assert len(list((tmp_path / "work" / "31-3-64" / "truth").iterdir())) == 3

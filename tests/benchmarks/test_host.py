from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import host
from tests.benchmarks.programs import run


def test_every_step_takes_time_and_cores_follow_from_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "_POINTS", 6)
    words = ["--width", "96", "--height", "64", "--rate", "10", "--rounds", "2"]
    record, said = run(host.main, *words, "--out", str(tmp_path / "host.json"))
    assert list(record["seconds"]) == ["read", "resize", "filter", "cut", "encode"]
    assert all(seconds > 0 for seconds in record["seconds"].values())
    assert record["cores"] == pytest.approx(10 * sum(record["seconds"].values()))
    assert "10 images/s need" in said
    more, _ = run(host.main, *words, "--box-nms", "1", "--out", str(tmp_path / "more.json"))
    assert more["segments"] > record["segments"] > 0

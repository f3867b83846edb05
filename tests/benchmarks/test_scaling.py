from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import scaling
from benchmarks.memory import Sample
from benchmarks.scaling import rate_of


def test_the_rate_leaves_out_the_start_and_the_end() -> None:
    rows = [0, 1, 20, 20, 50, 90, 100, 100]
    samples = [Sample(second, 1, count) for second, count in zip(range(0, 160, 20), rows, strict=True)]
    assert rate_of(samples) == 70 / 60
    for few in (samples[:1], samples[:3], samples[-2:]):
        with pytest.raises(ValueError, match="over between two samples"):
            rate_of(few)


def test_a_list_that_is_none_is_refused() -> None:
    result = CliRunner().invoke(scaling.main, ["--actors", "1,x"])
    assert result.exit_code == 2
    assert "1,x is no list of numbers such as 1,2,4" in result.output


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_address")
def test_the_engine_runs_with_models_that_sleep(tmp_path: Path) -> None:
    found = scaling.overhead(tmp_path / "actors", actors=2, latency=0.05, per_actor=40)
    assert found["images_per_second"] > 0
    # Not below 1 for sure: of so short a run the parts may come in bursts.
    assert found["efficiency"] == pytest.approx(found["images_per_second"] * 0.05 / 2)
    assert found["overhead_ms_per_image"] == pytest.approx(2000 / found["images_per_second"] - 50)
    rows = scaling.many_rows(tmp_path / "rows", 600)
    assert (rows["rows"], rows["parts"]) == (600, sum(1 for _ in tmp_path.glob("rows/labels/labels/part-*")))
    assert rows["rss_mib_peak"] > 100
    assert rows["part_bytes_per_row"] > 0
    record = {"actors": [found], "rows": [rows], "ledger_calls_per_second": 1000.0}
    assert "the ledger answers 1000 calls per second" in scaling.show(record)
    assert json.loads(json.dumps(rows))["curve"][-1][1] == 600

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import review_server
from tests.benchmarks.programs import run


@pytest.mark.slow
def test_measures_every_request_of_the_page(tmp_path: Path) -> None:
    out = str(tmp_path / "review.json")
    record, printed = run(review_server.main, "--images", "30", "--dim", "16", "--rounds", "2", "--out", out)

    assert (record["images"], record["segments"]) == (30, 600)
    assert {one["count"] for one in record["requests"].values()} == {2}
    assert record["slowest_ms"] == max(one["max_ms"] for one in record["requests"].values())
    assert "similar segments" in printed

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import tiles
from tests.benchmarks.programs import run


@pytest.mark.slow
def test_the_record_has_each_size(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    words = ("--work", str(tmp_path), "--sides", "300", "200", "--tile", "128")
    try:
        record, printed = run(tiles.main, *words, "--out", str(tmp_path / "tiles.json"))
    finally:
        torch.set_num_threads(threads)
    assert [row["side"] for row in record["rows"]] == [200, 300]
    assert all(row["segments"] > 0 and row["peak_mib"] >= 0 for row in record["rows"])
    assert "per_megapixel" in printed

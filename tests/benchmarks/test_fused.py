from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import fused


def test_both_kinds_have_one_worker_per_model_and_share_it_or_not() -> None:
    one, two = fused.pools_of("one"), fused.pools_of("two")
    assert one.shared
    assert not two.shared
    assert one.plans == two.plans


def test_fewer_images_than_a_rate_takes_are_refused() -> None:
    assert CliRunner().invoke(fused.main, ["--images", "4"]).exit_code == 2


@pytest.mark.slow
@pytest.mark.usefixtures("ray_address")
def test_one_actor_labels_as_two_do(tmp_path: Path) -> None:
    out = tmp_path / "fused.json"
    words = ["--images", "64", "--size", "128", "--rounds", "1", "--out", str(out), "sam.points_per_side=2"]
    result = CliRunner().invoke(fused.main, words)
    assert result.exit_code == 0, result.output
    record = json.loads(out.read_text())
    assert record["ratio"]["mean"] == pytest.approx(record["one"]["mean"] / record["two"]["mean"])
    assert "one over two" in result.output

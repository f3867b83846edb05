from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import floor
from tests.benchmarks.programs import run


def test_products_and_bytes_are_counted() -> None:
    a, b = torch.zeros(30, 20), torch.zeros(20, 10)
    flops, moved = floor.count(lambda: (a @ b).T + 1)
    assert flops == pytest.approx(2 * 30 * 20 * 10 / 1e12)
    assert moved == pytest.approx(4 * (30 * 20 + 20 * 10 + 30 * 10 + 2 * 30 * 10) / 1e9)


def test_products_added_in_place_are_counted() -> None:
    out, a, b = torch.zeros(2, 30, 10), torch.zeros(2, 30, 20), torch.zeros(2, 20, 10)
    flops, moved = floor.count(lambda: out.baddbmm_(a, b))
    assert flops == pytest.approx(2 * 2 * 30 * 20 * 10 / 1e12)
    assert moved == pytest.approx(4 * 2 * (30 * 20 + 20 * 10 + 2 * 30 * 10) / 1e9)


def test_memory_that_is_taken_does_not_move_and_an_output_moves_once() -> None:
    a = torch.zeros(30, 20)
    _, moved = floor.count(lambda: torch.add(a, a, out=a.new_empty(30, 20)))
    assert moved == pytest.approx(4 * 3 * 30 * 20 / 1e9)


def test_the_floor_is_the_greater_of_two(tmp_path: Path) -> None:
    words = ("--height", "1080", "--width", "1920", "--tflops", "1", "--out", str(tmp_path / "floor.json"))
    record, said = run(floor.main, *words)
    assert "estimated, not measured" in said
    encoder, decoder = record["stages"]["encoder"], record["stages"]["decoder"]
    # ViT-B's own count is 0.97 TFLOP; upstream's decoder has 3.7 for 1,024 prompts.
    assert encoder["TFLOP"] == pytest.approx(0.97, abs=0.01)
    assert 0.5 < decoder["TFLOP"] < 3.7 / 2
    for stage in (encoder, decoder):
        assert stage["floor_ms"] == stage["compute_ms"] == pytest.approx(1000 * stage["TFLOP"])

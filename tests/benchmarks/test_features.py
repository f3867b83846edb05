from __future__ import annotations

import json
from pathlib import Path

import open_clip
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner

from benchmarks import gem, plain, pooling
from segray.models.clip.zero_shot import pool_segments
from segray.models.masks import full_mask


def test_the_peer_of_pooling_is_equation_1() -> None:
    features = torch.randn(3, 4, 5, dtype=torch.float64)
    mask = torch.zeros(7, 9, dtype=torch.bool)
    mask[2:5, 3:9] = True
    upsampled = F.interpolate(features.permute(2, 0, 1)[None], (7, 9), mode="bilinear")[0]
    expected = sum(upsampled[:, y, x] for y in range(2, 5) for x in range(3, 9)) / 18
    found = plain.upsample_then_mean(features, [mask, ~mask])
    assert found[0] == pytest.approx(expected, abs=1e-12)
    assert not torch.allclose(found[0], found[1])


def test_drawn_segments_lie_inside_and_are_pooled_alike() -> None:
    segments = pooling.draw_segments(6, 40, 60, seed=1)
    masks = [torch.from_numpy(full_mask(segment, 40, 60)) for segment in segments]
    assert len({segment.box for segment in segments}) == 6
    assert all(mask.any() for mask in masks)
    features = F.normalize(torch.randn(5, 6, 16), dim=-1)
    own = pool_segments(features, segments, 40, 60)
    assert own.numpy() == pytest.approx(plain.upsample_then_mean(features, masks).numpy(), abs=1e-6)


def test_pooling_writes_what_it_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pooling, "SIZES", ((20, 30), (40, 30)))
    out = tmp_path / "pooling.json"
    words = ["--segments", "3", "--grid", "4", "--dim", "8", "--rounds", "1", "--out", str(out)]
    done = CliRunner().invoke(pooling.main, words)
    assert done.exit_code == 0, done.output
    record = json.loads(out.read_text())
    assert [(one["height"], one["width"]) for one in record["sizes"]] == [(20, 30), (40, 30)]
    assert record["ratio"] == min(one["ratio"] for one in record["sizes"])
    assert all(one["segray_error"] < 1e-6 for one in record["sizes"])


def test_the_peer_of_gem_computes_the_same_tokens(tmp_path: Path) -> None:
    out = tmp_path / "gem.json"
    words = ["--model", "ViT-B-32", "--size", "64", "--images", "2", "--rounds", "1", "--out", str(out)]
    done = CliRunner().invoke(gem.main, words)
    assert done.exit_code == 0, done.output
    record = json.loads(out.read_text())
    assert set(record["seconds_per_image"]) == {"plain", "segray", "plain_batched", "segray_batched"}
    assert record["max_abs_difference"] < 1e-4 < 0.1 < record["token_deviation"]


def test_the_products_of_gem_are_counted_with_those_of_its_attentions() -> None:
    visual = open_clip.create_model("ViT-B-32", pretrained=None, pretrained_image=False).visual.eval()
    tokens, width, blocks, gem_blocks = 1 + 4, 768, 12, 6
    found = gem.bound(visual, torch.randn(1, 3, 64, 64), plain_seconds=1.0)
    linear, attention = 2 * tokens * width**2, 4 * tokens**2 * width
    whole = blocks * (12 * linear + attention) + gem_blocks * (linear + 6 * attention)
    ends = 2 * (tokens - 1) * width * 3 * 32 * 32 + 2 * tokens * width * 512
    last_of_the_original = 9 * linear + attention
    assert found["gflop"]["plain"] * 1e9 == pytest.approx(whole + ends)
    assert found["gflop"]["segray"] * 1e9 == pytest.approx(whole + ends - last_of_the_original)
    assert found["best_ratio"] == found["gflop_per_s"] / found["gflop"]["segray"]

"""Eq. 1: pooling by the transpose of the upsampling against upsampling first, same segments, one thread.

    python -m benchmarks.pooling --segments 64

The peer upsamples the features to the image's size and averages them over all masks in one matrix product.
Segments are ellipses of drawn places and sizes; features are random, L2-normalised. `ratio` is the peer's
CPU seconds over those of `models.clip.zero_shot.pool_segments`, the least of the sizes of image; `error` is
how far either is from the peer's way in float64, on the first eight features.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.common import Benchmark, circumstances, fresh, table, timed, write_result
from benchmarks.plain import upsample_then_mean
from segray.models.clip.zero_shot import pool_segments
from segray.models.masks import Segment, full_mask, segment_from_mask

SIZES = ((375, 500), (1080, 1920))
"""Heights and widths: a VOC photograph, a video frame."""


def draw_segments(count: int, height: int, width: int, seed: int) -> list[Segment]:
    """Ellipses inside the image, from a hundredth to a third of its sides in radius."""
    rng = np.random.default_rng(seed)
    segments = []
    for _ in range(count):
        ry, rx = (rng.uniform(0.01, 0.33, 2) * (height, width)).clip(2)
        cy, cx = rng.uniform((ry, rx), (height - ry, width - rx))
        y, x = np.mgrid[:height, :width]
        mask = ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= 1
        segments.append(segment_from_mask(mask))
    return segments


def compare(
    shape: tuple[int, int], count: int, grid: int, dim: int, rounds: int, seed: int
) -> dict[str, Any]:
    """Both ways on the same segments."""
    torch.manual_seed(seed)
    features = F.normalize(torch.randn(grid, grid, dim), dim=-1)
    segments = draw_segments(count, *shape, seed)
    masks = [torch.from_numpy(full_mask(segment, *shape)) for segment in segments]
    pool_segments(features, segments, *shape)
    plain, slow = timed(lambda: upsample_then_mean(features, masks), 1)
    pooled, fast = timed(lambda: pool_segments(features, segments, *shape), rounds)
    exact = upsample_then_mean(features[..., :8].double(), masks)
    return {
        "height": shape[0],
        "width": shape[1],
        "plain_seconds": slow,
        "segray_seconds": fast,
        "ratio": slow / fast,
        "plain_error": float((plain[:, :8] - exact).abs().max()),
        "segray_error": float((pooled[:, :8] - exact).abs().max()),
    }


@click.command("pooling", cls=Benchmark, help=__doc__)
@click.option("--segments", default=64, show_default=True, type=click.IntRange(1), help="Of an image.")
@click.option("--grid", default=28, show_default=True, type=click.IntRange(2), help="Side of the features.")
@click.option("--dim", default=512, show_default=True, type=click.IntRange(8), help="Their length.")
@click.option("--rounds", default=9, show_default=True, type=click.IntRange(1), help="Of segray's way.")
@click.option("--seed", default=11, show_default=True, callback=fresh, type=int)
@click.option("--out", type=click.Path(path_type=Path), help="JSON file.")
def main(segments: int, grid: int, dim: int, rounds: int, seed: int, out: Path | None) -> None:
    """Measure, print, record."""
    torch.set_num_threads(1)
    compared = [compare(shape, segments, grid, dim, rounds, seed) for shape in SIZES]
    head = ["height x width", "upsample, mean", "segray", "ratio", "error", "segray's error"]
    rows = [
        [
            f"{record['height']} x {record['width']}",
            f"{record['plain_seconds']:.3f} s",
            f"{1000 * record['segray_seconds']:.1f} ms",
            f"{record['ratio']:.0f}",
            f"{record['plain_error']:.1e}",
            f"{record['segray_error']:.1e}",
        ]
        for record in compared
    ]
    click.echo(table(head, rows))
    record = circumstances([seed]) | {"segments": segments, "grid": grid, "dim": dim, "sizes": compared}
    record["ratio"] = min(record["ratio"] for record in compared)
    click.echo(f"\nwrote {write_result(out, record)}")


if __name__ == "__main__":
    main()

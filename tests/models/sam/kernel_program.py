"""The kernel against the product of matrices, by Triton's interpreter; run by `test_sam_kernel.py`."""

from __future__ import annotations

import itertools
import sys

import torch
from torch.nn import functional as F

from segray.models.sam.geometry import frame, rows_needed
from segray.models.sam.statistics import _by_kernel, measure

CUT, OFFSET = 0.25, 0.5


def compare(height: int, width: int, side: int, samples: int) -> None:
    """Of smooth logits, one mask without pixels, and some left out."""
    f, generator = frame(height, width, side), torch.Generator().manual_seed(height)
    coarse = torch.randn(6, 1, 5, 5, generator=generator) * 3
    coarse[2] = -5
    coarse[3, 0, :, 2:] = -5
    rows = 4 * rows_needed(f, samples // 4)
    logits = F.interpolate(coarse, (samples, samples), mode="bicubic")[:, 0, :rows].contiguous()
    keep = torch.arange(6) != 1
    expected = measure(logits, keep, f, samples, CUT, OFFSET)
    y_axis = (samples, f.side, f.input_height, f.height, rows, logits.device)
    x_axis = (samples, f.side, f.input_width, f.width, samples, logits.device)
    statistics = _by_kernel(logits, keep, y_axis, x_axis, CUT, OFFSET)
    assert statistics[1].tolist() == [0, 0, -1, -1, -1, -1]
    assert statistics[2].tolist() == [0, 0, -1, -1, -1, -1]
    assert torch.equal(statistics[keep][:, 2:], expected[keep][:, 2:]), (statistics, expected)
    # Sums in another order may move a pixel's logit across a threshold.
    assert (statistics[keep] - expected[keep]).abs().max() <= 1, (statistics, expected)
    assert expected[keep][:, 0].max() > height * width // 20


if __name__ == "__main__":
    sizes = [(50, 70), (33, 130), (5, 9)]
    for (height, width), (side, samples) in itertools.product(sizes, [(96, 24), (48, 24)]):
        compare(height, width, side, samples)
    sys.stdout.write("the same\n")

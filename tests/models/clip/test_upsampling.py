"""Maps at the size of their image."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from segray.models.clip import upsampling
from segray.models.clip.upsampling import Upsampled


@pytest.mark.parametrize("values", [0, 1 << 24])
@pytest.mark.parametrize("rows", [1, 2, 5, 100])
@pytest.mark.parametrize(
    ("grid", "size"),
    [((1, 1), (7, 5)), ((1, 6), (9, 11)), ((6, 1), (11, 9)), ((4, 5), (40, 33)), ((20, 30), (7, 8))],
)
def test_bands_are_those_of_the_whole(
    grid: tuple[int, int], size: tuple[int, int], rows: int, values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upsampling, "_VALUES", values)
    maps = torch.randn(3, *grid, generator=torch.Generator().manual_seed(0))
    # In float64, as the interpolation computes its coordinates in the precision of its input.
    whole = F.interpolate(maps[None].double(), size, mode="bilinear")[0].float()
    upsampled = Upsampled(maps, *size)
    bands = [upsampled.band(top, min(top + rows, size[0])) for top in range(0, size[0], rows)]
    torch.testing.assert_close(torch.cat(bands, 1), whole, rtol=1e-5, atol=1e-6)

"""The upscaling of SAM's mask decoder: transposed convolutions without overlap are matrix products."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Upscaling:
    """`output_upscaling` of a decoder after its first transposed convolution, whose weights it reads."""

    def __init__(self, layers: Any) -> None:
        _, self._norm, self._act, second, _ = layers
        self._weight = upscaling_weight(second)

    def __call__(self, up: Tensor, added: Tensor) -> Tensor:
        """[P, n, C] to [P, 16 n, C / 8]; the 4 x 4 pixels of a token are adjacent.

        Args:
            up: the first transposed convolution, 2 x 2 pixels a token.
            added: to the second one's products, [C / 2] or [4 n, C / 2].
        """
        count, tokens = up.shape[:2]
        up = up.unflatten(2, (4, -1)).flatten(0, 2)
        up = self._act(F.layer_norm(up, up.shape[-1:], self._norm.weight, self._norm.bias, self._norm.eps))
        added = added if added.ndim == 1 else added.repeat(count, 1)
        up = self._act(torch.addmm(added, up, self._weight))
        return up.view(count, 16 * tokens, -1)


def upscaling_weight(convolution: nn.ConvTranspose2d) -> Tensor:
    """A 2 x 2 transposed convolution of stride 2 as a matrix [in, 4 out], sub-pixels row by row."""
    weight: Tensor = convolution.weight
    return weight.permute(0, 2, 3, 1).flatten(1).contiguous()

"""Pictures to the encoder: the next ones are resized in threads while a GPU is at work on these."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from segray.models.sam.geometry import Rgb, Size, normalised, resized
from segray.models.transfer import pinned, prefetch


def embeddings(
    sam: Any,
    crops: Iterable[tuple[Rgb, Size]],
    encode: Callable[[Tensor], Tensor],
    batch: int,
    threads: int,
    *,
    filled: bool = False,
) -> Iterator[Tensor]:
    """Image embeddings [C, h, w] of pictures, in order.

    Args:
        sam: the model.
        crops: uint8 [H, W, 3] each, and the (height, width) of what it may be a small copy of.
        encode: [B, 3, side, side] to [B, C, h, w].
        batch: pictures that the encoder takes at a time.
        threads: that resize pictures, up to two batches ahead; 0: none, each when it is needed.
        filled: fill the last batch up, so that all have one shape.
    """
    pictures = _resized(crops, sam.image_encoder.img_size, sam.device, threads, 2 * batch)
    while taken := list(islice(pictures, batch)):
        inputs = normalised(sam, taken)
        if filled:
            inputs = torch.cat([inputs, inputs.new_zeros(batch - len(taken), *inputs.shape[1:])])
        yield from encode(inputs)[: len(taken)]


def _resized(
    crops: Iterable[tuple[Rgb, Size]], side: int, device: torch.device, threads: int, ahead: int
) -> Iterator[Tensor]:
    """The pictures as SAM sees them, in memory that the device copies from by itself."""

    def resize(crop: tuple[Rgb, Size]) -> Tensor:
        return pinned(resized(*crop, side), device)

    if not threads:
        yield from map(resize, crops)
        return
    with ThreadPoolExecutor(threads) as pool:
        for future in prefetch((pool.submit(resize, crop) for crop in crops), ahead):
            yield future.result()

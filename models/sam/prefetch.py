"""Feed images to the encoder: threads resize the next images while a GPU encodes the current ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from segray.models.sam.geometry import Rgb, Size
from segray.models.transfer import pinned, prefetch

if TYPE_CHECKING:
    from segray.models.sam.prompted import PromptedModel


def embeddings(
    model: PromptedModel,
    crops: Iterable[tuple[Rgb, Size]],
    encode: Callable[[Tensor], Tensor],
    batch: int,
    threads: int,
    *,
    fill_batch: bool = False,
) -> Iterator[Tensor]:
    """Image embeddings [C, h, w] of image crops, in order.

    Args:
        model: whose images they are.
        crops: uint8 [H, W, 3] each, possibly reduced, with the (height, width) of the original.
        encode: maps [B, 3, side, side] to [B, C, h, w].
        batch: number of crops that the encoder takes at a time.
        threads: that resize crops, up to two batches ahead; 0: resize each crop when it is needed.
        fill_batch: pad the last batch, so that all batches have the same shape.
    """
    images = _resized(model, crops, threads, 2 * batch)
    while chunk := list(islice(images, batch)):
        inputs = model.normalised(chunk)
        if fill_batch:
            inputs = torch.cat([inputs, inputs.new_zeros(batch - len(chunk), *inputs.shape[1:])])
        yield from encode(inputs)[: len(chunk)]


def _resized(
    model: PromptedModel, crops: Iterable[tuple[Rgb, Size]], threads: int, depth: int
) -> Iterator[Tensor]:
    """Crops resized to the model's input, in pinned memory for a GPU."""

    def resize(crop: tuple[Rgb, Size]) -> Tensor:
        return pinned(model.resized(*crop), model.device)

    if not threads:
        yield from map(resize, crops)
        return
    with ThreadPoolExecutor(threads) as pool:
        for future in prefetch((pool.submit(resize, crop) for crop in crops), depth):
            yield future.result()

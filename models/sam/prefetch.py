"""Feed images to the encoder: threads resize the next images while a GPU encodes the current ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from segray.models.sam.geometry import Rgb, Size, normalised, resized
from segray.models.transfer import pinned, prefetch

if TYPE_CHECKING:
    from segment_anything.modeling import Sam


def embeddings(
    sam: Sam,
    crops: Iterable[tuple[Rgb, Size]],
    encode: Callable[[Tensor], Tensor],
    batch: int,
    threads: int,
    *,
    fill_batch: bool = False,
) -> Iterator[Tensor]:
    """Image embeddings [C, h, w] of image crops, in order.

    Args:
        sam: the model.
        crops: uint8 [H, W, 3] each, possibly reduced, with the (height, width) of the original.
        encode: maps [B, 3, side, side] to [B, C, h, w].
        batch: number of crops that the encoder takes at a time.
        threads: that resize crops, up to two batches ahead; 0: resize each crop when it is needed.
        fill_batch: pad the last batch, so that all batches have the same shape.
    """
    images = _resized(crops, sam.image_encoder.img_size, sam.device, threads, 2 * batch)
    while chunk := list(islice(images, batch)):
        inputs = normalised(sam, chunk)
        if fill_batch:
            inputs = torch.cat([inputs, inputs.new_zeros(batch - len(chunk), *inputs.shape[1:])])
        yield from encode(inputs)[: len(chunk)]


def _resized(
    crops: Iterable[tuple[Rgb, Size]], side: int, device: torch.device, threads: int, depth: int
) -> Iterator[Tensor]:
    """Crops resized to SAM's input, in pinned memory for a GPU."""

    def resize(crop: tuple[Rgb, Size]) -> Tensor:
        return pinned(resized(*crop, side), device)

    if not threads:
        yield from map(resize, crops)
        return
    with ThreadPoolExecutor(threads) as pool:
        for future in prefetch((pool.submit(resize, crop) for crop in crops), depth):
            yield future.result()

"""An image as regions that show the same segment, so that a labelling is scored without drawing it.

A label map shows, at each pixel, the topmost segment that has a class (`label_map.render_label_map`). Pixels
under the same segments form a region; its true classes are counted once. Any naming and any threshold is then
scored from these counts, thousands of times faster than from pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segray.models.label_map import LabelMap
from segray.models.masks import Segment
from segray.models.metrics import Confusion

_IDS = 256


@dataclass(frozen=True)
class Regions:
    """The regions of some images, whose segments are numbered through all of them.

    Attributes:
        stacks: int64 [A, L], the segments over each region, the topmost first; -1 after the last.
        truth: int64 [A, C], the region's pixels of each true class; ignored pixels are in none.
        image: int64 [A], the image of each region.
    """

    stacks: NDArray[np.int64]
    truth: NDArray[np.int64]
    image: NDArray[np.int64]

    def confusions(
        self, class_id: NDArray[np.int64], shown: NDArray[np.bool_], n_images: int
    ) -> NDArray[np.int64]:
        """int64 [n_images, C, C + 1], rows truth, columns labels; the last column is for pixels of class C.

        Args:
            class_id: [n], the class of each segment; C for "no answer".
            shown: [n], whether it is drawn.
            n_images: images, numbered from 0.
        """
        n_classes = self.truth.shape[1]
        visible = np.append(shown, False)[self.stacks]
        top = np.where(
            visible.any(1), self.stacks[np.arange(len(self.stacks)), visible.argmax(1)], len(class_id)
        )
        label = np.append(class_id, 0)[top]
        cell, size = self.image * (n_classes + 1) + label, n_images * (n_classes + 1)
        # Weights are float64, which counts pixels exactly.
        counts = [np.bincount(cell, weights=pixels, minlength=size) for pixels in self.truth.T]
        return np.array(counts, np.int64).reshape(n_classes, n_images, n_classes + 1).transpose(1, 0, 2)


def image_regions(
    segments: Sequence[Segment], truth: LabelMap, n_classes: int
) -> tuple[list[tuple[int, ...]], Confusion, Confusion]:
    """The regions of one image.

    Args:
        segments: K of them.
        truth: uint8 [H, W]; ids from `n_classes` on are ignored.
        n_classes: C.

    Returns:
        The segments over each region, topmost first; true pixels of each region, int64 [A, C]; of each
        segment, [K, C].
    """
    region = np.zeros(truth.shape, np.int64)
    stacks: list[tuple[int, ...]] = [()]
    pixels = np.zeros((len(segments), n_classes), np.int64)
    for k in sorted(range(len(segments)), key=lambda k: -segments[k].area):
        x, y, w, h = segments[k].box
        under = region[y : y + h, x : x + w]
        below, index = np.unique(under[segments[k].mask], return_inverse=True)
        under[segments[k].mask] = len(stacks) + index
        stacks += [(k, *stacks[r]) for r in below]
        pixels[k] = np.bincount(truth[y : y + h, x : x + w][segments[k].mask], minlength=_IDS)[:n_classes]
    counted = np.bincount((region * _IDS + truth).ravel(), minlength=len(stacks) * _IDS)
    counted = counted.reshape(-1, _IDS)[:, :n_classes]
    kept = counted.any(1)
    return [stack for stack, keep in zip(stacks, kept, strict=True) if keep], counted[kept], pixels


def join_regions(
    images: Sequence[tuple[list[tuple[int, ...]], Confusion]], first: Sequence[int], n_classes: int
) -> Regions:
    """The regions of images, each as `image_regions` gives them; `first` is the number of its first segment."""
    depth = max((len(stack) for stacks, _ in images for stack in stacks), default=0)
    rows = [
        [*(start + k for k in stack), *[-1] * (depth + 1 - len(stack))]
        for (stacks, _), start in zip(images, first, strict=True)
        for stack in stacks
    ]
    truth = [counts for _, counts in images]
    number = np.repeat(np.arange(len(images)), [len(stacks) for stacks, _ in images])
    return Regions(
        np.array(rows, np.int64).reshape(len(rows), depth + 1),
        np.concatenate(truth) if truth else np.zeros((0, n_classes), np.int64),
        number,
    )

"""An image as regions that show the same segment, so that a labelling is scored without drawing it.

A label map shows, at each pixel, the topmost segment that has a class (`label_map.render_label_map`). Pixels
under the same segments form a region; its true classes are counted once. Any naming and any threshold is then
scored from these counts, thousands of times faster than from pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segray.models.label_map import LabelMap
from segray.models.masks import Segment


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


@dataclass(frozen=True)
class MaskedImage:
    """The K segments of an image with a mask.

    Attributes:
        embeddings: [K, D], as they are stored.
        stability: [K], SAM's stability score.
        pixels: int64 [K, C], true pixels of each segment.
        stacks: int64 [A, L], the segments over each region, the topmost first; -1 after the last.
        truth: int64 [A, C], true pixels of each region, at least one.
    """

    embeddings: NDArray[np.floating[Any]]
    stability: NDArray[np.float64]
    pixels: NDArray[np.int64]
    stacks: NDArray[np.int64]
    truth: NDArray[np.int64]


def masked_image(
    segments: Sequence[Segment], embeddings: NDArray[np.floating[Any]], truth: LabelMap, n_classes: int
) -> MaskedImage:
    """What calibration needs of an image.

    Args:
        segments: K of them.
        embeddings: [K, D].
        truth: [H, W]; ids from `n_classes` on are ignored.
        n_classes: C.
    """
    # Ignored pixels have the last number.
    ids, n_ids = np.minimum(truth, n_classes), n_classes + 1
    region = np.zeros(truth.shape, np.int64)
    stacks: list[tuple[int, ...]] = [()]
    pixels = np.zeros((len(segments), n_classes), np.int64)
    for k in sorted(range(len(segments)), key=lambda k: -segments[k].area):
        x, y, w, h = segments[k].box
        under = region[y : y + h, x : x + w]
        below, index = np.unique(under[segments[k].mask], return_inverse=True)
        under[segments[k].mask] = len(stacks) + index
        stacks += [(k, *stacks[r]) for r in below]
        pixels[k] = np.bincount(ids[y : y + h, x : x + w][segments[k].mask], minlength=n_ids)[:n_classes]
    counted = np.bincount((region * n_ids + ids).ravel(), minlength=len(stacks) * n_ids)
    counted = counted.reshape(-1, n_ids)[:, :n_classes]
    shown = np.flatnonzero(counted.any(1))
    depth = max((len(stacks[r]) for r in shown), default=0) + 1
    padded = [[*stacks[r], *[-1] * (depth - len(stacks[r]))] for r in shown]
    stability = np.array([segment.stability_score for segment in segments], float)
    table = np.array(padded, np.int64).reshape(len(shown), depth)
    return MaskedImage(embeddings, stability, pixels, table, counted[shown])


def join_regions(images: Sequence[MaskedImage]) -> Regions:
    """The regions of at least one image, with their segments numbered through all of them."""
    first = np.cumsum([0, *(len(image.pixels) for image in images)])
    depth = max(image.stacks.shape[1] for image in images)
    tables = []
    for image, start in zip(images, first, strict=False):
        stacks = np.where(image.stacks >= 0, image.stacks + start, -1)
        tables.append(np.pad(stacks, ((0, 0), (0, depth - stacks.shape[1])), constant_values=-1))
    number = np.repeat(np.arange(len(images)), [len(image.stacks) for image in images])
    return Regions(np.concatenate(tables), np.concatenate([image.truth for image in images]), number)

"""What the names of several classes find in an image, as segments that together give each pixel its class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from segray.models.masks import Segment
from segray.models.sam.geometry import Size

_VALUES_AT_ONCE = 1 << 24
_INSIDE = 0.5
"""Probability with which a pixel lies in the mask of an instance."""
_SHARED = 0.5
"""An instance with more of its mask in that of a better one of its class is the same thing, found twice."""


@dataclass(frozen=True)
class Concept:
    """What one name finds in an image.

    Attributes:
        class_id: of the name.
        presence: [], the probability that it is there.
        scores: float32 [Q] of its instances, best first, times the presence.
        masks: float32 [Q, h, w], their logits over the whole image.
        semantic: float32 [h, w], the logits of its semantic map.
    """

    class_id: int
    presence: Tensor
    scores: Tensor
    masks: Tensor
    semantic: Tensor


@dataclass(frozen=True)
class _Class:
    """The maps of one class among those of the image: its instances, then the semantic maps of its names.

    Attributes:
        distinct: bool [instances], which of them are no repetition of a better one.
    """

    class_id: int
    maps: slice
    distinct: Tensor


class ConceptMap:
    """The score of each class in each pixel, and the segments that follow from it.

    S_c(x) is the maximum over the names of class c, of each instance's score times the probability of its
    mask, and of the presence times the probability of the semantic map. A pixel belongs to the class with the
    highest score, to none below the threshold. The pixels of a class are one segment per distinct instance,
    each pixel with the best one whose mask holds it, and one more segment of those in none.

    Args:
        concepts: of the image; those of a class follow each other.
        size: (height, width) of the image.
        threshold: see above.
    """

    def __init__(self, concepts: Sequence[Concept], size: Size, threshold: float) -> None:
        self._size, self._threshold = size, threshold
        self._classes: list[_Class] = []
        logits: list[Tensor] = []
        weights: list[Tensor] = []
        start = 0
        for class_id, group in groupby(concepts, key=lambda concept: concept.class_id):
            names = list(group)
            masks, scores = (
                torch.cat(parts) for parts in zip(*((n.masks, n.scores) for n in names), strict=True)
            )
            logits += [masks, *(name.semantic[None] for name in names)]
            weights += [scores, *(name.presence[None] for name in names)]
            stop = start + len(scores) + len(names)
            self._classes.append(_Class(class_id, slice(start, stop), _distinct(masks, scores)))
            start = stop
        if concepts:
            self._weights = torch.cat(weights)
            self._across = _along_rows(torch.cat(logits), size[1])

    def segments(self, n_classes: int) -> tuple[list[Segment], NDArray[np.float32]]:
        """K segments without overlap, and float32 [K, n_classes]: the mean score of each class in each."""
        if not self._classes:
            return [], np.zeros((0, n_classes), np.float32)
        n_maps, n_present = len(self._weights), len(self._classes)
        sums = torch.zeros(n_maps + 1, n_present, dtype=torch.float64, device=self._weights.device)
        bands = []
        for scores in self._bands():
            by_class = torch.stack([scores[one.maps].amax(0) for one in self._classes])
            number = self._numbers(scores, by_class)
            sums.index_add_(0, number.flatten(), by_class.flatten(1).T.double())
            bands.append(number.to(torch.int32).cpu().numpy())
        return self._cut(np.concatenate(bands), sums.cpu().numpy(), n_classes)

    def _bands(self) -> Iterator[Tensor]:
        """The score of each map, [M, rows, W], a band of rows at a time."""
        height, width = self._size
        rows = max(1, _VALUES_AT_ONCE // (len(self._weights) * width))
        for top in range(0, height, rows):
            logits = _rows(self._across, height, top, min(height, top + rows))
            yield logits.sigmoid() * self._weights[:, None, None]

    def _numbers(self, scores: Tensor, by_class: Tensor) -> Tensor:
        """int64 [rows, W]: 1 + the map whose segment a pixel belongs to; 0: none.

        From the scores of the maps [M, rows, W], and of the P classes that are present [P, rows, W].

        The segment of the pixels in no instance has the number of the class's first semantic map.
        """
        best, winner = by_class.max(0)
        candidates = torch.stack([self._own(one, scores) for one in self._classes])
        number = candidates.gather(0, winner[None])[0]
        return torch.where(best >= self._threshold, 1 + number, 0)

    def _own(self, one: _Class, scores: Tensor) -> Tensor:
        """[rows, W], the map of a class whose segment a pixel would belong to."""
        count = len(one.distinct)
        rest = one.maps.start + count
        if not count:
            return torch.full_like(scores[0], rest, dtype=torch.int64)
        instances, weights = scores[one.maps][:count], self._weights[one.maps][:count]
        inside = (instances >= _INSIDE * weights[:, None, None]) & one.distinct[:, None, None]
        value, index = torch.where(inside, instances, -1).max(0)
        return torch.where(value >= 0, one.maps.start + index, rest)

    def _cut(
        self, number: NDArray[np.int32], sums: NDArray[np.float64], n_classes: int
    ) -> tuple[list[Segment], NDArray[np.float32]]:
        columns = [one.class_id for one in self._classes]
        weights = self._weights.tolist()
        segments, rows = [], []
        for k, window in enumerate(ndimage.find_objects(number)):
            if window is None:
                continue
            mask = number[window] == k + 1
            y, x = (side.start for side in window)
            area = int(mask.sum())
            box = (x, y, mask.shape[1], mask.shape[0])
            segments.append(Segment(box, mask, area, predicted_iou=weights[k], stability_score=1.0))
            row = np.zeros(n_classes, np.float32)
            row[columns] = sums[k + 1] / area
            rows.append(row)
        return segments, np.array(rows, np.float32).reshape(len(rows), n_classes)


def _distinct(masks: Tensor, scores: Tensor) -> Tensor:
    """bool [Q], on the device of the masks [Q, h, w]."""
    inside = (masks >= 0).flatten(1).float()
    shared = (inside @ inside.T).cpu()
    kept: list[int] = []
    for k in scores.argsort(descending=True, stable=True).tolist():
        if not (shared[k, kept] > _SHARED * shared[k, k]).any():
            kept.append(k)
    distinct = torch.zeros(len(scores), dtype=torch.bool)
    distinct[kept] = True
    return distinct.to(masks.device)


def _along_rows(maps: Tensor, width: int) -> Tensor:
    """[M, h, w] to [M, h, width], bilinear."""
    return F.interpolate(maps, width, mode="linear", align_corners=False)


def _rows(maps: Tensor, height: int, top: int, bottom: int) -> Tensor:
    """Rows `top` to `bottom` of [M, h, W] brought to so many rows, bilinear as in `interpolate`."""
    samples = maps.shape[1]
    rows = torch.arange(top, bottom, dtype=torch.float64, device=maps.device)
    place = ((rows + 0.5) * samples / height - 0.5).clamp(min=0)
    above = place.long()
    below = (above + 1).clamp(max=samples - 1)
    return torch.lerp(maps[:, above], maps[:, below], (place - above).to(maps.dtype)[:, None])

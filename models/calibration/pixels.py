"""Classes of pixels without segments, taught by a few masks: the cells of the feature grid are the segments.

All candidates of `heads` are fitted to the cells of the images with masks, and averaged as logits, which
keeps the whole affine in a cell's text scores and its features. So the result is a list of embeddings with a
bias each, beside what class names alone would give, and labels an image like these.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from segray.models.calibration.heads import Array, Evidence, Fit, Head, candidates
from segray.models.calibration.regions import MaskedImage
from segray.models.calibration.selection import Judged, Labelled, judge
from segray.models.label_map import LabelMap

FOLDS = 8
"""More images than this are held out in so many groups."""
_PRIOR_POWER = 0.25
"""How far rare classes are lifted: shares are divided by the class frequencies to the power of this.

IoU asks for more of a rare class than likelihood does. Chosen on development seeds of the picture book, among
0, 0.25, 0.4 and 0.5.
"""
_LEAST_FREQUENCY = 1e-3


def masked_cells(
    tiles: Iterable[tuple[NDArray[np.float32], LabelMap]], n_classes: int, most: int
) -> MaskedImage:
    """The cells of an image's feature grids as segments that do not overlap.

    Args:
        tiles: of each the features [h, w, D], a grid that covers it, and the truth [H, W], in which ids from
            `n_classes` on are ignored.
        n_classes: C.
        most: cells to take of a tile at most, of each class a share like that of all.
    """
    # A tile at a time, as large images have thousands.
    parts = [_taken(*_cells(features, truth, n_classes), most) for features, truth in tiles]
    embeddings, pixels = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    order = np.arange(len(pixels))
    stacks = np.stack([order, np.full_like(order, -1)], 1)
    return MaskedImage(embeddings, np.ones(len(pixels)), pixels, stacks, pixels)


def _taken(
    features: NDArray[np.float32], pixels: NDArray[np.int64], most: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    known = np.flatnonzero(pixels.any(1))
    by_class = known[np.argsort(pixels[known].argmax(1), kind="stable")]
    taken = np.sort(by_class[np.linspace(0, len(known) - 1, min(most, len(known))).round().astype(np.int64)])
    return features[taken], pixels[taken]


def _cells(
    features: NDArray[np.float32], truth: LabelMap, n_classes: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Features [h w, D] of the cells of a grid, and their true pixels [h w, C]."""
    rows, columns, dim = features.shape
    cell = _cells_of(truth.shape[0], rows)[:, None] * columns + _cells_of(truth.shape[1], columns)
    ids = np.minimum(truth, n_classes).astype(np.int64)
    size = rows * columns * (n_classes + 1)
    counted = np.bincount((cell * (n_classes + 1) + ids).ravel(), minlength=size)
    return features.reshape(-1, dim), counted.reshape(-1, n_classes + 1)[:, :n_classes]


def _cells_of(size: int, grid: int) -> NDArray[np.int64]:
    """The cell of each of `size` pixels along an axis with `grid` cells."""
    return (np.arange(size) * grid) // size


@dataclass(frozen=True)
class TaughtHeads:
    """Logits of the classes of a cell, by what masks taught.

    Attributes:
        head: of all images.
        held_out: by the number of an image modulo `FOLDS`, fitted to the other ones.
        weights: of the candidates in all of them, by their names.
    """

    head: Head
    held_out: tuple[Head, ...]
    weights: dict[str, float]


def teach(labelled: Labelled) -> TaughtHeads | None:
    """Average all candidates by their mIoU on images held out; None where a single image has cells.

    Weights, temperatures and the lift of rare classes are those of all images, also in heads held out.

    Args:
        labelled: cells of the images with masks, with text scores.
    """
    evidence, classes, fold = labelled.evidence, labelled.classes, labelled.image % FOLDS
    if len(np.unique(fold)) < 2:
        return None
    fits = candidates(evidence, classes, fold)
    everywhere = _fitted(fits, evidence, classes)
    there = np.isin(np.arange(evidence.text.shape[1]), classes)
    # A mean of logits gives no class that one of its candidates cannot give: the text, where it has no name.
    fits = {name: fit for name, fit in fits.items() if everywhere[name].names(there)}
    numbers = range(min(FOLDS, labelled.n_images))
    # A fold none of whose images has cells teaches nothing, and is judged by all the others.
    held_out = [_fitted(fits, evidence[fold != k], classes[fold != k]) for k in numbers]
    raw = {name: np.zeros_like(evidence.text) for name in fits}
    for number, heads in zip(numbers, held_out, strict=True):
        for name, head in heads.items():
            raw[name][fold == number] = head.scores(evidence[fold == number])
    judged = judge(labelled, raw)
    weights = {name: weight for name, weight in judged.weights().items() if weight}
    lift = _lift(judged)

    def averaged(heads: Mapping[str, Head]) -> Head:
        mean = reduce(_sum, (heads[name].scaled(w * judged.factor[name]) for name, w in weights.items()))
        return Head(mean.scale, mean.weights, mean.bias + lift)

    return TaughtHeads(averaged(everywhere), tuple(map(averaged, held_out)), weights)


def _fitted(fits: Mapping[str, Fit], evidence: Evidence, classes: NDArray[np.int64]) -> dict[str, Head]:
    return {name: fit(evidence, classes) for name, fit in fits.items()}


def _sum(one: Head, other: Head) -> Head:
    return Head(one.scale + other.scale, one.weights + other.weights, one.bias + other.bias)


def _lift(judged: Judged) -> Array:
    """[C], logits that rare classes get."""
    frequency = judged.averaged().mean(0) + _LEAST_FREQUENCY
    lift: Array = -_PRIOR_POWER * np.log(frequency)
    return lift


@dataclass(frozen=True)
class TaughtNames:
    """Embeddings of the classes' names and what masks made of them; a class's logit is the best of its own.

    Attributes:
        embeddings: float32 [N, D].
        class_ids: int64 [N].
        bias: float32 [N].
    """

    embeddings: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    bias: NDArray[np.float32]


def taught_names(head: Head, embeddings: Array, class_ids: NDArray[np.int64]) -> TaughtNames:
    """The names by which `Head.scores` are best dot products: scale * (e . x) + w . x + b of a name e.

    Args:
        head: no scale of which is negative.
        embeddings: [N, D], of the names.
        class_ids: [N]; a class without a name gets a row of its own.
    """
    without = np.setdiff1d(np.arange(len(head.bias)), class_ids)
    ids = np.concatenate([class_ids, without])
    texts = np.concatenate([embeddings, np.zeros((len(without), embeddings.shape[1]))])
    rows = head.scale[ids, None] * texts + head.weights.T[ids]
    return TaughtNames(rows.astype(np.float32), ids, head.bias[ids].astype(np.float32))

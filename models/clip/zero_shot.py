"""Zero-shot classification: pool dense features over segments, compare them with class names.

Eq. 1 and 2 of "Zero-Shot Pseudo Labels Generation Using SAM and CLIP for Semi-Supervised Semantic
Segmentation" (ICIP 2025, arXiv 2505.19846).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from segray.models.clip.refinement import refined
from segray.models.clip.upsampling import Upsampled
from segray.models.label_map import NO_RUNNER_UP, LabelMap, SegmentClasses, label_dtype, levels_of
from segray.models.label_space import ignore_index_of
from segray.models.masks import Segment
from segray.models.transfer import to_device

if TYPE_CHECKING:  # open_clip takes seconds to import, and workers that only render do not need it
    from segray.models.clip.text import ZeroShotClassifier

_VALUES_AT_ONCE = 1 << 20
_PIXELS_AT_ONCE = 1 << 26


class PixelClasses(NamedTuple):
    """The class of each pixel of an image by itself, [H, W] each.

    Attributes:
        label: its class; 0 where no cosine is above the threshold.
        confidence: uint8, value / 255; 0 where no cosine is above the threshold.
        best: its class, whatever the cosine.
    """

    label: LabelMap
    confidence: NDArray[np.uint8]
    best: LabelMap


def pool_segments(features: Tensor, segments: Sequence[Segment], height: int, width: int) -> Tensor:
    """Eq. 1: the mean of the bilinearly upsampled features over each segment, [K, D] on the features' device.

    Upsampling U is linear, so the mean of U phi over a mask m is (U^T m)^T phi / |m|: the mask's crop is
    brought down to the feature grid by the transpose, exactly, and nothing of size H x W x D exists.

    Args:
        features: [h, w, D], the grid that covers the whole image.
        segments: K segments of the image.
        height: of the image in pixels.
        width: the same.

    Raises:
        ValueError: a segment that is empty or reaches beyond the image.
    """
    rows, columns, dim = features.shape
    dtype = torch.promote_types(features.dtype, torch.float32)
    if not segments:
        return torch.zeros(0, dim, dtype=dtype, device=features.device)
    axes = (
        _upsampling(height, rows, features.device, dtype),
        _upsampling(width, columns, features.device, dtype),
    )
    weights = _weights_by_crop if features.device.type == "cpu" else weights_by_image
    return weights(segments, *axes) @ features.to(dtype).flatten(0, 1)


def _weights_by_crop(segments: Sequence[Segment], vertical: Tensor, horizontal: Tensor) -> Tensor:
    weights = []
    for segment in segments:
        x, y, w, h = _inside(segment, len(vertical), len(horizontal))
        mask = torch.from_numpy(segment.mask).to(vertical.dtype)
        grid = vertical[y : y + h].T @ (mask @ horizontal[x : x + w])
        weights.append(grid.flatten() / segment.area)
    return torch.stack(weights)


def weights_by_image(segments: Sequence[Segment], vertical: Tensor, horizontal: Tensor) -> Tensor:
    """U^T m / |m| of each segment, [K, h w], from masks as large as the image.

    More arithmetic than crops are, in a few large operations: on a GPU that SAM keeps busy, each operation
    waits for its turn.

    Args:
        segments: K segments of the image.
        vertical: U along an image's columns, [H, h].
        horizontal: U along its rows, [W, w].

    Raises:
        ValueError: a segment that is empty or reaches beyond the image.
    """
    height, width = len(vertical), len(horizontal)
    step = max(1, _PIXELS_AT_ONCE // (height * width))
    parts = []
    for start in range(0, len(segments), step):
        part = segments[start : start + step]
        masks = np.zeros((len(part), height, width), np.bool_)
        for mask, segment in zip(masks, part, strict=True):
            x, y, w, h = _inside(segment, height, width)
            mask[y : y + h, x : x + w] = segment.mask
        across = to_device(torch.from_numpy(masks), vertical.device).to(vertical.dtype) @ horizontal
        parts.append((vertical.T @ across).flatten(1))
    areas = torch.tensor([segment.area for segment in segments], dtype=vertical.dtype)
    return torch.cat(parts) / to_device(areas, vertical.device)[:, None]


@torch.no_grad()
def classify_segments(
    pooled: Tensor,
    classifier: ZeroShotClassifier,
    threshold: float,
    elected: NDArray[np.int64] | None = None,
) -> SegmentClasses:
    """Eq. 2: the best class of each pooled feature [K, D]; none where its cosine is not above the threshold.

    A class's cosine is the best one of its names. Classes of equal cosine go to the lower id.

    Args:
        pooled: of the segments.
        classifier: the class names.
        threshold: a cosine.
        elected: [K], the classes that the segments get instead (see `vote`), with their own cosines; where it
            is not the best one, the margin is negative.
    """
    cosines, ids = _class_scores(pooled, classifier)
    ranks = cosines if elected is None else _elected_first(cosines, ids, elected)
    order = ranks.sort(dim=-1, descending=True, stable=True).indices
    confidence = (classifier.logit_scale * cosines).softmax(-1).gather(1, order[:, :1])
    # One copy, as each would make a GPU wait; a class id is exact in float32.
    table = torch.cat([confidence, cosines.gather(1, order[:, :2]), ids[order[:, :2]].float()], 1)
    confidences, score, *others = table.T.contiguous().cpu().numpy()
    if len(ids) > 1:
        second, best, runner_up = others
    else:
        (best,) = others
        second, runner_up = np.full_like(score, -1), np.full_like(best, NO_RUNNER_UP)
    has_class = score > np.float32(threshold)
    return SegmentClasses(
        class_id=np.where(has_class, best, 0).astype(np.int16),
        score=score,
        margin=score - second,
        confidence=confidences,
        runner_up_class=runner_up.astype(np.int16),
        has_class=has_class,
    )


def _elected_first(cosines: Tensor, ids: Tensor, elected: NDArray[np.int64]) -> Tensor:
    columns = torch.searchsorted(ids, torch.from_numpy(elected).to(ids))
    return cosines.scatter(1, columns[:, None], torch.inf)


def vote(segments: Sequence[Segment], best: LabelMap) -> NDArray[np.int64]:
    """The class that most pixels of each segment have, [K]; of equally many, the lower id.

    Args:
        segments: K of them.
        best: each pixel's class, see `PixelClasses`.
    """
    elected = np.zeros(len(segments), np.int64)
    for k, segment in enumerate(segments):
        x, y, w, h = segment.box
        elected[k] = np.bincount(best[y : y + h, x : x + w][segment.mask]).argmax()
    return elected


@torch.no_grad()
def dense_labels(
    features: Tensor,
    classifier: ZeroShotClassifier,
    height: int,
    width: int,
    threshold: float,
    image: NDArray[np.uint8] | None = None,
    steps: int = 0,
) -> PixelClasses:
    """Classify every pixel by itself, without segments: label and confidence as of `render_label_map`.

    The classes' cosines on the feature grid are upsampled bilinearly; of a classifier with a bias, the
    softmax of their scores on `finer_grid`, which is the confidence, too.

    Args:
        features: [h, w, D].
        classifier: the class names.
        height: of the image in pixels.
        width: the same.
        threshold: a cosine; of a classifier with a bias, a share of the softmax.
        image: uint8 RGB [H, W, 3], whose edges the labels follow, or a smaller copy of it.
        steps: of `refined`; 0: none.
    """
    taught = classifier.bias is not None
    scores, ids = _class_scores(finer_grid(features) if taught else features, classifier)
    if taught:
        scores = scores.softmax(-1)
    if image is not None and steps:
        scores = refined(scores, image, steps)
    maps = Upsampled(scores.permute(2, 0, 1), height, width)
    # The classes' maps at full size would take gigabytes for many classes: a band of rows at once.
    band = max(1, _VALUES_AT_ONCE // (len(ids) * width))
    dtype = label_dtype(ignore_index_of(int(ids.max()) + 1))
    labels, levels, winners = [], [], []
    for top in range(0, height, band):
        of_band = maps.band(top, min(top + band, height))
        score, best = of_band.max(0)
        has_class = score > threshold
        confidence = score if taught else (classifier.logit_scale * of_band).softmax(0).amax(0)
        winners.append(ids[best].cpu().numpy().astype(dtype))
        labels.append(np.where(has_class.cpu().numpy(), winners[-1], 0))
        levels.append(levels_of(torch.where(has_class, confidence, 0.0).cpu().numpy()))
    return PixelClasses(np.concatenate(labels), np.concatenate(levels), np.concatenate(winners))


def finer_grid(features: Tensor) -> Tensor:
    """L2-normalised float32 features [2h, 2w, D] between those of a grid [h, w, D].

    Fewer of its cells lie on an edge, where no class is right.
    """
    maps = F.normalize(features.float(), dim=-1).permute(2, 0, 1)[None]
    finer = F.interpolate(maps, scale_factor=2, mode="bilinear")[0].permute(1, 2, 0)
    return F.normalize(finer, dim=-1)


def _class_scores(features: Tensor, classifier: ZeroShotClassifier) -> tuple[Tensor, Tensor]:
    """(scores [..., C] float32, class ids [C] ascending): the best cosine (or logit) of each class."""
    ids, column = (part.to(features.device) for part in classifier.classes)
    embeddings = classifier.embeddings.to(features.device, torch.float32)
    by_name = F.normalize(features.float(), dim=-1) @ embeddings.T
    if classifier.bias is not None:
        by_name = by_name + classifier.bias.to(features.device)
    index = column.expand_as(by_name)
    start = by_name.new_full((*by_name.shape[:-1], len(ids)), -torch.inf)
    return start.scatter_reduce(-1, index, by_name, "amax"), ids


def _inside(segment: Segment, height: int, width: int) -> tuple[int, int, int, int]:
    x, y, w, h = segment.box
    if segment.area < 1 or x < 0 or y < 0 or x + w > width or y + h > height:
        raise ValueError(
            f"a segment of {segment.area} px with box {segment.box} (x, y, w, h) is empty or reaches beyond "
            f"its image of {width}x{height} px"
        )
    return segment.box


@lru_cache(maxsize=64)
def _upsampling(size: int, grid: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Bilinear interpolation of one axis from `grid` to `size` samples as a matrix [size, grid]."""
    # Float64, because the interpolation computes its coordinates in the precision of its input.
    identity = torch.eye(grid, dtype=torch.float64)[None]
    matrix = F.interpolate(identity, size, mode="linear", align_corners=False)[0].T
    return matrix.to(device, dtype).contiguous()

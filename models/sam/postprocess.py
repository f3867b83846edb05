"""Filters on measured masks: window edges, non-maximum suppression, duplicates, small regions.

The filters of segment_anything 1.0 (Apache-2.0; `automatic_mask_generator.py`), computed on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segray.models.masks import BoolMask, Segment, full_mask, segment_from_mask
from segray.models.sam.geometry import Size, Window

EDGE_PIXELS = 20
_EIGHT_CONNECTED = np.ones((3, 3), bool)


@dataclass(frozen=True)
class Thresholds:
    """The thresholds of `SamAutomaticMaskGenerator`; `cut` is the model's `mask_threshold`."""

    cut: float
    stability_offset: float
    stability: float
    box_nms: float
    predicted_iou: float = 0.0


@dataclass(frozen=True)
class Candidates:
    """K masks of one window, not yet upsampled.

    Attributes:
        logits: float [K, h, w] at low resolution.
        iou: float32 [K], the predicted IoU.
        points: float64 [K, 2], the prompt (x, y) in pixels of the window.
    """

    logits: Tensor
    iou: Tensor
    points: Tensor


def concatenate(parts: Sequence[Candidates]) -> Candidates:
    """The candidates of all parts, in order."""
    fields = ("logits", "iou", "points")
    return Candidates(*(torch.cat([getattr(part, field) for part in parts]) for field in fields))


def at_inner_edges(boxes: Tensor, window: Window, size: Size) -> Tensor:
    """Which boxes end within 20 pixels of a window side that is not an image side: truncated objects.

    Args:
        boxes: int64 [K, 4], inclusive (x0, y0, x1, y1) in the window.
        window: (x0, y0, x1, y1) in the image.
        size: (height, width) of the image.
    """
    in_image = boxes + torch.tensor(window[:2] * 2)
    at_window = (in_image - torch.tensor(window)).abs() <= EDGE_PIXELS
    at_image = (in_image - torch.tensor((0, 0, size[1], size[0]))).abs() <= EDGE_PIXELS
    return (at_window & ~at_image).any(1)


def suppress(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Indices of the boxes that greedy non-maximum suppression keeps, best score first."""
    from torchvision.ops.boxes import batched_nms  # over a second, and unused on a CPU without crops

    # The batched form, as upstream uses: it breaks ties differently from torchvision's plain form.
    return batched_nms(boxes.float(), scores, torch.zeros(len(boxes), device=boxes.device), threshold)


def merge_windows(segments: Sequence[Segment], threshold: float) -> list[Segment]:
    """Suppress duplicates between windows; the segment from the smaller window is kept."""
    sizes = torch.tensor([s.crop_box[2] * s.crop_box[3] for s in segments], dtype=torch.int64)
    return [segments[k] for k in suppress(_inclusive(segments), 1 / sizes, threshold).tolist()]


def remove_small_regions(
    segments: Sequence[Segment], height: int, width: int, min_area: int, threshold: float
) -> list[Segment]:
    """Fill holes and drop islands of fewer than `min_area` pixels, then suppress new duplicates.

    Regions are 8-connected. Unchanged segments take precedence over changed ones.
    """
    cleaned, scores = [], []
    for segment in segments:
        mask, changed = clean(full_mask(segment, height, width), min_area)
        cropped = segment_from_mask(mask) if changed else segment
        cleaned.append(replace(segment, box=cropped.box, mask=cropped.mask, area=cropped.area))
        scores.append(float(not changed))
    return [cleaned[k] for k in suppress(_inclusive(cleaned), torch.tensor(scores), threshold).tolist()]


def clean(mask: BoolMask, min_area: int) -> tuple[BoolMask, bool]:
    """Remove holes, then islands, of fewer than `min_area` pixels from a bool [H, W] mask.

    If every island is too small, the largest one is kept.

    Returns:
        The mask, and whether it changed.
    """
    holes, sizes = _regions(~mask)
    small = np.flatnonzero(sizes < min_area)
    filled = mask | np.isin(holes, small + 1) if small.size else mask
    islands, sizes = _regions(filled)
    large = np.flatnonzero(sizes >= min_area)
    if large.size == sizes.size:
        return filled, bool(small.size)
    labels = large + 1 if large.size else [_first_largest(islands, sizes)]
    return np.isin(islands, labels), True


def _regions(mask: BoolMask) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    from scipy import ndimage

    labels, n = ndimage.label(mask, _EIGHT_CONNECTED)
    return labels, np.bincount(labels.ravel(), minlength=n + 1)[1:]


def _first_largest(labels: NDArray[np.int32], sizes: NDArray[np.int64]) -> int:
    """Label of the largest region; ties go to the one that OpenCV's scan of 2 x 2 blocks meets first."""
    largest = np.flatnonzero(sizes == sizes.max()) + 1
    blocks = [np.stack(np.nonzero(labels == label), 1) // 2 for label in largest]
    return int(min(zip((min(map(tuple, b.tolist())) for b in blocks), largest.tolist(), strict=True))[1])


def _inclusive(segments: Sequence[Segment]) -> Tensor:
    corners = [(x, y, x + w - 1, y + h - 1) for x, y, w, h in (s.box for s in segments)]
    return torch.tensor(corners, dtype=torch.int64).reshape(-1, 4)

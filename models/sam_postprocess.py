"""From SAM's low-resolution logits to segments: quality filters, boxes, suppression, small regions.

Same decisions in the same order as segment_anything 1.0 (Apache-2.0; `automatic_mask_generator.py`), with
two differences in cost: the predicted IoU filters before anything is upsampled, and full-size logits live
for a few masks at a time; a mask that survives is upsampled once more and kept as the crop of its box.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torchvision.ops.boxes import batched_nms

from models.masks import BoolMask, Segment, full_mask, segment_from_mask
from models.sam_stages import Frame, Window, upsample

EDGE_PIXELS = 20
# Full-size logits alive at a time: on a CPU what its cache holds (measured), else what keeps memory bounded.
_VALUES_ON_CPU, _VALUES_ELSEWHERE = 1 << 19, 1 << 25
_EIGHT_CONNECTED = np.ones((3, 3), bool)


@dataclass(frozen=True)
class Candidates:
    """K masks of one window that are not yet upsampled.

    Attributes:
        logits: float [K, h, w] at low resolution.
        iou: float32 [K], predicted.
        points: float64 [K, 2], (x, y) prompt in pixels of the window.
        stability: float32 [K], zero until measured.
        boxes: int64 [K, 4], inclusive (x0, y0, x1, y1) in the window, zero until measured.
    """

    logits: Tensor
    iou: Tensor
    points: Tensor
    stability: Tensor
    boxes: Tensor

    def select(self, index: Tensor) -> Candidates:
        """Those of a bool or integer index, in its order."""
        fields = (self.logits, self.iou, self.points, self.stability, self.boxes)
        return Candidates(*(field[index] for field in fields))


def concatenate(parts: Sequence[Candidates]) -> Candidates:
    """The candidates of all parts, in order."""
    fields = ("logits", "iou", "points", "stability", "boxes")
    return Candidates(*(torch.cat([getattr(part, field) for part in parts]) for field in fields))


def candidates(logits: Tensor, iou: Tensor, points: Tensor) -> Candidates:
    """Masks not yet measured: logits [K, h, w], predicted IoU [K], prompts float64 [K, 2]."""
    boxes = torch.zeros(len(iou), 4, dtype=torch.int64, device=iou.device)
    return Candidates(logits, iou, points, torch.zeros_like(iou), boxes)


def stable(c: Candidates, f: Frame, cut: float, offset: float, threshold: float) -> Candidates:
    """The candidates with pixels and a stability score of at least the threshold, measured at full size.

    The stability score is the number of pixels with a logit above cut + offset over those above cut - offset.
    """
    stability, boxes = torch.empty_like(c.stability), torch.empty_like(c.boxes)
    for part in _parts(c, f):
        full = upsample(c.logits[part], f)
        stability[part] = _count(full > cut + offset) / _count(full > cut - offset)
        boxes[part] = _boxes(full, cut)
    keep = boxes[:, 2] >= 0
    if threshold > 0:
        keep &= stability >= threshold
    return replace(c, stability=stability, boxes=boxes).select(keep)


def away_from_inner_edges(c: Candidates, window: Window, height: int, width: int) -> Candidates:
    """Drop boxes within 20 pixels of a side of the window that is not a side of the picture: cut objects."""
    corner = torch.tensor(window[:2] * 2, device=c.boxes.device)
    boxes = c.boxes + corner
    at_window = (boxes - torch.tensor(window, device=boxes.device)).abs() <= EDGE_PIXELS
    at_picture = (boxes - torch.tensor((0, 0, width, height), device=boxes.device)).abs() <= EDGE_PIXELS
    return c.select(~(at_window & ~at_picture).any(1))


def suppress(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Indices of the boxes that greedy non-maximum suppression keeps, best score first."""
    # torchvision's batched form, as upstream: it breaks ties differently from its plain form.
    return batched_nms(boxes.float(), scores, torch.zeros(len(boxes), device=boxes.device), threshold)


def cut_out(c: Candidates, f: Frame, window: Window, cut: float) -> Iterator[Segment]:
    """Segments of the whole picture from measured candidates of a window."""
    crop_box = (window[0], window[1], window[2] - window[0], window[3] - window[1])
    boxes, points = c.boxes.tolist(), c.points.tolist()
    iou, stability = c.iou.tolist(), c.stability.tolist()
    for part in _parts(c, f):
        masks = upsample(c.logits[part], f) > cut
        for k, full in enumerate(masks, part.start):
            x0, y0, x1, y1 = boxes[k]
            mask = full[y0 : y1 + 1, x0 : x1 + 1].cpu().numpy().copy()
            box = (x0 + window[0], y0 + window[1], x1 - x0 + 1, y1 - y0 + 1)
            point = (points[k][0] + window[0], points[k][1] + window[1])
            yield Segment(box, mask, int(mask.sum()), iou[k], stability[k], point, crop_box)


def merge_windows(segments: Sequence[Segment], threshold: float) -> list[Segment]:
    """Suppress duplicates between windows; those of the smaller window stay."""
    sizes = torch.tensor([s.crop_box[2] * s.crop_box[3] for s in segments], dtype=torch.int64)
    return [segments[k] for k in suppress(_inclusive(segments), 1 / sizes, threshold).tolist()]


def remove_small_regions(
    segments: Sequence[Segment], height: int, width: int, min_area: int, threshold: float
) -> list[Segment]:
    """Fill holes and drop islands of fewer than `min_area` pixels, then suppress what became a duplicate.

    Regions are 8-connected. Segments that needed no change win over those that did.
    """
    cleaned, scores = [], []
    for segment in segments:
        mask, changed = clean(full_mask(segment, height, width), min_area)
        cropped = segment_from_mask(mask) if changed else segment
        cleaned.append(replace(segment, box=cropped.box, mask=cropped.mask, area=cropped.area))
        scores.append(float(not changed))
    return [cleaned[k] for k in suppress(_inclusive(cleaned), torch.tensor(scores), threshold).tolist()]


def clean(mask: BoolMask, min_area: int) -> tuple[BoolMask, bool]:
    """A bool [H, W] mask without holes and then islands below `min_area` pixels; and whether it changed.

    Where every island is too small the largest one stays.
    """
    holes, sizes = _regions(~mask)
    small = np.flatnonzero(sizes < min_area)
    filled = mask | np.isin(holes, small + 1) if small.size else mask
    islands, sizes = _regions(filled)
    large = np.flatnonzero(sizes >= min_area)
    if large.size == sizes.size:
        return filled, bool(small.size)
    kept = large + 1 if large.size else [_first_largest(islands, sizes)]
    return np.isin(islands, kept), True


def _regions(mask: BoolMask) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    labels, n = ndimage.label(mask, _EIGHT_CONNECTED)
    return labels, np.bincount(labels.ravel(), minlength=n + 1)[1:]


def _first_largest(labels: NDArray[np.int32], sizes: NDArray[np.int64]) -> int:
    """The label of the largest region; of equals the one that OpenCV, scanning 2 x 2 blocks, meets first."""
    largest = np.flatnonzero(sizes == sizes.max()) + 1
    blocks = [np.stack(np.nonzero(labels == label), 1) // 2 for label in largest]
    return int(min(zip((min(map(tuple, b.tolist())) for b in blocks), largest.tolist(), strict=True))[1])


def _parts(c: Candidates, f: Frame) -> Iterator[slice]:
    """Slices of the candidates, each small enough to upsample to the model's and to the picture's size."""
    values = _VALUES_ON_CPU if c.logits.device.type == "cpu" else _VALUES_ELSEWHERE
    step = max(1, values // max(f.height * f.width, f.side * f.side))
    return (slice(start, start + step) for start in range(0, len(c.iou), step))


def _count(masks: Tensor) -> Tensor:
    return masks.sum((-2, -1), dtype=torch.int32)


def _boxes(logits: Tensor, cut: float) -> Tensor:
    """Inclusive (x0, y0, x1, y1) int64 [K, 4] of logits [K, H, W] above `cut`; all -1 for none."""
    ends = []
    # The maximum of floats is several times faster than `any` of booleans.
    for filled in (logits.amax(1) > cut, logits.amax(2) > cut):
        flags = filled.to(torch.uint8)
        ends.append((flags.argmax(1), flags.shape[1] - 1 - flags.flip(1).argmax(1)))
    (x0, x1), (y0, y1) = ends
    return torch.where(filled.any(1)[:, None], torch.stack([x0, y0, x1, y1], 1), -1)


def _inclusive(segments: Sequence[Segment]) -> Tensor:
    corners = [(x, y, x + w - 1, y + h - 1) for x, y, w, h in (s.box for s in segments)]
    return torch.tensor(corners, dtype=torch.int64).reshape(-1, 4)

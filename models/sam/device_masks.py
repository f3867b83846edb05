"""From prompts to segments on a GPU, which is at work on the next picture while this one is decided.

Every mask of every prompt is decoded and measured (`models.sam.statistics`), whatever it is worth; one small
table comes back for a picture. The decisions of segment_anything 1.0 (Apache-2.0;
`automatic_mask_generator.py`) are taken from it on the CPU, and only the masks that are left are upsampled,
cut out and copied, a bit a pixel. In order of time, for pictures 1, 2, 3, ...:

    decode 1, decode 2, decide 1, decode 3, decide 2, segments of 1, decode 4, ...

where the device has always something queued when the host waits. Low-resolution logits stay in float32 until
their picture is decided: rounded ones would move the rim of a mask, and decoding a survivor again among other
prompts could round differently from what was measured. `_LOGITS_AT_ONCE` bounds them; a larger grid of
prompts is measured in portions, of which the masks that pass stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from segray.models.masks import Segment, segment_from_mask
from segray.models.sam.decoder import MaskDecoder, confident
from segray.models.sam.geometry import Frame, Points, Size, Window, rows_needed, upsample
from segray.models.sam.postprocess import Thresholds, at_inner_edges, suppress
from segray.models.sam.statistics import measure
from segray.models.sam.transformer import ImageTokens
from segray.models.transfer import DeviceToHostCopy, prefetch, to_device

_LOGITS_AT_ONCE = 1 << 28
_PIXELS_AT_ONCE = 1 << 25

AllMasks = Callable[[ImageTokens, Tensor, int], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class View:
    """One window of a picture, encoded.

    Attributes:
        embedding: float32 [C, h, w].
        frame: of the window.
        window: (x0, y0, x1, y1) in the picture.
        size: (height, width) of the picture.
        points: [n, 2], prompts as (x, y) in pixels of the window.
    """

    embedding: Tensor
    frame: Frame
    window: Window
    size: Size
    points: Points


@dataclass(frozen=True)
class Measured:
    """A portion of a view's prompts, three masks each: M = 3 n.

    Attributes:
        view: whose they are.
        points: [n, 2] of its points.
        logits: float32 [M, h, w] on the device.
        table: int32 [M, 7], the statistics of `measure`, then the bits of the predicted IoU.
        last: no portion of the view comes after this one.
    """

    view: View
    points: Points
    logits: Tensor
    table: DeviceToHostCopy
    last: bool


@dataclass(frozen=True)
class KeptMasks:
    """K masks that are good enough: logits [K, h, w] on the device, the rest as in `Segment`, on the CPU.

    Attributes:
        boxes: int64 [K, 4], inclusive (x0, y0, x1, y1) in the window.
    """

    logits: Tensor
    boxes: Tensor
    iou: Tensor
    stability: Tensor
    points: Tensor

    def best(self, threshold: float) -> KeptMasks:
        """Those that non-maximum suppression keeps, best first."""
        index = suppress(self.boxes, self.iou, threshold)
        logits = self.logits.index_select(0, to_device(index, self.logits.device))
        return KeptMasks(
            logits, self.boxes[index], self.iou[index], self.stability[index], self.points[index]
        )


class DeviceMasks:
    """The stable and unique masks of windows, one window after the other.

    Args:
        decoder: of the model.
        limits: what a mask must keep to.
        prompts: that the decoder takes at a time; the last ones of a grid are filled up to as many.
        all_masks: `decoder.all_masks`, or the same compiled.
        all_rows: decode the rows of tokens below a picture too, so that no shape depends on the picture.
    """

    def __init__(
        self,
        decoder: MaskDecoder,
        limits: Thresholds,
        prompts: int,
        all_masks: AllMasks | None = None,
        all_rows: bool = False,
    ) -> None:
        self._decoder, self._limits, self._prompts = decoder, limits, prompts
        self._all_masks, self._all_rows = all_masks or decoder.all_masks, all_rows

    def segments(self, views: Iterable[View]) -> Iterator[list[Segment]]:
        """Those of each view, best first."""
        portions = (portion for view in views for portion in self.measured(view))
        return (cut.segments() for cut in prefetch(self._cuts(prefetch(portions))))

    def measured(self, view: View) -> Iterator[Measured]:
        """The view's masks in portions; only queues work on the device."""
        picture = self._decoder.picture(view.embedding)
        rows, columns = self._decoder.grid
        rows = rows if self._all_rows else rows_needed(view.frame, rows)
        step = max(1, _LOGITS_AT_ONCE // (48 * rows * columns * self._prompts)) * self._prompts
        for start in range(0, len(view.points), step):
            points = view.points[start : start + step]
            yield self._measured(picture, view, points, rows, start + step >= len(view.points))

    def _measured(self, picture: ImageTokens, view: View, points: Points, rows: int, last: bool) -> Measured:
        f, limits, count = view.frame, self._limits, len(points)
        filled = np.pad(points, ((0, -count % self._prompts), (0, 0)), "edge")
        scale = np.array([[f.input_width / f.width, f.input_height / f.height]])
        prompts = self._decoder.prompts(to_device(torch.from_numpy(filled * scale), view.embedding.device))
        samples, columns = (4 * n for n in self._decoder.grid)
        logits = view.embedding.new_empty(3 * len(prompts), 4 * rows, columns)
        tables = []
        parts = zip(logits.split(3 * self._prompts), prompts.split(self._prompts), strict=True)
        for part, chunk in parts:
            masks, iou = self._all_masks(picture, chunk, rows)
            whole = len(logits) == len(part) and masks.is_contiguous()
            logits, part = (masks.flatten(0, 1),) * 2 if whole else (logits, part.copy_(masks.flatten(0, 1)))
            scores = iou.flatten()
            keep = confident(scores, limits.predicted_iou)
            found = measure(part, keep, f, samples, limits.cut, limits.stability_offset)
            tables.append(torch.cat([found, scores.view(torch.int32)[:, None]], 1))
        return Measured(
            view, points, logits[: 3 * count], DeviceToHostCopy(torch.cat(tables)[: 3 * count]), last
        )

    def _cuts(self, portions: Iterable[Measured]) -> Iterator[MaskCrops]:
        """What is left of each view, being cut out."""
        parts = []
        for portion in portions:
            parts.append(passing(portion, self._limits))
            if portion.last:
                kept = _concatenated(parts).best(self._limits.box_nms)
                yield MaskCrops(kept, portion.view, 4 * self._decoder.grid[0], self._limits.cut)
                parts = []


def passing(portion: Measured, limits: Thresholds) -> KeptMasks:
    """The masks that are confident, stable, not empty and not cut off; waits for their statistics."""
    table, view = portion.table.wait(), portion.view
    stability, boxes = table[:, 0] / table[:, 1], table[:, 2:6].long()
    keep = (boxes[:, 2] >= 0) & ~at_inner_edges(boxes, view.window, view.size)
    if limits.stability > 0:
        keep &= stability >= limits.stability
    index = keep.nonzero()[:, 0]
    logits = portion.logits.index_select(0, to_device(index, portion.logits.device))
    iou = table[:, 6].contiguous().view(torch.float32)
    points = torch.from_numpy(portion.points)[index // 3]
    return KeptMasks(logits, boxes[index], iou[index], stability[index], points)


class MaskCrops:
    """The masks of a view at full size, cut out, a bit a pixel, on their way to the CPU.

    The predicted box is grown by a pixel: its sums were taken in another order than those of the pixels
    here, so that one at the rim may differ.

    Args:
        kept: what is left of the view's masks.
        view: whose they are.
        samples: rows of logits over the model's square input.
        cut: of a mask.
    """

    def __init__(self, kept: KeptMasks, view: View, samples: int, cut: float) -> None:
        f = view.frame
        low = (kept.boxes[:, :2] - 1).clamp(min=0)
        high = torch.minimum(kept.boxes[:, 2:] + 2, torch.tensor([f.width, f.height]))
        self._kept, self._view, self._spans = kept, view, torch.cat([low, high], 1).tolist()
        step = max(1, _PIXELS_AT_ONCE // max(f.height * f.width, f.side**2))
        bits = [torch.zeros(0, dtype=torch.bool, device=kept.logits.device)]
        for start in range(0, len(self._spans), step):
            logits = F.pad(kept.logits[start : start + step], (0, 0, 0, samples - kept.logits.shape[1]))
            spans = self._spans[start : start + step]
            masks = zip(upsample(logits, f) > cut, spans, strict=True)
            bits += [mask[y0:y1, x0:x1].flatten() for mask, (x0, y0, x1, y1) in masks]
        self._bits = DeviceToHostCopy(_packed(torch.cat(bits)))

    def segments(self) -> list[Segment]:
        """In the picture, once they are here."""
        areas = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in self._spans]
        pixels = np.unpackbits(self._bits.wait().numpy(), count=sum(areas)).astype(bool)
        masks = np.split(pixels, np.cumsum(areas)[:-1]) if areas else []
        return [self._segment(k, mask) for k, mask in enumerate(masks) if mask.any()]

    def _segment(self, k: int, pixels: NDArray[np.bool_]) -> Segment:
        (left, top, right, bottom), kept = self._spans[k], self._kept
        x, y, x1, y1 = self._view.window
        mask = pixels.reshape(bottom - top, right - left)
        found = segment_from_mask(mask, float(kept.iou[k]), float(kept.stability[k]))
        box = (found.box[0] + left + x, found.box[1] + top + y, *found.box[2:])
        px, py = kept.points[k].tolist()
        return replace(found, box=box, point=(px + x, py + y), crop_box=(x, y, x1 - x, y1 - y))


def _concatenated(parts: list[KeptMasks]) -> KeptMasks:
    if len(parts) == 1:
        return parts[0]
    names = ("logits", "boxes", "iou", "stability", "points")
    return KeptMasks(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


def _packed(bits: Tensor) -> Tensor:
    """Bool [n] as uint8 [n / 8, rounded up], as `numpy.packbits`."""
    octets = F.pad(bits.to(torch.uint8), (0, -len(bits) % 8)).view(-1, 8)
    places = torch.arange(7, -1, -1, dtype=torch.uint8, device=bits.device)
    return (octets << places).sum(1, dtype=torch.uint8)

"""Turn prompts into segments on a GPU that already works on the next image while the CPU filters this one.

Every mask of every prompt is decoded and measured (`models.sam.statistics`); one small table per image is
copied back. The filters of segment_anything 1.0 (Apache-2.0; `automatic_mask_generator.py`) run on that table
on the CPU. Only the masks that pass are upsampled, cropped and copied, one bit per pixel. In order of time,
for images 1, 2, 3, ...:

    decode 1, decode 2, filter 1, decode 3, filter 2, segments of 1, decode 4, ...

so that the device always has work queued when the host waits. Low-resolution logits stay in float32 until
their image is filtered: rounded logits would move the border of a mask, and decoding a kept mask again among
other prompts could round differently from what was measured. `_LOGITS_AT_ONCE` bounds their number; a larger
grid of prompts is measured in chunks, of which only the masks that pass are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from segray.models.masks import Segment, segment_from_mask
from segray.models.sam.decoder import confident
from segray.models.sam.geometry import Frame, Points, Size, Window, rows_needed, upsample
from segray.models.sam.postprocess import Thresholds, at_inner_edges, suppress
from segray.models.sam.statistics import measure
from segray.models.transfer import DeviceToHostCopy, prefetch, to_device

_LOGITS_AT_ONCE = 1 << 28
_PIXELS_AT_ONCE = 1 << 25

AllMasks = Callable[[Any, Tensor, int], tuple[Tensor, Tensor]]


class Decoder(Protocol):
    """What decodes prompts: `MaskDecoder`, or the kernels of `segray.models.sam.fused`."""

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens over the model's input."""
        ...

    def image_tokens(self, embedding: Tensor) -> Any:
        """What the prompts of an image share, from its float32 embedding [C, h, w]."""
        ...

    def prompts(self, points: Tensor) -> Tensor:
        """Tokens [B, T, C] of points [B, 2]."""
        ...

    def all_masks(self, image: Any, prompts: Tensor, rows: int) -> tuple[Tensor, Tensor]:
        """Logits [B, 3, 4 rows, 4w], defined for prompts with a confident mask, and predicted IoU [B, 3]."""
        ...


@dataclass(frozen=True)
class View:
    """One encoded window of an image.

    Attributes:
        embedding: float32 [C, h, w].
        frame: frame of the window.
        window: (x0, y0, x1, y1) in the image.
        size: (height, width) of the image.
        points: [n, 2], prompts as (x, y) in pixels of the window.
    """

    embedding: Tensor
    frame: Frame
    window: Window
    size: Size
    points: Points


@dataclass(frozen=True)
class Measured:
    """A measured chunk of a view's prompts, three masks per prompt: M = 3 n.

    Attributes:
        view: the view.
        points: [n, 2], some of the view's points.
        logits: float32 [M, h, w] on the device.
        table: int32 [M, 7], the statistics of `measure`, then the bits of the float32 predicted IoU.
        last: whether this is the last chunk of the view.
    """

    view: View
    points: Points
    logits: Tensor
    table: DeviceToHostCopy
    last: bool


@dataclass(frozen=True)
class KeptMasks:
    """K masks that pass the filters: logits [K, h, w] on the device, the rest as in `Segment`, on the CPU.

    Attributes:
        boxes: int64 [K, 4], inclusive (x0, y0, x1, y1) in the window.
    """

    logits: Tensor
    boxes: Tensor
    iou: Tensor
    stability: Tensor
    points: Tensor

    def best(self, threshold: float) -> KeptMasks:
        """The masks that non-maximum suppression keeps, best first."""
        index = suppress(self.boxes, self.iou, threshold)
        logits = self.logits.index_select(0, to_device(index, self.logits.device))
        return KeptMasks(
            logits, self.boxes[index], self.iou[index], self.stability[index], self.points[index]
        )


class DeviceMasks:
    """Finds the stable and unique masks of windows, one window after the other.

    Args:
        decoder: the model's decoder.
        limits: thresholds that a mask must pass.
        prompts: number of prompts that the decoder takes at a time; the last batch of a grid is padded.
        all_masks: `decoder.all_masks`, or its compiled form.
        all_rows: also decode the rows of tokens below an image, so that no shape depends on the image.
    """

    def __init__(
        self,
        decoder: Decoder,
        limits: Thresholds,
        prompts: int,
        all_masks: AllMasks | None = None,
        all_rows: bool = False,
    ) -> None:
        self._decoder, self._limits, self._prompts = decoder, limits, prompts
        self._all_masks, self._all_rows = all_masks or decoder.all_masks, all_rows

    def segments(self, views: Iterable[View]) -> Iterator[list[Segment]]:
        """The segments of each view, best first."""
        chunks = (chunk for view in views for chunk in self.measured(view))
        return (crops.segments() for crops in prefetch(self._crops(prefetch(chunks))))

    def measured(self, view: View) -> Iterator[Measured]:
        """The view's masks in chunks; only queues work on the device."""
        image = self._decoder.image_tokens(view.embedding)
        rows, columns = self._decoder.grid
        rows = rows if self._all_rows else rows_needed(view.frame, rows)
        step = max(1, _LOGITS_AT_ONCE // (48 * rows * columns * self._prompts)) * self._prompts
        for start in range(0, len(view.points), step):
            points = view.points[start : start + step]
            yield self._measured(image, view, points, rows, start + step >= len(view.points))

    def _measured(self, image: Any, view: View, points: Points, rows: int, last: bool) -> Measured:
        f, limits, count = view.frame, self._limits, len(points)
        padded = np.pad(points, ((0, -count % self._prompts), (0, 0)), "edge")
        scale = np.array([[f.input_width / f.width, f.input_height / f.height]])
        prompts = self._decoder.prompts(to_device(torch.from_numpy(padded * scale), view.embedding.device))
        samples = 4 * self._decoder.grid[0]
        logits, tables = [], []
        for batch in prompts.split(self._prompts):
            masks, iou = self._all_masks(image, batch, rows)
            logits.append(masks.flatten(0, 1).contiguous())
            scores = iou.flatten()
            keep = confident(scores, limits.predicted_iou)
            statistics = measure(logits[-1], keep, f, samples, limits.cut, limits.stability_offset)
            tables.append(torch.cat([statistics, scores.view(torch.int32)[:, None]], 1))
        every = logits[0] if len(logits) == 1 else torch.cat(logits)
        return Measured(
            view, points, every[: 3 * count], DeviceToHostCopy(torch.cat(tables)[: 3 * count]), last
        )

    def _crops(self, chunks: Iterable[Measured]) -> Iterator[MaskCrops]:
        """The kept masks of each view; their crops are queued on the device."""
        parts = []
        for chunk in chunks:
            parts.append(filter_masks(chunk, self._limits))
            if chunk.last:
                masks = _concatenated(parts).best(self._limits.box_nms)
                yield MaskCrops(masks, chunk.view, 4 * self._decoder.grid[0], self._limits.cut)
                parts = []


def filter_masks(chunk: Measured, limits: Thresholds) -> KeptMasks:
    """The confident, stable, non-empty and non-truncated masks; waits for their statistics."""
    table, view = chunk.table.wait(), chunk.view
    stability, boxes = table[:, 0] / table[:, 1], table[:, 2:6].long()
    keep = (boxes[:, 2] >= 0) & ~at_inner_edges(boxes, view.window, view.size)
    if limits.stability > 0:
        keep &= stability >= limits.stability
    index = keep.nonzero()[:, 0]
    logits = chunk.logits.index_select(0, to_device(index, chunk.logits.device))
    iou = table[:, 6].contiguous().view(torch.float32)
    points = torch.from_numpy(chunk.points)[index // 3]
    return KeptMasks(logits, boxes[index], iou[index], stability[index], points)


class MaskCrops:
    """Crops of a view's masks at full size, one bit per pixel, being copied to the CPU.

    The measured box is extended by one pixel on each side: its sums were taken in another order than the
    pixels here, so a pixel on the border may differ.

    Args:
        masks: the view's masks that passed all filters.
        view: the view.
        samples: rows of logits over the model's square input.
        cut: threshold of a mask.
    """

    def __init__(self, masks: KeptMasks, view: View, samples: int, cut: float) -> None:
        f = view.frame
        low = (masks.boxes[:, :2] - 1).clamp(min=0)
        high = torch.minimum(masks.boxes[:, 2:] + 2, torch.tensor([f.width, f.height]))
        self._masks, self._view, self._spans = masks, view, torch.cat([low, high], 1).tolist()
        step = max(1, _PIXELS_AT_ONCE // max(f.height * f.width, f.side**2))
        bits = [torch.zeros(0, dtype=torch.bool, device=masks.logits.device)]
        for start in range(0, len(self._spans), step):
            logits = F.pad(masks.logits[start : start + step], (0, 0, 0, samples - masks.logits.shape[1]))
            spans = self._spans[start : start + step]
            full = zip(upsample(logits, f) > cut, spans, strict=True)
            bits += [mask[y0:y1, x0:x1].flatten() for mask, (x0, y0, x1, y1) in full]
        self._bits = DeviceToHostCopy(_packed(torch.cat(bits)))

    def segments(self) -> list[Segment]:
        """The segments in image coordinates; waits for the copy."""
        areas = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in self._spans]
        pixels = np.unpackbits(self._bits.wait().numpy(), count=sum(areas)).astype(bool)
        masks = np.split(pixels, np.cumsum(areas)[:-1]) if areas else []
        return [self._segment(k, mask) for k, mask in enumerate(masks) if mask.any()]

    def _segment(self, k: int, pixels: NDArray[np.bool_]) -> Segment:
        (left, top, right, bottom), masks = self._spans[k], self._masks
        x, y, x1, y1 = self._view.window
        mask = pixels.reshape(bottom - top, right - left)
        segment = segment_from_mask(mask, float(masks.iou[k]), float(masks.stability[k]))
        box = (segment.box[0] + left + x, segment.box[1] + top + y, *segment.box[2:])
        px, py = masks.points[k].tolist()
        return replace(segment, box=box, point=(px + x, py + y), crop_box=(x, y, x1 - x, y1 - y))


def _concatenated(parts: list[KeptMasks]) -> KeptMasks:
    if len(parts) == 1:
        return parts[0]
    names = ("logits", "boxes", "iou", "stability", "points")
    return KeptMasks(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


def _packed(bits: Tensor) -> Tensor:
    """Pack bool [n] into uint8 [n / 8, rounded up], as `numpy.packbits` does."""
    octets = F.pad(bits.to(torch.uint8), (0, -len(bits) % 8)).view(-1, 8)
    places = torch.arange(7, -1, -1, dtype=torch.uint8, device=bits.device)
    return (octets << places).sum(1, dtype=torch.uint8)

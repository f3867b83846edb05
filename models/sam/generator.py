"""SAM "segment everything" for batches of images.

`MaskGenerator` returns the masks of segment_anything's `SamAutomaticMaskGenerator` (1.0), in its order, as
cropped `Segment`s. Kirillov et al., Segment Anything, ICCV 2023. SAM 2's `SAM2AutomaticMaskGenerator` has the
same grid and filters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from segment_anything.modeling import Sam
from torch import Tensor

from segray.models.masks import Segment
from segray.models.precision import DTYPES, Precision
from segray.models.sam.cpu_masks import segments_on_cpu
from segray.models.sam.decoder import DecoderImage
from segray.models.sam.device_masks import AllMasks, DeviceMasks, View
from segray.models.sam.geometry import (
    Frame,
    Points,
    Rgb,
    Size,
    Window,
    point_grid,
    rows_needed,
    windows,
)
from segray.models.sam.postprocess import (
    Candidates,
    Thresholds,
    concatenate,
    merge_windows,
    remove_small_regions,
)
from segray.models.sam.prefetch import embeddings
from segray.models.sam.prompted import PromptedModel, PromptedSam
from segray.models.sam.registry import SAM_MODELS, build_sam

__all__ = ["SAM_MODELS", "MaskGenerator", "build_sam"]

_CACHED_BYTES = 1 << 22
_FEW_PROMPTS, _PROMPTS_ON_A_DEVICE, _IMAGES_ON_A_DEVICE, _RESIZERS = 64, 256, 4, 4

_Job = tuple[int, Window, int]


class MaskGenerator:
    """Segments everything in an image: prompts SAM with a grid of points, keeps the good and unique masks.

    Options and defaults are those of `SamAutomaticMaskGenerator`, except for:

    Args:
        sam: SAM 1, on its device, or another model with its decoder.
        points_per_batch: None: 4 to 32 on a CPU, as many as fit its cache; on a GPU a
            grid, up to 256, or up to the 1,024 that the kernels take.
        precision: of the encoder and of the decoder's large products; anything but fp32 changes the masks.
        compiled: use `torch.compile` on encoder and decoder, once for images of all sizes.
        pipelined: decode and measure all masks of an image before filtering them, with the next image already
            queued. Always so with `compiled` and on a GPU; on a CPU, filtering mask by mask is cheaper.

    Raises:
        ValueError: an option is out of range.
    """

    def __init__(
        self,
        sam: Sam | PromptedModel,
        *,
        points_per_side: int = 32,
        points_per_batch: int | None = None,
        pred_iou_thresh: float = 0.88,
        stability_score_thresh: float = 0.95,
        stability_score_offset: float = 1.0,
        box_nms_thresh: float = 0.7,
        crop_n_layers: int = 0,
        crop_nms_thresh: float = 0.7,
        crop_overlap_ratio: float = 512 / 1500,
        crop_n_points_downscale_factor: int = 1,
        min_mask_region_area: int = 0,
        precision: Precision = "fp32",
        compiled: bool = False,
        pipelined: bool = False,
    ) -> None:
        _at_least("points_per_batch", points_per_batch or 1, 1)
        sides = grid_sides(points_per_side, crop_n_layers, crop_n_points_downscale_factor)
        self.sam = sam
        self._model = model = sam if isinstance(sam, PromptedModel) else PromptedSam(sam)
        # What is compiled is the eager path.
        fused = None if compiled else model.fused(DTYPES[precision], pred_iou_thresh)
        most = fused.prompts if fused else _PROMPTS_ON_A_DEVICE
        self._prompts = points_per_batch or min(most, max(_FEW_PROMPTS, sides[-1] ** 2))
        self._on_cpu = model.device.type == "cpu"
        self._pipelined = pipelined or compiled or not self._on_cpu
        self._compiled = compiled
        self.grids: list[Points] = [point_grid(side) for side in sides]
        self.points_per_batch = points_per_batch
        self.pred_iou_thresh = pred_iou_thresh
        self.stability_score_thresh = stability_score_thresh
        self.stability_score_offset = stability_score_offset
        self.box_nms_thresh = box_nms_thresh
        self.crop_nms_thresh = crop_nms_thresh
        self.crop_overlap_ratio = crop_overlap_ratio
        self.min_mask_region_area = min_mask_region_area
        self._decoder: Any = fused.decoder if fused else model.decoder(DTYPES[precision])
        self._encode, self._all_masks = self._functions(
            fused.encode if fused else model.encoder(DTYPES[precision])
        )

    @torch.inference_mode()
    def generate(self, images: Sequence[Rgb], sizes: Sequence[Size] | None = None) -> list[list[Segment]]:
        """The segments of each uint8 [H, W, 3] RGB image, in upstream's order.

        Masks without any pixel, which upstream returns for a stability threshold of 0, are left out.

        Args:
            images: the images, or reduced copies of them.
            sizes: (height, width) of the original images, to which the segments refer. SAM resizes to
                1,024 px, so larger copies only help its crops. None: the images are the originals.

        Raises:
            ValueError: an image is not uint8 [H, W, 3], or crops are requested of a reduced copy.
        """
        for number, image in enumerate(images):
            _check(image, number)
        whole = [image.shape[:2] for image in images]
        sizes = whole if sizes is None else [tuple(size) for size in sizes]
        if len(self.grids) > 1 and sizes != whole:
            raise ValueError("crops need the original image: crop_n_layers must be 0 for a reduced copy")
        jobs = [
            (number, window, layer)
            for number, size in enumerate(sizes)
            for window, layer in self._windows(size)
        ]
        by_image: list[list[Segment]] = [[] for _ in images]
        views = self._views(images, sizes, jobs)
        segments = (
            self._device_masks().segments(views) if self._pipelined else map(self._segments_on_cpu, views)
        )
        for (number, _, _), window_segments in zip(jobs, segments, strict=True):
            by_image[number] += window_segments
        return [self._merge(merged, *size) for merged, size in zip(by_image, sizes, strict=True)]

    def _windows(self, size: Size) -> list[tuple[Window, int]]:
        height, width = size
        return windows(height, width, len(self.grids) - 1, self.crop_overlap_ratio)

    def _views(self, images: Sequence[Rgb], sizes: Sequence[Size], jobs: Sequence[_Job]) -> Iterator[View]:
        """The images' windows, encoded when they are iterated over."""
        crops = ((images[number][y0:y1, x0:x1], (y1 - y0, x1 - x0)) for number, (x0, y0, x1, y1), _ in jobs)
        # On a CPU a larger batch is not faster, and an image's masks must not depend on its batch.
        batch = 1 if self._on_cpu else _IMAGES_ON_A_DEVICE
        threads = _RESIZERS if self._pipelined else 0
        encoded = embeddings(self._model, crops, self._encode, batch, threads, fill_batch=self._compiled)
        for (number, window, layer), embedding in zip(jobs, encoded, strict=True):
            x0, y0, x1, y1 = window
            f = self._model.frame(y1 - y0, x1 - x0)
            yield View(embedding, f, window, sizes[number], self.grids[layer] * [[f.width, f.height]])

    def _functions(self, encode: Callable[[Tensor], Tensor]) -> tuple[Callable[[Tensor], Tensor], AllMasks]:
        """The encoder and the decoder, compiled if requested."""
        if not self._compiled:
            return encode, self._decoder.all_masks
        # Without CUDA graphs: with so many prompts each operation takes longer than the launch of the next.
        mode = "max-autotune-no-cudagraphs"
        return (
            torch.compile(encode, dynamic=False, mode=mode),
            torch.compile(self._decoder.all_masks, dynamic=False, mode=mode),
        )

    def _limits(self) -> Thresholds:
        return Thresholds(
            self._model.mask_threshold,
            self.stability_score_offset,
            self.stability_score_thresh,
            self.box_nms_thresh,
            self.pred_iou_thresh,
        )

    def _device_masks(self) -> DeviceMasks:
        return DeviceMasks(self._decoder, self._limits(), self._prompts, self._all_masks, self._compiled)

    def _segments_on_cpu(self, view: View) -> list[Segment]:
        """The segments of a window, filtered mask by mask; on a GPU every decision would be a wait."""
        step = self.points_per_batch or max(4, min(32, _CACHED_BYTES // (4 * view.embedding.numel())))
        image = self._decoder.image_tokens(view.embedding)
        parts = [
            self._candidates(image, view.points[start : start + step], view.frame)
            for start in range(0, len(view.points), step)
        ]
        return list(segments_on_cpu(concatenate(parts), view.frame, view.window, view.size, self._limits()))

    def _candidates(self, image: DecoderImage, points: Points, f: Frame) -> Candidates:
        """The confident masks of a chunk of prompts, points in pixels of the window."""
        scale = np.array([[f.input_width / f.width, f.input_height / f.height]])
        rows = rows_needed(f, self._decoder.grid[0])
        logits, iou, prompt = self._decoder(
            image, torch.from_numpy(points * scale), self.pred_iou_thresh, rows
        )
        return Candidates(logits, iou, torch.from_numpy(points)[prompt])

    def _merge(self, segments: list[Segment], height: int, width: int) -> list[Segment]:
        if len(self.grids) > 1:
            segments = merge_windows(segments, self.crop_nms_thresh)
        if self.min_mask_region_area > 0:
            threshold = max(self.box_nms_thresh, self.crop_nms_thresh)
            segments = remove_small_regions(segments, height, width, self.min_mask_region_area, threshold)
        return segments


def grid_sides(points_per_side: int, crop_n_layers: int, crop_n_points_downscale_factor: int) -> list[int]:
    """Points per side of the grids of the whole image and of each layer of crops.

    Raises:
        ValueError: an option is out of range.
    """
    _at_least("points_per_side", points_per_side, 1)
    _at_least("crop_n_layers", crop_n_layers, 0)
    _at_least("crop_n_points_downscale_factor", crop_n_points_downscale_factor, 1)
    sides = [int(points_per_side / crop_n_points_downscale_factor**i) for i in range(crop_n_layers + 1)]
    _at_least("points_per_side / crop_n_points_downscale_factor ** crop_n_layers", sides[-1], 1)
    return sides


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name} is {value}, must be at least {least}")


def _check(image: object, number: int) -> None:
    shape, dtype = getattr(image, "shape", None), getattr(image, "dtype", type(image).__name__)
    if not isinstance(image, np.ndarray) or dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        actual = dtype if shape is None else f"{dtype} {list(shape)}"
        raise ValueError(f"image {number}: expected uint8 [H, W, 3] RGB, got {actual}")
    if not image.size:
        raise ValueError(f"image {number} has no pixels: {list(image.shape)}")

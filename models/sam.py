"""SAM "segment everything": the models by name, and a mask generator for batches of pictures.

`MaskGenerator` returns the masks of segment_anything's `SamAutomaticMaskGenerator` (1.0), in its order, as
cropped `Segment`s. Kirillov et al., Segment Anything, ICCV 2023.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import segment_anything
import torch
from segment_anything.modeling import Sam
from torch import Tensor

from models.builtin.arch import SAM_ARCH, build_picture_book_sam
from models.masks import Segment
from models.sam_decoder import MaskDecoder, PictureTokens
from models.sam_lazy import Thresholds, lazy_segments
from models.sam_postprocess import (
    Candidates,
    away_from_inner_edges,
    candidates,
    concatenate,
    cut_out,
    merge_windows,
    remove_small_regions,
    stable,
    suppress,
)
from models.sam_stages import (
    Frame,
    Points,
    Rgb,
    Size,
    Window,
    encode,
    frame,
    point_grid,
    rows_needed,
    windows,
)
from models.weights import Checkpoint, WeightsError, load_into, read_card, resolve

_CACHED_BYTES = 1 << 22
_OFFICIAL = "https://dl.fbaipublicfiles.com/segment_anything/"


@dataclass(frozen=True)
class SamEntry:
    """A SAM by name: its weights, how to build it empty, and the prompts and thresholds it is used with."""

    url: str
    sha256: str | None
    build: Callable[[Checkpoint], Sam]
    points_per_side: int = 32
    pred_iou_thresh: float = 0.88
    stability_score_thresh: float = 0.95


def _build_picture_book(checkpoint: Checkpoint) -> Sam:
    arch = read_card(checkpoint).get("arch", SAM_ARCH)
    if not isinstance(arch, dict) or {key for key, n in arch.items() if isinstance(n, int)} != set(SAM_ARCH):
        keys = ", ".join(SAM_ARCH)
        raise WeightsError(f"{checkpoint.path}: its metadata 'arch' must have whole numbers for {keys}")
    return build_picture_book_sam(arch)


SAM_MODELS: dict[str, SamEntry] = {
    "vit_b": SamEntry(
        _OFFICIAL + "sam_vit_b_01ec64.pth",
        "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
        lambda _: segment_anything.build_sam_vit_b(),
    ),
    "vit_l": SamEntry(
        _OFFICIAL + "sam_vit_l_0b3195.pth",
        "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
        lambda _: segment_anything.build_sam_vit_l(),
    ),
    "vit_h": SamEntry(
        _OFFICIAL + "sam_vit_h_4b8939.pth",
        "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
        lambda _: segment_anything.build_sam_vit_h(),
    ),
    "picture_book": SamEntry(
        "builtin:picture_book_sam",
        None,
        _build_picture_book,
        points_per_side=16,
        pred_iou_thresh=0.5,
        stability_score_thresh=0.8,
    ),
}


def build_sam(model: str, weights: str | None = None, *, sha256: str | None = None) -> tuple[Sam, Checkpoint]:
    """A SAM in evaluation mode on the CPU, and the checkpoint its weights came from.

    Args:
        model: a key of `SAM_MODELS`.
        weights: anything `models.weights.resolve` takes; None for the model's official (or built-in) file.
        sha256: the expected digest of `weights`; the official file's is known.

    Raises:
        ValueError: unknown model.
        WeightsError: the weights cannot be had, are not what was expected, or do not fit the model.
    """
    if model not in SAM_MODELS:
        raise ValueError(f"unknown SAM model {model!r}; choose one of {', '.join(SAM_MODELS)}")
    entry = SAM_MODELS[model]
    if weights is None:
        weights, sha256 = entry.url, sha256 or entry.sha256
    checkpoint = resolve(weights, sha256=sha256)
    sam = entry.build(checkpoint)
    load_into(sam, checkpoint, model)
    return sam.eval(), checkpoint


class MaskGenerator:
    """Segments everything in a picture: prompts SAM with a grid of points and keeps what is good and unique.

    The options and their defaults are those of `SamAutomaticMaskGenerator`. `points_per_batch=None` takes
    4 to 32 on a CPU, what its cache holds, and 64 elsewhere.

    Raises:
        ValueError: an option out of its range.
    """

    def __init__(
        self,
        sam: Sam,
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
    ) -> None:
        _at_least("points_per_side", points_per_side, 1)
        _at_least("points_per_batch", points_per_batch or 1, 1)
        _at_least("crop_n_layers", crop_n_layers, 0)
        _at_least("crop_n_points_downscale_factor", crop_n_points_downscale_factor, 1)
        sides = [int(points_per_side / crop_n_points_downscale_factor**i) for i in range(crop_n_layers + 1)]
        _at_least("points_per_side / crop_n_points_downscale_factor ** crop_n_layers", sides[-1], 1)
        self.sam = sam
        self._decoder = MaskDecoder(sam)
        self.grids: list[Points] = [point_grid(side) for side in sides]
        self.points_per_batch = points_per_batch
        self.pred_iou_thresh = pred_iou_thresh
        self.stability_score_thresh = stability_score_thresh
        self.stability_score_offset = stability_score_offset
        self.box_nms_thresh = box_nms_thresh
        self.crop_nms_thresh = crop_nms_thresh
        self.crop_overlap_ratio = crop_overlap_ratio
        self.min_mask_region_area = min_mask_region_area

    @torch.inference_mode()
    def generate(self, images: Sequence[Rgb], sizes: Sequence[Size] | None = None) -> list[list[Segment]]:
        """The segments of each uint8 [H, W, 3] RGB picture, in upstream's order.

        Masks without a single pixel, which upstream returns for a stability threshold of 0, are left out.

        Args:
            images: the pictures.
            sizes: (height, width) of the pictures that `images` are small copies of: the segments are theirs.
                SAM looks at 1,024 px, more serves its crops alone. None: the images are the pictures.

        Raises:
            ValueError: a picture is not uint8 [H, W, 3], or crops are wanted of a small copy.
        """
        for number, image in enumerate(images):
            _check(image, number)
        whole = [image.shape[:2] for image in images]
        sizes = whole if sizes is None else [tuple(size) for size in sizes]
        if len(self.grids) > 1 and sizes != whole:
            raise ValueError("crops need the whole picture: crop_n_layers must be 0 for a small copy")
        jobs = [
            (number, window, layer)
            for number, size in enumerate(sizes)
            for window, layer in self._windows(size)
        ]
        found: list[list[Segment]] = [[] for _ in images]
        # On a CPU a larger batch is not faster, and a picture's masks must not depend on its neighbours.
        step = 1 if self._on_cpu else max(1, len(images))
        for start in range(0, len(jobs), step):
            batch = jobs[start : start + step]
            crops = [images[number][y0:y1, x0:x1] for number, (x0, y0, x1, y1), _ in batch]
            shown = [(y1 - y0, x1 - x0) for _, (x0, y0, x1, y1), _ in batch]
            for (number, window, layer), embedding in zip(batch, encode(self.sam, crops, shown), strict=True):
                found[number] += self._segment(embedding, window, layer, sizes[number])
        return [self._merge(segments, *size) for segments, size in zip(found, sizes, strict=True)]

    @property
    def _on_cpu(self) -> bool:
        return bool(self.sam.device.type == "cpu")

    def _prompts_at_a_time(self, embedding: Tensor) -> int:
        """What a CPU's cache holds of the tokens that each prompt carries (measured); 64 elsewhere."""
        return max(4, min(32, _CACHED_BYTES // (4 * embedding.numel()))) if self._on_cpu else 64

    def _windows(self, size: Size) -> list[tuple[Window, int]]:
        height, width = size
        return windows(height, width, len(self.grids) - 1, self.crop_overlap_ratio)

    def _segment(self, embedding: Tensor, window: Window, layer: int, size: Size) -> list[Segment]:
        """The segments of one window of a picture of `size` (height, width)."""
        x0, y0, x1, y1 = window
        f = frame(y1 - y0, x1 - x0, self.sam.image_encoder.img_size)
        points = self.grids[layer] * np.array([[f.width, f.height]])
        step = self.points_per_batch or self._prompts_at_a_time(embedding)
        picture = self._decoder.picture(embedding)
        chunks = (points[start : start + step] for start in range(0, len(points), step))
        cut = self.sam.mask_threshold
        # One mask after the other is for a CPU: each decision would make a GPU wait.
        if self._on_cpu:
            limits = Thresholds(
                cut, self.stability_score_offset, self.stability_score_thresh, self.box_nms_thresh
            )
            found = concatenate([self._candidates(picture, chunk, f) for chunk in chunks])
            return list(lazy_segments(found, f, window, size, limits))
        found = concatenate([self._measured(picture, chunk, f, window, size) for chunk in chunks])
        kept = found.select(suppress(found.boxes, found.iou, self.box_nms_thresh))
        return list(cut_out(kept, f, window, cut))

    def _candidates(self, picture: PictureTokens, points: Points, f: Frame) -> Candidates:
        """The confident masks of a chunk of prompts, points in pixels of the window."""
        scale = np.array([[f.input_width / f.width, f.input_height / f.height]])
        prompts = torch.from_numpy(points * scale).to(picture.tokens.device)
        rows = rows_needed(f, self.sam.prompt_encoder.image_embedding_size[0])
        logits, iou, prompt = self._decoder(picture, prompts, self.pred_iou_thresh, rows)
        return candidates(logits, iou, torch.from_numpy(points).to(prompt.device)[prompt])

    def _measured(
        self, picture: PictureTokens, points: Points, f: Frame, window: Window, size: Size
    ) -> Candidates:
        """The confident and stable masks of a chunk of prompts that do not end at a cut."""
        found = self._candidates(picture, points, f)
        cut, offset = self.sam.mask_threshold, self.stability_score_offset
        found = stable(found, f, cut, offset, self.stability_score_thresh)
        return away_from_inner_edges(found, window, *size)

    def _merge(self, segments: list[Segment], height: int, width: int) -> list[Segment]:
        if len(self.grids) > 1:
            segments = merge_windows(segments, self.crop_nms_thresh)
        if self.min_mask_region_area > 0:
            threshold = max(self.box_nms_thresh, self.crop_nms_thresh)
            segments = remove_small_regions(segments, height, width, self.min_mask_region_area, threshold)
        return segments


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name} is {value}, must be at least {least}")


def _check(image: Any, number: int) -> None:
    shape, dtype = getattr(image, "shape", None), getattr(image, "dtype", type(image).__name__)
    if not isinstance(image, np.ndarray) or dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        found = dtype if shape is None else f"{dtype} {list(shape)}"
        raise ValueError(f"picture {number}: expected uint8 [H, W, 3] RGB, got {found}")
    if not image.size:
        raise ValueError(f"picture {number} has no pixels: {list(image.shape)}")

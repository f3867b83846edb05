"""SAM 1 as a source of masks, with the generator of `models.sam`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from segment_anything.modeling import Sam
from torch import Tensor

from segray.models.annotators.protocols import POINT_OPTIONS, MaskModel
from segray.models.sam.generator import MaskGenerator, grid_sides
from segray.models.sam.geometry import Frame, Rgb, frame, normalised, resampling, resized
from segray.models.sam.registry import check_weights, load_sam, untrained_sam
from segray.models.weights import Checkpoint

CROP_OPTIONS = frozenset(
    {"crop_n_layers", "crop_nms_thresh", "crop_overlap_ratio", "crop_n_points_downscale_factor"}
)
"""Options of families that prompt crops of the image too."""


class SamModel(MaskModel):
    """A SAM of segment_anything.

    Args:
        sam: the model.
    """

    options: ClassVar[frozenset[str]] = POINT_OPTIONS | CROP_OPTIONS | {"compile"}
    has_embedding: ClassVar[bool] = True

    def __init__(self, sam: Sam) -> None:
        self.sam, self.size = sam, sam.image_encoder.img_size

    @classmethod
    def load(cls, name: str, checkpoint: Checkpoint) -> Self:
        """See `MaskModel`."""
        return cls(load_sam(name, checkpoint))

    @classmethod
    def check(cls, name: str, checkpoint: Checkpoint) -> int:
        """The names and shapes of the tensors are compared; their values are not read."""
        return check_weights(name, checkpoint)

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        """The grids of points."""
        check_grids(options)

    @classmethod
    def untrained(cls, name: str) -> Self:
        """See `MaskModel`."""
        return cls(untrained_sam(name))

    def source(self, device: str, options: Mapping[str, Any]) -> MaskGenerator:
        """The generator."""
        values = dict(options)
        return MaskGenerator(self.sam.to(device), compiled=values.pop("compile"), **values)

    @torch.inference_mode()
    def embedding(self, image: Rgb, grid: tuple[int, int], device: str) -> Tensor:
        """See `MaskModel`."""
        height, width = image.shape[:2]
        f = frame(height, width, self.size)
        pixels = normalised(self.sam.to(device), [resized(image, (height, width), self.size)])
        return on_grid(self.sam.image_encoder(pixels)[0], f, grid)


def on_grid(maps: Tensor, f: Frame, grid: tuple[int, int]) -> Tensor:
    """Features [C, n, n] of a square input, resampled bilinearly to a grid over its image: float32 [h, w, C].

    Args:
        maps: the features.
        f: of the image; what is padded has no part.
        grid: (h, w).
    """
    maps = maps.float()
    vertical, horizontal = (
        resampling(maps.shape[1], f.side, inside, cells).to(maps)
        for inside, cells in zip((f.input_height, f.input_width), grid, strict=True)
    )
    return torch.einsum("hi,cij,wj->hwc", vertical, maps, horizontal)


def check_grids(options: Mapping[str, Any]) -> None:
    """Raise a ValueError if a grid of points of the options would be empty."""
    names = ("points_per_side", "crop_n_layers", "crop_n_points_downscale_factor")
    grid_sides(*(options[name] for name in names))

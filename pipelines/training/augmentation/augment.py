"""The views of an image: weak A^w, strong A^s and CutMix, in batches on the device of the tensors.

The recipe is UniMatch's (Yang et al., CVPR 2023). Random numbers come from one CPU generator, or from one per
image: then an image's view does not depend on the other images of its batch. Every image takes the same
number of random numbers, whatever they decide.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from segray.models.label_space import IGNORE_INDEX, WIDE_IGNORE_INDEX
from segray.models.transfer import to_device
from segray.pipelines.training.augmentation.colour import ADJUSTMENTS, gaussian_blur, to_gray

WIDE = torch.int32
"""The type of label maps of 16 bits; all other maps are padded as those of 8 bits are."""

Draws = torch.Generator | Sequence[torch.Generator]
"""One CPU generator for a batch, or one per image."""


@dataclass(frozen=True)
class WeakBatch:
    """Weakly augmented images.

    Attributes:
        images: float32 [B, 3, S, S] in 0..1, 0 outside the image.
        maps: [B, S, S] each, 255 outside the image, 65535 in maps of type `WIDE`, 0 in those of int16.
        padding: bool [B, S, S], True outside the image.
    """

    images: Tensor
    maps: list[Tensor]
    padding: Tensor


@dataclass(frozen=True)
class WeakAugment:
    """A^w: resize by a random factor, random crop (padded right and below if too small), horizontal flip.

    Attributes:
        crop: side of the crop in pixels.
        scale: range of the factor on the long side.
        flip: chance of a horizontal flip.
    """

    crop: int
    scale: tuple[float, float] = (0.5, 2.0)
    flip: float = 0.5

    def __call__(self, images: list[Tensor], maps: list[list[Tensor]], generator: Draws) -> WeakBatch:
        """Transform each image and its maps together.

        Args:
            images: uint8 [3, h, w] each, of any sizes; resized bilinearly, antialiased if they shrink.
            maps: for each image its maps [h, w], the same number for each; nearest neighbour, dtype kept.
            generator: gives four numbers per image.
        """
        count, side, device = len(images), self.crop, images[0].device
        batch = WeakBatch(
            torch.zeros(count, 3, side, side, device=device),
            [torch.full((count, side, side), _padding(m), dtype=m.dtype, device=device) for m in maps[0]],
            torch.ones(count, side, side, dtype=torch.bool, device=device),
        )
        draws = _uniform(count, 4, generator)
        for i, (image, image_maps, numbers) in enumerate(zip(images, maps, draws, strict=True)):
            assert all(m.shape == image.shape[1:] for m in image_maps), "a map of another size than its image"
            self._fill(batch, i, image, image_maps, numbers)
        return batch

    def _fill(self, batch: WeakBatch, i: int, image: Tensor, maps: list[Tensor], draws: list[float]) -> None:
        window = self._window(image.shape[1], image.shape[2], draws)
        flipped = draws[3] < self.flip
        area = (i, slice(window.rows), slice(window.columns))
        batch.images[i, :, : window.rows, : window.columns] = _crop_image(image, window)
        batch.padding[area] = False
        for target, source in zip(batch.maps, maps, strict=True):
            target[area] = _crop_map(source, window)
        if flipped:
            for tensor in (batch.images, batch.padding, *batch.maps):
                tensor[i] = tensor[i].flip(-1)

    def _window(self, height: int, width: int, draws: list[float]) -> _Window:
        long = max(height, width)
        target = max(1, round(long * _between(self.scale, draws[0])))
        size = max(1, round(height * target / long)), max(1, round(width * target / long))
        rows, columns = min(self.crop, size[0]), min(self.crop, size[1])
        top, left = int(draws[1] * (size[0] - rows + 1)), int(draws[2] * (size[1] - columns + 1))
        return _Window(size[0], size[1], top, left, rows, columns)


@dataclass(frozen=True)
class _Window:
    """`rows` x `columns` pixels at (`top`, `left`) of an image resized to `height` x `width`."""

    height: int
    width: int
    top: int
    left: int
    rows: int
    columns: int


def _crop_image(image: Tensor, window: _Window) -> Tensor:
    """The window of the resized image, float [3, rows, columns] in 0..1."""
    if window.height < image.shape[1] or window.width < image.shape[2]:
        shrunk = _shrink(image, window.height, window.width)
        rows = slice(window.top, window.top + window.rows)
        return shrunk[:, rows, window.left : window.left + window.columns].float().round_() / 255
    # An enlarged image needs no antialiasing: only the window is sampled, at a fraction of the cost.
    y = _grid_coordinates(window.top, window.rows, window.height, image.device)
    x = _grid_coordinates(window.left, window.columns, window.width, image.device)
    grid = torch.stack(torch.broadcast_tensors(x[None, :], y[:, None]), -1)
    sampled = F.grid_sample(image[None].float(), grid[None], padding_mode="border", align_corners=False)
    return sampled[0] / 255


def _shrink(image: Tensor, height: int, width: int) -> Tensor:
    """Antialiased bilinear resize of uint8 [3, h, w], as uint8 or float in 0..255."""
    # The same kernels that torchvision chooses; importing torchvision would take a worker more than a second.
    fast = image.device.type == "cpu" and _has_uint8_resize()
    source = image[None] if fast else image[None].float()
    return F.interpolate(source, (height, width), mode="bilinear", align_corners=False, antialias=True)[0]


def _has_uint8_resize() -> bool:
    """Whether PyTorch resizes uint8 on this CPU faster than float32."""
    vectorised = torch.backends.cpu.get_cpu_capability() in {"AVX2", "AVX512"}
    return vectorised or platform.machine() in {"aarch64", "arm64"}


def _grid_coordinates(first: int, count: int, length: int, device: torch.device) -> Tensor:
    """Pixel centres in the coordinates of `grid_sample`: -1 and 1 are the image's outer edges."""
    return (torch.arange(first, first + count, device=device) * 2 + 1) / length - 1


def _crop_map(source: Tensor, window: _Window) -> Tensor:
    """The window of the resized map by nearest neighbours: the source pixel under each centre."""
    rows = _nearest(window.top, window.rows, source.shape[0], window.height, source.device)
    columns = _nearest(window.left, window.columns, source.shape[1], window.width, source.device)
    return source[rows[:, None], columns[None, :]]


def _nearest(first: int, count: int, source: int, target: int, device: torch.device) -> Tensor:
    # Integers: a rounded fraction would pick the wrong neighbour now and then.
    return (torch.arange(first, first + count, device=device) * 2 + 1) * source // (2 * target)


@dataclass(frozen=True)
class StrongAugment:
    """A^s without CutMix: colour jitter in random order, grayscale, Gaussian blur, drawn per image.

    Attributes:
        jitter_p: chance of the colour jitter.
        brightness: the factor is at most this far from 1, and not below 0.
        contrast: as `brightness`.
        saturation: as `brightness`.
        hue: the largest shift of the hue, in full circles.
        gray_p: chance of grayscale.
        blur_p: chance of the blur.
        blur_sigma: range of its standard deviation in pixels.
    """

    jitter_p: float = 0.8
    brightness: float = 0.5
    contrast: float = 0.5
    saturation: float = 0.5
    hue: float = 0.25
    gray_p: float = 0.2
    blur_p: float = 0.5
    blur_sigma: tuple[float, float] = (0.1, 2.0)

    def __call__(self, images: Tensor, generator: Draws) -> Tensor:
        """A new tensor of augmented images.

        Args:
            images: float [B, 3, H, W] in 0..1.
            generator: gives twelve numbers per image.
        """
        draws = _uniform(len(images), 12, generator)
        images = self._jitter(images.clone(), draws)
        gray = [i for i, d in enumerate(draws) if d[9] < self.gray_p]
        if gray:
            _change(images, gray, lambda chosen: to_gray(chosen).expand(-1, 3, -1, -1))
        blurred = [i for i, d in enumerate(draws) if d[10] < self.blur_p]
        if blurred:
            sigmas = [_between(self.blur_sigma, draws[i][11]) for i in blurred]
            _change(images, blurred, partial(gaussian_blur, sigmas=sigmas))
        return images

    def _jitter(self, images: Tensor, draws: list[list[float]]) -> Tensor:
        jittered = [i for i, d in enumerate(draws) if d[0] < self.jitter_p]
        orders = {i: sorted(range(4), key=draws[i][5:9].__getitem__) for i in jittered}
        ranges = [*map(_around_one, (self.brightness, self.contrast, self.saturation)), (-self.hue, self.hue)]
        for turn in range(4):
            for kind, limits in enumerate(ranges):
                chosen = [i for i in jittered if orders[i][turn] == kind]
                if chosen:
                    drawn = [_between(limits, draws[i][1 + kind]) for i in chosen]
                    factors = to_device(torch.tensor(drawn, dtype=images.dtype), images.device)
                    _change(images, chosen, partial(_adjusted, kind=kind, factors=factors))
        return images


@dataclass(frozen=True)
class CutMix:
    """Paste a box of another image into each image.

    Attributes:
        p: chance of a box.
        area: range of the box's share of the image.
        aspect: range of the box's height over its width, limited to the boxes that fit into the image.
    """

    p: float = 0.5
    area: tuple[float, float] = (0.02, 0.4)
    aspect: tuple[float, float] = (0.3, 1 / 0.3)

    def boxes(self, batch: int, height: int, width: int, generator: Draws) -> Tensor:
        """bool [batch, height, width] on the CPU: True inside the box of each image, if it has one.

        Args:
            batch: number of images.
            height: of an image, in pixels.
            width: of an image, in pixels.
            generator: gives five numbers per image.
        """
        boxes = torch.zeros(batch, height, width, dtype=torch.bool)
        for box, draws in zip(boxes, _uniform(batch, 5, generator), strict=True):
            if draws[0] < self.p:
                h, w = self._size(height, width, draws)
                top, left = int(draws[3] * (height - h + 1)), int(draws[4] * (width - w + 1))
                box[top : top + h, left : left + w] = True
        return boxes

    def _size(self, height: int, width: int, draws: list[float]) -> tuple[int, int]:
        share = min(_between(self.area, draws[1]), 1.0)
        flat, tall = share * height / width, height / (share * width)
        low, high = (min(max(limit, flat), tall) for limit in self.aspect)
        aspect = _between((low, high), draws[2])
        area = share * height * width
        h, w = math.floor(math.sqrt(area * aspect)), math.floor(math.sqrt(area / aspect))
        return min(max(h, 1), height), min(max(w, 1), width)

    def mix(self, batch: Tensor, partners: Tensor, boxes: Tensor) -> Tensor:
        """`partners` inside the boxes (bool [B, H, W]), else `batch`: [B, C, H, W] or [B, H, W]."""
        return torch.where(boxes[:, None] if batch.ndim == 4 else boxes, partners, batch)


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Images [B, 3, H, W] in 0..1, normalised by mean and standard deviation [3] of each channel."""
    return (images - mean[:, None, None]) / std[:, None, None]


def _change(images: Tensor, chosen: list[int], change: Callable[[Tensor], Tensor]) -> None:
    """Replace some of the images [B, 3, H, W] by what `change` makes of them; a GPU is not waited for."""
    index = to_device(torch.tensor(chosen), images.device)
    images.index_copy_(0, index, change(images.index_select(0, index)))


def _adjusted(images: Tensor, *, kind: int, factors: Tensor) -> Tensor:
    return ADJUSTMENTS[kind](images, factors)


def _padding(values: Tensor) -> int:
    if values.dtype == torch.int16:  # numbers of segments
        return 0
    return WIDE_IGNORE_INDEX if values.dtype == WIDE else IGNORE_INDEX


def _uniform(count: int, numbers: int, generator: Draws) -> list[list[float]]:
    """`numbers` random numbers in [0, 1) for each of `count` images."""
    generators = [generator] * count if isinstance(generator, torch.Generator) else generator
    if len(generators) != count:
        raise ValueError(f"{len(generators)} generators for {count} images: pass one, or one per image")
    return [torch.rand(numbers, generator=g, dtype=torch.float64).tolist() for g in generators]


def _between(limits: tuple[float, float], draw: float) -> float:
    return limits[0] + (limits[1] - limits[0]) * draw


def _around_one(spread: float) -> tuple[float, float]:
    return max(0.0, 1 - spread), 1 + spread

"""The picture book: procedural scenes with exact masks, the world that the built-in models know."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from segray.models.label_space import PICTURE_BOOK, PICTURE_BOOK_GROUNDS
from segray.pipelines.scenes.shapes import SHAPES, Part

SUPERSAMPLING = 3
MIN_VISIBLE = 0.45
"""An object is not placed where it would leave less than this share of another one visible."""

RADIUS = (0.09, 0.24)
"""Half side of a thing as a share of the scene's side."""

GROUND_HUES = {
    "grass": (0.22, 0.38, 0.35, 0.75, 0.3, 0.7),
    "sea": (0.47, 0.60, 0.45, 0.85, 0.35, 0.7),
    "sky": (0.53, 0.62, 0.15, 0.45, 0.8, 1.0),
    "sand": (0.08, 0.14, 0.2, 0.45, 0.65, 0.9),
    "night": (0.60, 0.76, 0.3, 0.7, 0.12, 0.35),
    "sunset": (0.86, 1.04, 0.3, 0.65, 0.65, 0.9),
    "cloud": (0.0, 1.0, 0.0, 0.12, 0.55, 0.85),
}
"""For each ground: ranges of hue, saturation and value in [0, 1]."""


@dataclass(frozen=True)
class Scene:
    """One page of the book.

    Attributes:
        image: uint8 [S, S, 3].
        mask: uint8 [S, S], class ids (`PICTURE_BOOK` order, from 1), 0 where there is only ground.
        instances: uint8 [S, S], 1.. for each object's visible pixels, 0 elsewhere.
        objects: class names of the instances, in order.
        ground: one of `PICTURE_BOOK_GROUNDS`.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    instances: NDArray[np.uint8]
    objects: tuple[str, ...]
    ground: str

    @property
    def caption(self) -> str:
        """What an image-level annotator would write: the things in view, not where they are."""
        names = list(dict.fromkeys(self.objects))
        return f"a photo of {' and '.join(f'a {name}' for name in names)} on {self.ground}"


def draw_scene(
    seed: int,
    index: int,
    size: int = 256,
    *,
    objects: int | None = None,
    radius: tuple[float, float] = RADIUS,
) -> Scene:
    """Scene number `index` of the book with this seed: always the same one, whatever was drawn before.

    Args:
        seed: of the book.
        index: of the scene.
        size: side in pixels.
        objects: how many things it holds, if room is found for them; None: 1 to 5.
        radius: smallest and largest half side of a thing, as a share of the scene's side.
    """
    rng = np.random.default_rng([seed, index])
    ground = str(rng.choice(PICTURE_BOOK_GROUNDS))
    canvas = _ground(rng, ground, size)
    instances = np.zeros((size, size), np.uint8)
    full_areas: list[int] = []
    names: list[str] = []
    wanted = int(rng.choice([1, 2, 3, 4, 5], p=[0.15, 0.3, 0.3, 0.15, 0.1])) if objects is None else objects
    for _ in range(4 * wanted):
        name = str(rng.choice(PICTURE_BOOK))
        colour, alpha, top, left = _sprite(rng, SHAPES[name](rng), size, size * rng.uniform(*radius), name)
        if _place(canvas, instances, full_areas, colour, alpha, top, left):
            names.append(name)
        if len(names) == wanted:
            break
    image = _finish(rng, canvas)
    ids = np.array([0, *(PICTURE_BOOK.index(name) + 1 for name in names)], np.uint8)
    return Scene(image, ids[instances], instances, tuple(names), ground)


def _ground(rng: np.random.Generator, ground: str, size: int) -> NDArray[np.float32]:
    """float32 [S, S, 3] in 0-255: two shades of the ground mixed by smooth noise, with fine grain."""
    h0, h1, s0, s1, v0, v1 = GROUND_HUES[ground]
    shades = np.stack([[rng.uniform(h0, h1), rng.uniform(s0, s1), rng.uniform(v0, v1)] for _ in range(3)])
    cells = rng.integers(2, 9, 2)
    mix = _smooth_noise(rng, (int(cells[0]), int(cells[1])), size)
    if rng.random() < 0.5:
        mix = 0.4 * mix + 0.6 * np.linspace(0, 1, size, dtype=np.float32)[:, None]
    second = _smooth_noise(rng, (12, 12), size)
    pixels = (
        shades[0]
        + mix[..., None] * (shades[1] - shades[0])
        + 0.4 * second[..., None] * (shades[2] - shades[0])
    )
    return _hsv_to_rgb(pixels.astype(np.float32))


def _hsv_to_rgb(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    hue, saturation, value = pixels[..., 0] % 1.0, pixels[..., 1].clip(0, 1), pixels[..., 2].clip(0, 1)
    sector = (np.array([5.0, 3.0, 1.0], np.float32) + 6 * hue[..., None]) % 6
    wave = np.clip(np.minimum(sector, 4 - sector), 0, 1)
    rgb: NDArray[np.float32] = 255 * (value[..., None] * (1 - saturation[..., None] * wave))
    return rgb


def _smooth_noise(rng: np.random.Generator, cells: tuple[int, int], size: int) -> NDArray[np.float32]:
    """float32 [S, S] in [0, 1]: random values on a coarse grid, interpolated."""
    coarse = Image.fromarray(rng.random((cells[0] + 1, cells[1] + 1), np.float32))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), np.float32).clip(0, 1)


def _sprite(
    rng: np.random.Generator, parts: list[Part], size: int, radius: float, name: str
) -> tuple[NDArray[np.float32], NDArray[np.float32], int, int]:
    """An object drawn tilted, somewhere: colour [h, w, 3], coverage [h, w] in [0, 1], top, left."""
    angle = rng.uniform(-np.pi, np.pi) if name in ("ball", "sun") else rng.normal(0, 0.18)
    flip = rng.choice([-1.0, 1.0])
    stretch = rng.uniform(0.85, 1.15)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    placed = [(p.points * (flip * stretch, 1.0)) @ turn * radius for p in parts]
    corner = np.floor(np.concatenate(placed).min(0)) - 1
    extent = np.ceil(np.concatenate(placed).max(0) - corner).astype(int) + 2
    w, h = int(extent[0]), int(extent[1])
    shade = rng.uniform(0.85, 1.1)
    colour = Image.new("RGB", (w * SUPERSAMPLING, h * SUPERSAMPLING))
    cover = Image.new("L", colour.size)
    paint, stencil = ImageDraw.Draw(colour), ImageDraw.Draw(cover)
    for part, points in zip(parts, placed, strict=True):
        flat = [tuple(p) for p in (points - corner) * SUPERSAMPLING]
        red, green, blue = (min(255, int(c * shade)) for c in part.colour)
        paint.polygon(flat, fill=(red, green, blue))
        stencil.polygon(flat, fill=255)
    # Averaging colour that is zero outside the shape gives colour times coverage, ready for compositing.
    small = np.asarray(colour.reduce(SUPERSAMPLING), np.float32)
    alpha = np.asarray(cover.reduce(SUPERSAMPLING), np.float32) / np.float32(255)
    centre = rng.uniform(0.02 * size + 0.5 * radius, 0.98 * size - 0.5 * radius, 2)
    top, left = int(centre[1] + corner[1]), int(centre[0] + corner[0])
    return small, alpha, top, left


def _place(
    canvas: NDArray[np.float32],
    instances: NDArray[np.uint8],
    full_areas: list[int],
    colour: NDArray[np.float32],
    alpha: NDArray[np.float32],
    top: int,
    left: int,
) -> bool:
    """Composite a sprite, unless too little of it or of an earlier object would show; True if placed."""
    size = len(canvas)
    y0, x0, y1, x1 = (
        max(top, 0),
        max(left, 0),
        min(top + alpha.shape[0], size),
        min(left + alpha.shape[1], size),
    )
    if y1 <= y0 or x1 <= x0:
        return False
    crop = np.s_[y0 - top : y1 - top, x0 - left : x1 - left]
    solid = alpha[crop] >= 0.5
    if solid.sum() < 0.6 * (alpha >= 0.5).sum():
        return False
    after = instances[y0:y1, x0:x1].copy()
    after[solid] = len(full_areas) + 1
    hidden = np.bincount(instances[y0:y1, x0:x1][solid], minlength=len(full_areas) + 1)[1:]
    visible = np.bincount(instances.ravel(), minlength=len(full_areas) + 1)[1:] - hidden
    if any(v < MIN_VISIBLE * area for v, area in zip(visible, full_areas, strict=True)):
        return False
    instances[y0:y1, x0:x1] = after
    full_areas.append(int(solid.sum()))
    region = canvas[y0:y1, x0:x1]
    region *= 1 - alpha[crop][..., None]
    region += colour[crop]
    return True


def _finish(rng: np.random.Generator, canvas: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Light from one side, then sensor noise."""
    size = len(canvas)
    ramp = np.linspace(-1, 1, size, dtype=np.float32)
    strength = rng.uniform(-0.12, 0.12, 2)
    light = 1 + strength[0] * ramp[:, None] + strength[1] * ramp[None, :]
    noise = rng.standard_normal(canvas.shape, np.float32) * np.float32(rng.uniform(1, 10))
    return (canvas * light[..., None].astype(np.float32) + noise).clip(0, 255).astype(np.uint8)

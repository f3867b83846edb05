"""The nine things of the picture book, each drawn as coloured polygons in a box of about [-1, 1]."""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
Colour = tuple[int, int, int]

WHITE: Colour = (245, 245, 240)
GLASS: Colour = (150, 200, 230)
TYRE: Colour = (35, 35, 40)


@dataclass(frozen=True)
class Part:
    """A filled polygon: points [N, 2] (x right, y down) and its colour."""

    points: Points
    colour: Colour


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """8-bit RGB of a colour given in [0, 1]; the hue wraps around."""
    r, g, b = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return round(255 * r), round(255 * g), round(255 * b)


def _polygon(*points: tuple[float, float]) -> Points:
    return np.array(points, float)


def _box(x0: float, y0: float, x1: float, y1: float) -> Points:
    return _polygon((x0, y0), (x1, y0), (x1, y1), (x0, y1))


def _ellipse(x: float, y: float, rx: float, ry: float, start: float = 0.0, stop: float = 1.0) -> Points:
    """An arc of an ellipse from `start` to `stop` turns; a full turn closes on itself."""
    angle = 2 * np.pi * np.linspace(start, stop, 36)
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], 1)


def _wedge(radius: float, start: float, stop: float) -> Points:
    return np.concatenate([np.zeros((1, 2)), _ellipse(0, 0, radius, radius, start, stop)])


def _vivid(rng: np.random.Generator) -> Colour:
    return hsv(rng.random(), rng.uniform(0.65, 0.95), rng.uniform(0.65, 0.95))


def tree(rng: np.random.Generator) -> list[Part]:
    """A brown trunk under a crown of round green blobs."""
    green = hsv(rng.uniform(0.25, 0.4), rng.uniform(0.55, 0.9), rng.uniform(0.35, 0.65))
    brown = hsv(rng.uniform(0.04, 0.09), 0.65, rng.uniform(0.3, 0.5))
    width = rng.uniform(0.1, 0.18)
    blobs = [(0.0, -0.45, 0.5), (-0.38, -0.2, 0.38), (0.38, -0.2, 0.38), (0.0, -0.05, 0.42)]
    crown = [
        Part(_ellipse(x, y, r * rng.uniform(0.9, 1.1), r * rng.uniform(0.9, 1.1)), green) for x, y, r in blobs
    ]
    return [Part(_box(-width, 0, width, 1), brown), *crown]


def house(rng: np.random.Generator) -> list[Part]:
    """Walls with a door and two windows under a gabled roof."""
    wall = hsv(rng.uniform(0.05, 0.17), rng.uniform(0.15, 0.5), rng.uniform(0.7, 0.95))
    roof = hsv(rng.uniform(-0.04, 0.07), rng.uniform(0.6, 0.85), rng.uniform(0.4, 0.7))
    door = hsv(rng.uniform(0.0, 0.1), 0.6, rng.uniform(0.25, 0.45))
    eaves, ridge = rng.uniform(0.85, 1.0), rng.uniform(-1.0, -0.75)
    return [
        Part(_box(-0.75, -0.2, 0.75, 0.9), wall),
        Part(_polygon((-eaves, -0.15), (0, ridge), (eaves, -0.15)), roof),
        Part(_box(-0.15, 0.3, 0.2, 0.9), door),
        Part(_box(-0.6, 0.05, -0.3, 0.35), GLASS),
        Part(_box(0.32, 0.05, 0.62, 0.35), GLASS),
    ]


def car(rng: np.random.Generator) -> list[Part]:
    """A saloon from the side: body, cabin with two windows, two wheels."""
    paint = hsv(rng.choice([0.0, 0.13, 0.6, 0.98]) + rng.uniform(-0.03, 0.03), 0.85, rng.uniform(0.6, 0.95))
    roof = rng.uniform(-0.6, -0.48)
    body = _polygon((-1, 0.3), (-0.95, -0.02), (-0.6, -0.1), (0.65, -0.1), (0.95, 0.0), (1, 0.3))
    wheels = [
        Part(_ellipse(x, 0.3, r, r), colour)
        for x in (-0.55, 0.55)
        for r, colour in ((0.23, TYRE), (0.1, (170, 170, 175)))
    ]
    return [
        Part(_polygon((-0.65, -0.08), (-0.4, roof), (0.3, roof), (0.62, -0.08)), paint),
        Part(body, paint),
        Part(_polygon((-0.5, -0.1), (-0.34, roof + 0.1), (-0.08, roof + 0.1), (-0.08, -0.1)), GLASS),
        Part(_polygon((0.02, -0.1), (0.02, roof + 0.1), (0.25, roof + 0.1), (0.46, -0.1)), GLASS),
        *wheels,
    ]


def boat(rng: np.random.Generator) -> list[Part]:
    """A hull with a mast and two white sails."""
    hull = hsv(rng.choice([0.03, 0.07, 0.6]) + rng.uniform(-0.02, 0.02), 0.75, rng.uniform(0.35, 0.6))
    sail = hsv(rng.random(), rng.uniform(0.0, 0.12), rng.uniform(0.88, 1.0))
    return [
        Part(_box(-0.05, -1, 0.05, 0.5), (90, 60, 40)),
        Part(_polygon((-0.03, -0.9), (-0.03, 0.35), (-0.7, 0.35)), sail),
        Part(_polygon((0.03, -0.95), (0.03, 0.35), (0.8, 0.35)), sail),
        Part(_polygon((-0.95, 0.4), (0.95, 0.4), (0.65, 0.95), (-0.65, 0.95)), hull),
    ]


def ball(rng: np.random.Generator) -> list[Part]:
    """A beach ball: wedges of white and one colour around its middle."""
    paint = _vivid(rng)
    turn, slices = rng.random(), int(rng.choice([6, 8]))
    colours = (paint, WHITE)
    return [
        Part(_wedge(0.95, turn + k / slices, turn + (k + 1) / slices), colours[k % 2]) for k in range(slices)
    ]


def flower(rng: np.random.Generator) -> list[Part]:
    """Petals around a yellow heart on a stem with a leaf."""
    petal = hsv(rng.choice([0.83, 0.93, 0.99, 0.07, 0.75]), rng.uniform(0.45, 0.85), rng.uniform(0.85, 1.0))
    green = hsv(rng.uniform(0.28, 0.36), 0.7, rng.uniform(0.4, 0.65))
    n, turn = int(rng.integers(5, 9)), rng.random()
    angles = 2 * np.pi * (turn + np.arange(n) / n)
    petals = [Part(_ellipse(0.4 * np.cos(a), -0.4 + 0.4 * np.sin(a), 0.26, 0.26), petal) for a in angles]
    return [
        Part(_box(-0.06, -0.3, 0.06, 1), green),
        Part(_polygon((0, 0.75), (0.4, 0.35), (0.3, 0.7)), green),
        *petals,
        Part(_ellipse(0, -0.4, 0.34, 0.34), petal),
        Part(_ellipse(0, -0.4, 0.2, 0.2), hsv(0.14, 0.8, 0.95)),
    ]


def fish(rng: np.random.Generator) -> list[Part]:
    """An oval body with a tail fin, stripes and an eye."""
    paint = hsv(rng.choice([0.06, 0.09, 0.57, 0.62]), rng.uniform(0.55, 0.85), rng.uniform(0.7, 0.95))
    fin = hsv(rng.choice([0.05, 0.58]), 0.7, rng.uniform(0.5, 0.75))
    height = rng.uniform(0.38, 0.5)
    stripes = [
        Part(_polygon((x, -0.3), (x + 0.07, -0.3), (x + 0.02, 0.3), (x - 0.05, 0.3)), WHITE)
        for x in (-0.25, 0.05)
    ]
    return [
        Part(_polygon((-0.55, 0), (-1, -0.45), (-0.85, 0), (-1, 0.45)), fin),
        Part(_polygon((-0.2, -0.3), (0.1, -height - 0.2), (0.3, -0.3)), fin),
        Part(_ellipse(0.1, 0, 0.75, height), paint),
        *stripes,
        Part(_ellipse(0.55, -0.1, 0.1, 0.1), WHITE),
        Part(_ellipse(0.57, -0.1, 0.05, 0.05), TYRE),
    ]


def person(rng: np.random.Generator) -> list[Part]:
    """A head, a shirt with two arms, trousers."""
    skin = hsv(rng.uniform(0.04, 0.09), rng.uniform(0.3, 0.6), rng.uniform(0.5, 0.98))
    shirt, trousers = _vivid(rng), hsv(rng.uniform(0.55, 0.8), 0.5, rng.uniform(0.2, 0.5))
    hair = hsv(rng.uniform(0.03, 0.12), 0.6, rng.uniform(0.15, 0.5))
    spread = rng.uniform(0.0, 0.15)
    return [
        Part(_polygon((-0.3, -0.35), (-0.55 - spread, 0.15), (-0.42 - spread, 0.2), (-0.2, -0.1)), skin),
        Part(_polygon((0.3, -0.35), (0.55 + spread, 0.15), (0.42 + spread, 0.2), (0.2, -0.1)), skin),
        Part(_polygon((-0.28, 0.15), (-0.02, 0.15), (-0.06, 1), (-0.32, 1)), trousers),
        Part(_polygon((0.02, 0.15), (0.28, 0.15), (0.32, 1), (0.06, 1)), trousers),
        Part(_box(-0.32, -0.45, 0.32, 0.25), shirt),
        Part(_ellipse(0, -0.72, 0.26, 0.28), skin),
        Part(_ellipse(0, -0.76, 0.27, 0.26, 0.5, 1.0), hair),
    ]


def sun(rng: np.random.Generator) -> list[Part]:
    """A yellow disc inside a ring of pointed rays."""
    yellow = hsv(rng.uniform(0.11, 0.155), rng.uniform(0.75, 0.95), rng.uniform(0.92, 1.0))
    n, turn = int(rng.integers(10, 17)), rng.random()
    angle = 2 * np.pi * (turn + np.arange(2 * n) / (2 * n))
    radius = np.where(np.arange(2 * n) % 2, 0.62, 0.98)
    rays = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
    disc = hsv(rng.uniform(0.1, 0.14), 0.85, 1.0)
    return [Part(rays, yellow), Part(_ellipse(0, 0, 0.58, 0.58), disc)]


SHAPES: dict[str, Callable[[np.random.Generator], list[Part]]] = {
    "tree": tree,
    "house": house,
    "car": car,
    "boat": boat,
    "ball": ball,
    "flower": flower,
    "fish": fish,
    "person": person,
    "sun": sun,
}

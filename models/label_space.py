"""Class names, the prompts that stand for them, background names, palette and ignore index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


IGNORE_INDEX = 255
"""Pixels with this id belong to no class and are left out of every loss and metric."""

VOC = _split(
    "aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable, dog, horse, "
    "motorbike, person, pottedplant, sheep, sofa, train, tvmonitor"
)

COCO = _split(
    "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, "
    "stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, "
    "giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, "
    "baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle, wine glass, cup, fork, "
    "knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, "
    "cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop, mouse, remote, keyboard, "
    "cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear, "
    "hair drier, toothbrush"
)

PICTURE_BOOK = ("tree", "house", "car", "boat", "ball", "flower", "fish", "person", "sun")

PICTURE_BOOK_GROUNDS = ("grass", "sea", "sky", "sand", "night", "sunset", "cloud")
"""What the picture book's objects stand on: its background names."""

BACKGROUND_NAMES = _split(
    "sky, wall, tree, wood, grass, road, sea, river, mountain, sands, desk, bed, building, cloud, lamp, "
    "door, window, wardrobe, ceiling, shelf, curtain, stair, floor, hill, rail, fence"
)
"""A list known to be worth +12 to +22 mIoU on VOC against the one word "background"; names that are also
classes are left out, see `label_space`."""

VOC_ALIASES = {
    "diningtable": ("dining table", "table"),
    "pottedplant": ("potted plant",),
    "tvmonitor": ("television monitor", "tv"),
    "person": ("person", "people"),
    "boat": ("boat", "ship"),
}

_NO_CLASS = ("background", "void")


@dataclass(frozen=True)
class LabelSpace:
    """What the ids of a label map mean.

    Attributes:
        classes: the name of each id; id 0 is "no class" ("background" or "void").
        aliases: the names that stand for each id in prompts, the best known first; those of id 0 are the
            background names and may be empty.
        ignore_index: the id of pixels that count for nothing.
    """

    classes: tuple[str, ...]
    aliases: tuple[tuple[str, ...], ...]
    ignore_index: int = IGNORE_INDEX

    def names(self) -> list[tuple[int, str]]:
        """(class id, prompt name) pairs in class order."""
        return [(i, name) for i, names in enumerate(self.aliases) for name in names]

    def palette(self) -> NDArray[np.uint8]:
        """uint8 [256, 3] colours: PASCAL VOC's colour map, each bit of the id sets one of a channel."""
        ids = np.arange(256)
        colours = np.zeros((256, 3), np.uint8)
        for bit in range(8):
            for channel in range(3):
                colours[:, channel] |= (((ids >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
        return colours


def label_space(
    classes: str | Sequence[str],
    background_names: Sequence[str] | None = None,
    aliases: Mapping[str, Sequence[str]] | None = None,
) -> LabelSpace:
    """The label space of a class list.

    Args:
        classes: `voc`, `coco`, `picture_book`, a text file (one class a line, aliases after a colon:
            `person: people, man`), a comma list, or a sequence of such lines. "background" or "void" may
            stand first, else "background" is added as id 0.
        background_names: prompt names of id 0; None: a list fit for the classes.
        aliases: further names a class; they replace its own name in the prompts where given.

    Raises:
        ValueError: no class, an empty or doubled name, more than 254 classes, aliases of an unknown class.
    """
    lines, known_aliases, void = _read_classes(classes)
    names: list[str] = []
    spoken: dict[str, tuple[str, ...]] = dict(known_aliases)
    for line in lines:
        name, _, others = line.partition(":")
        names.append(name.strip())
        if others.strip():
            spoken[name.strip()] = (name.strip(), *_split(others))
    if names and names[0].lower() in _NO_CLASS:
        void = names.pop(0)
    _check(names)
    unknown = sorted(set(aliases or {}) - set(names))
    if unknown:
        raise ValueError(f"aliases of unknown class {unknown[0]!r}; the classes are {', '.join(names)}")
    spoken.update({name: tuple(value) for name, value in (aliases or {}).items()})
    prompts = tuple(spoken.get(name, (name,)) for name in names)
    if background_names is None:
        default = PICTURE_BOOK_GROUNDS if tuple(names) == PICTURE_BOOK else BACKGROUND_NAMES
        taken = {word for group in prompts for word in group}
        background_names = [name for name in default if name not in taken]
    return LabelSpace((void, *names), (tuple(background_names), *prompts))


def _read_classes(classes: str | Sequence[str]) -> tuple[list[str], dict[str, tuple[str, ...]], str]:
    if not isinstance(classes, str):
        return [str(c) for c in classes], {}, "background"
    if classes == "voc":
        return list(VOC), dict(VOC_ALIASES), "background"
    if classes == "coco":
        return list(COCO), {}, "void"
    if classes == "picture_book":
        return list(PICTURE_BOOK), {}, "background"
    if "," not in classes and (classes.endswith(".txt") or "/" in classes or Path(classes).is_file()):
        if not Path(classes).is_file():
            raise ValueError(
                f"classes: no file {classes!r}; give a file, a comma list, voc, coco or picture_book"
            )
        text = Path(classes).read_text(encoding="utf-8-sig")
        return [line.strip() for line in text.splitlines() if line.strip()], {}, "background"
    return _split(classes), {}, "background"


def _check(names: list[str]) -> None:
    if not names:
        raise ValueError("classes: no class name; give at least one")
    if "" in names:
        raise ValueError("classes: an empty name; give one name between commas or on a line")
    double = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if double is not None:
        raise ValueError(f"classes: {double!r} is there twice; each class once")
    if len(names) > 254:
        raise ValueError(
            f"classes: {len(names)} classes; an 8-bit label map holds at most 254 and background"
        )

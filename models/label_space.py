"""Class names, the prompts that stand for them, background names, palette and ignore index."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from unicodedata import category

import numpy as np
from numpy.typing import NDArray

from segray.models.class_files import ENDINGS, class_lines


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


IGNORE_INDEX = 255
"""Pixels with this id belong to no class and are left out of every loss and metric."""
WIDE_IGNORE_INDEX = 65_535
"""The same where ids need 16 bits."""
MAX_CLASSES = 32_766
"""Besides the background: the segments table has ids of 15 bits."""

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

BUILT_IN = ("voc", "coco", "picture_book")
"""Names of class lists."""

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

_NO_CLASS = {
    "background": "background",
    "unlabeled": "background",
    "unlabelled": "background",
    "void": "void",
}
"""Names that mean "no class", by `name_key`, and the name that id 0 gets for each."""


def name_key(name: str) -> str:
    """A name as CLIP's tokenizer sees it: lower case, and blanks, `_` and `-` alike."""
    return re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFKC", name)).strip().casefold()


def no_class_name(name: str) -> str | None:
    """The name of id 0 that a name stands for: `background` or `void`; None for a class.

    `_background_`, `Background` and `unlabeled` are names that other tools give to it.
    """
    return _NO_CLASS.get(name_key(name))


def ignored_labels() -> Iterator[str]:
    """Labels of ignored pixels in files of names: they have the first one that is no class."""
    yield from ("ignored", "ignored pixels")
    yield from (f"ignored pixels {number}" for number in count(2))


def ignored_label(classes: Iterable[str]) -> str:
    """The label of ignored pixels beside some classes."""
    taken = set(map(name_key, classes))
    return next(label for label in ignored_labels() if label not in taken)


def is_wide(ids: int) -> bool:
    """Whether so many ids need label maps of 16 bits: 8 bits hold 0 to 254, and 255 for ignored pixels."""
    return ids > IGNORE_INDEX


def ignore_index_of(ids: int) -> int:
    """The id of ignored pixels where classes and background have so many ids."""
    return WIDE_IGNORE_INDEX if is_wide(ids) else IGNORE_INDEX


@dataclass(frozen=True)
class LabelSpace:
    """What the ids of a label map mean.

    Attributes:
        classes: the name of each id; id 0 is "no class" ("background" or "void").
        aliases: the names that stand for each id in prompts, the best known first; those of id 0 are the
            background names and may be empty.
    """

    classes: tuple[str, ...]
    aliases: tuple[tuple[str, ...], ...]

    @property
    def ignore_index(self) -> int:
        """The id of pixels that count for nothing: 255, or 65535 with more than 254 classes."""
        return ignore_index_of(len(self.classes))

    def names(self) -> list[tuple[int, str]]:
        """(class id, prompt name) pairs in class order."""
        return [(i, name) for i, names in enumerate(self.aliases) for name in names]

    def palette(self) -> NDArray[np.uint8]:
        """uint8 [256 or more, 3] colours: PASCAL VOC's map, each bit of the id sets one of a channel."""
        ids = np.arange(max(256, len(self.classes) + 1))
        colours = np.zeros((len(ids), 3), np.uint8)
        for bit in range(8):
            for channel in range(3):
                colours[:, channel] |= (((ids >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
        return colours


def label_space(
    classes: str | Sequence[str],
    background_names: Sequence[str] | None = None,
    aliases: Mapping[str, Sequence[str]] | None = None,
    *,
    in_order: bool = False,
) -> LabelSpace:
    """The label space of a class list.

    Args:
        classes: `voc`, `coco`, `picture_book`, a text file (one class a line, aliases after a colon:
            `person: people, man`) or another tool's, see `class_files`, a comma list, or a sequence of such
            lines. Names such as "background" and "void" (`no_class_name`) become id 0, wherever they are;
            without one, "background" is added.
        background_names: prompt names of id 0; None: a list fit for the classes.
        aliases: further names a class; they replace its own name in the prompts where given.
        in_order: the classes are in the order of existing ids: a background that is not first is refused.

    Raises:
        ValueError: no class, an empty name, the same name or prompt for two ids (as `name_key` compares
            them), more than `MAX_CLASSES` classes, aliases of an unknown class.
    """
    lines, known_aliases, void = _read_classes(classes)
    names: list[str] = []
    spoken: dict[str, tuple[str, ...]] = dict(known_aliases)
    for line in lines:
        name, _, others = line.partition(":")
        names.append(name.strip())
        if others.strip():
            spoken[name.strip()] = (name.strip(), *_split(others))
    if in_order:
        _check_order(names)
    void = next((word for name in names if (word := no_class_name(name))), void)
    names = [name for name in names if no_class_name(name) is None]
    _check(names)
    unknown = sorted(set(aliases or {}) - set(names))
    if unknown:
        raise ValueError(f"aliases of unknown class {unknown[0]!r}; the classes are {', '.join(names)}")
    spoken.update({name: tuple(value) for name, value in (aliases or {}).items()})
    prompts = tuple(spoken.get(name, (name,)) for name in names)
    if background_names is None:
        picture_book = [name_key(name) for name in names] == [name_key(name) for name in PICTURE_BOOK]
        default = PICTURE_BOOK_GROUNDS if picture_book else BACKGROUND_NAMES
        taken = {name_key(word) for group in (names, *prompts) for word in group}
        background_names = [name for name in default if name_key(name) not in taken]
    space = LabelSpace((void, *names), (tuple(background_names), *prompts))
    _check_prompts(space)
    return space


def is_class_file(classes: str) -> bool:
    """Whether a text is taken as the path of a class file, and not as names."""
    if "," in classes or classes in BUILT_IN:
        return False
    return classes.endswith(ENDINGS) or "/" in classes or _is_file(classes)


def _is_file(path: str) -> bool:
    # Path.is_file raises for what is too long to be one.
    return os.path.isfile(path)  # noqa: PTH113


def _read_classes(classes: str | Sequence[str]) -> tuple[list[str], dict[str, tuple[str, ...]], str]:
    if not isinstance(classes, str):
        return [str(c) for c in classes], {}, "background"
    if classes == "voc":
        return list(VOC), dict(VOC_ALIASES), "background"
    if classes == "coco":
        return list(COCO), {}, "void"
    if classes == "picture_book":
        return list(PICTURE_BOOK), {}, "background"
    if is_class_file(classes):
        return _read_file(classes), {}, "background"
    return _split(classes), {}, "background"


def _read_file(path: str) -> list[str]:
    if not _is_file(path):
        raise ValueError(f"classes: no file {path!r}; give a file, a comma list, voc, coco or picture_book")
    try:
        return class_lines(Path(path).read_text(encoding="utf-8-sig"), path)
    except UnicodeDecodeError:
        raise ValueError(f"classes: {path}: not UTF-8 text; save it as UTF-8") from None
    except ValueError as problem:
        raise ValueError(f"classes: {path}: {problem}") from None


def _check_order(names: Sequence[str]) -> None:
    late = next((i for i, name in enumerate(names) if i and no_class_name(name)), None)
    if late is not None:
        raise ValueError(
            f"classes: {names[late]!r} is name {late + 1} of the list, which makes it id {late}; id 0 is the "
            f"background: put it first, and give its pixels id 0 in the masks"
        )


def _check_prompts(space: LabelSpace) -> None:
    """Refuse two ids with the same prompt: neither could ever win over the other."""
    owner: dict[str, tuple[int, str]] = {}
    for class_id, prompt in space.names():
        other, text = owner.setdefault(name_key(prompt), (class_id, prompt))
        if other != class_id:
            raise ValueError(_same_prompt(space, (other, text), (class_id, prompt)))


def _same_prompt(space: LabelSpace, first: tuple[int, str], second: tuple[int, str]) -> str:
    ids = f"{space.classes[first[0]]!r} (id {first[0]}) and {space.classes[second[0]]!r} (id {second[0]})"
    prompts = f"{first[1]!r}" if first[1] == second[1] else f"{first[1]!r} and {second[1]!r}"
    key = "label.background_names" if first[0] == 0 else "label.aliases"
    return f"{key}: {ids} have the same prompt, {prompts}; CLIP cannot tell them apart: drop one"


_DIRECTION = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def hidden_characters(name: str) -> bool:
    """Whether a terminal obeys characters of a name instead of showing them: escapes, ends of lines."""
    return any(category(c) in ("Cc", "Cs", "Zl", "Zp") or c in _DIRECTION for c in name)


def _check(names: list[str]) -> None:
    if not names:
        raise ValueError("classes: no class name; give at least one")
    if "" in names:
        raise ValueError("classes: an empty name; give one name between commas or on a line")
    if hidden := next(filter(hidden_characters, names), None):
        raise ValueError(f"classes: {hidden!r} has control characters; allowed are those that can be seen")
    first: dict[str, str] = {}
    for name in names:
        other = first.get(name_key(name))
        if other is not None:
            same = "is listed twice" if other == name else f"and {other!r} are the same name"
            raise ValueError(f"classes: {name!r} {same}; each class once")
        first[name_key(name)] = name
    if len(names) > MAX_CLASSES:
        raise ValueError(f"classes: {len(names)} classes (allowed: at most {MAX_CLASSES} and background)")

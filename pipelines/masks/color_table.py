"""Tables that give the colours of masks per class: those of CVAT, VOC and Cityscapes, CSV and JSON."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segray.models.label_space import (
    VOC,
    LabelSpace,
    label_space,
    name_key,
    no_class_name,
)
from segray.pipelines.errors import UserError
from segray.pipelines.io.members import display_part
from segray.pipelines.io.sources import read_file
from segray.pipelines.understood import name_some

GRAY = "gray"
"""The table of masks whose three channels are the id."""

Rgb = tuple[int, int, int]

_READ = (
    "CVAT's labelmap.txt, lines `name: r,g,b` or `r g b name`, CSV with name, r, g, b, JSON of name, color"
)
_CVAT = re.compile(r"([^:]+):\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*(?::.*)?")
_NUMBERS_FIRST = re.compile(r"(\d+)[\s,]+(\d+)[\s,]+(\d+)[\s,]+(\D.*)")
_NUMBERS_LAST = re.compile(r"(?:\d+\s+)?(\D.*?)[\s,;]+(\d+)[\s,]+(\d+)[\s,]+(\d+)")
_HEX_LAST = re.compile(r"([^#:]+?)[\s,:;]+(#[0-9a-fA-F]{6})")
_LONGEST_LINE = 1000
_NAMES = ("name", "class", "label", "title", "class_name", "category", "readable")
_BAD = (
    *(OSError, csv.Error, ValueError, OverflowError),
    *(TypeError, KeyError, AttributeError, RecursionError),
)
_CHANNELS = (("r", "g", "b"), ("red", "green", "blue"))
_IGNORED = frozenset({"ignore", "ignored", "border", "boundary", "dont care", "don't care", "void"})

_CITYSCAPES = (
    *(("road", (128, 64, 128)), ("sidewalk", (244, 35, 232)), ("building", (70, 70, 70))),
    *(("wall", (102, 102, 156)), ("fence", (190, 153, 153)), ("pole", (153, 153, 153))),
    *(("traffic light", (250, 170, 30)), ("traffic sign", (220, 220, 0)), ("vegetation", (107, 142, 35))),
    *(("terrain", (152, 251, 152)), ("sky", (70, 130, 180)), ("person", (220, 20, 60))),
    *(("rider", (255, 0, 0)), ("car", (0, 0, 142)), ("truck", (0, 0, 70)), ("bus", (0, 60, 100))),
    *(("train", (0, 80, 100)), ("motorcycle", (0, 0, 230)), ("bicycle", (119, 11, 32))),
)
"""The 19 classes that Cityscapes evaluates, in the order of its train ids."""
_CITYSCAPES_IGNORED = (
    *((0, 0, 0), (111, 74, 0), (81, 0, 81), (250, 170, 160), (230, 150, 140), (180, 165, 180)),
    *((150, 100, 100), (150, 120, 90), (0, 0, 90), (0, 0, 110)),
)
"""Cityscapes' classes that are not evaluated: unlabelled, dynamic, ground, parking, rail track, guard rail,
bridge, tunnel, caravan, trailer."""


@dataclass(frozen=True)
class ColorTable:
    """Names and colours.

    Attributes:
        where: the file, or the name of a built-in table, for messages.
        names: one per colour.
        colors: red, green and blue, 0 to 255.
    """

    where: str
    names: tuple[str, ...]
    colors: tuple[Rgb, ...]

    def space(self) -> LabelSpace:
        """The label space of the table's own names, in its order; without a background name, id 0 is a class.

        Raises:
            ValueError: as `label_space`.
        """
        names = [name for name in dict.fromkeys(self.names) if not self._is_ignored(name)]
        space = label_space(names)
        if any(no_class_name(name) for name in names):
            return space
        return LabelSpace(space.classes[1:], space.aliases[1:])

    def bind(self, space: LabelSpace, key: str) -> BoundColors:
        """The class id of each colour, by name.

        Raises:
            UserError: a name that is not in the class list, or a colour of two classes.
        """
        ids = {name_key(name): i for i, name in enumerate(space.classes)}
        ignored = space.ignore_index
        background = 0 if no_class_name(space.classes[0]) else ignored
        bound: dict[Rgb, int] = {}
        for name, color in zip(self.names, self.colors, strict=True):
            class_id = ignored if self._is_ignored(name) else ids.get(name_key(name))
            if class_id is None and no_class_name(name):
                class_id = background
            if class_id is None:
                raise UserError(
                    f"{key}={self.where}: its class {name!r} is not in the class list "
                    f"({name_some(space.classes, 5)}); the names of both must be the same"
                )
            if bound.setdefault(color, class_id) != class_id:
                raise UserError(
                    f"{key}={self.where}: the colour {color} stands for two classes, one is {name!r}"
                )
        return BoundColors.of(self.where, bound)

    def _is_ignored(self, name: str) -> bool:
        """Whether a name means "count for nothing"; "void" does beside a background."""
        word = name_key(name).strip()
        if word == "void":
            return any(no_class_name(other) == "background" for other in self.names)
        return word in _IGNORED


@dataclass(frozen=True, eq=False)
class BoundColors:
    """The class id of each colour.

    Attributes:
        where: the table, for messages.
        codes: 65536 r + 256 g + b of each colour, ascending, int64 [N]; empty with `by_value`.
        class_ids: uint16 [N].
        by_value: whether the channels are equal and are the id.
    """

    where: str
    codes: NDArray[np.int64]
    class_ids: NDArray[np.uint16]
    by_value: bool = False

    @classmethod
    def of(cls, where: str, ids: Mapping[Rgb, int]) -> BoundColors:
        """From colours and their ids."""
        pairs = sorted((r << 16 | g << 8 | b, class_id) for (r, g, b), class_id in ids.items())
        return cls(
            where, np.array([c for c, _ in pairs], np.int64), np.array([i for _, i in pairs], np.uint16)
        )

    def ids(self, rgba: NDArray[np.uint8], key: str) -> NDArray[np.uint16]:
        """The ids of a mask, uint16 [H, W]; where it is transparent, id 0.

        Args:
            rgba: [H, W, 4].
            key: of the table, for messages.

        Raises:
            ValueError: colours that the table does not have: how many, the most frequent one and where.
        """
        channels = rgba.astype(np.int64)
        codes = channels[..., 0] << 16 | channels[..., 1] << 8 | channels[..., 2]
        if self.by_value:
            unknown = (rgba[..., :3] != rgba[..., :1]).any(-1)
            ids = rgba[..., 0].astype(np.uint16)
        else:
            place = np.searchsorted(self.codes, codes).clip(max=len(self.codes) - 1)
            unknown = self.codes[place] != codes
            ids = self.class_ids[place]
        clear = rgba[..., 3] == 0
        unknown &= ~clear
        if unknown.any():
            raise ValueError(self._unknown(codes, unknown, key))
        return np.where(clear, np.uint16(0), ids)

    def _unknown(self, codes: NDArray[np.int64], unknown: NDArray[np.bool_], key: str) -> str:
        kinds, first, counts = np.unique(codes[unknown], return_index=True, return_counts=True)
        most = int(counts.argmax())
        y, x = np.argwhere(unknown)[first[most]]
        code = int(kinds[most])
        color = (code >> 16, code >> 8 & 255, code & 255)
        share = 100 * unknown.sum() / unknown.size
        many = f"{len(kinds)} colours that are" if len(kinds) > 1 else "a colour that is"
        return (
            f"holds {many} not in {key}={self.where}, such as {color} (first at x={x}, y={y}), "
            f"on {share:.2g} % of the pixels; add their classes, or save masks without smoothed edges"
        )


def open_color_table(spec: str, key: str, name: str = "") -> ColorTable:
    """A table by its name (`voc`, `cityscapes`, `gray`) or its file.

    Args:
        spec: name or file.
        key: the configuration key, for messages.
        name: of the file, where `spec` is a part of an archive.

    Raises:
        UserError: no such file, or no colours in it in a form that is known.
    """
    if spec == GRAY:
        return ColorTable(GRAY, (), ())
    if spec == "voc":
        palette = label_space("voc").palette()[: len(VOC) + 1].tolist()
        return _table(
            spec, [*zip(("background", *VOC), palette, strict=True), ("ignore", (224, 224, 192))], key
        )
    if spec == "cityscapes":
        return _table(spec, [*_CITYSCAPES, *(("ignore", color) for color in _CITYSCAPES_IGNORED)], key)
    where = display_part(spec, name)
    try:
        text = read_file(spec, 1 << 22).decode("utf-8-sig")
        return _table(where, _read(text, name or spec), key)
    except FileNotFoundError:
        raise UserError(
            f"{key}: no file {where!r}; give a table of colours, voc, cityscapes or {GRAY}"
        ) from None
    except _BAD as error:
        why = str(error) if isinstance(error, ValueError) and not isinstance(error, UnicodeError) else ""
        raise UserError(f"{key}={where}: {why or 'no table of colours'}; read are {_READ}") from None


def _table(where: str, rows: Iterable[tuple[str, Sequence[int]]], key: str) -> ColorTable:
    pairs = [(name.strip(), tuple(map(int, color))) for name, color in rows]
    bad = next((c for _, c in pairs if len(c) != 3 or not all(0 <= v <= 255 for v in c)), None)
    if bad is not None:
        raise UserError(f"{key}={where}: {bad} is not a colour (allowed: three numbers of 0 to 255)")
    if not pairs:
        raise UserError(f"{key}={where}: no colour in it; read are {_READ}")
    return ColorTable(where, tuple(n for n, _ in pairs), tuple((c[0], c[1], c[2]) for _, c in pairs))


def _read(text: str, name: str) -> list[tuple[str, Sequence[int]]]:
    ending = name.lower().rpartition(".")[2]
    if ending == "json":
        return _read_json(json.loads(text))
    if ending == "csv":
        return _read_csv(text)
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return [_read_line(line) for line in lines]


def _read_line(line: str) -> tuple[str, Sequence[int]]:
    # The patterns try every split of a line without a colour.
    if len(line) > _LONGEST_LINE:
        raise ValueError(f"a line of {len(line)} characters (allowed: at most {_LONGEST_LINE})")
    if match := _CVAT.fullmatch(line):
        return match[1], [int(v) for v in match.groups()[1:]]
    if match := _NUMBERS_FIRST.fullmatch(line):
        return match[4], [int(v) for v in match.groups()[:3]]
    if match := _HEX_LAST.fullmatch(line):
        return match[1], _hex(match[2])
    if match := _NUMBERS_LAST.fullmatch(line):
        return match[1], [int(v) for v in match.groups()[1:]]
    raise ValueError(f"line {line[:60]!r} has no name and colour")


def _read_csv(text: str) -> list[tuple[str, Sequence[int]]]:
    rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines()) if any(row)]
    head = [cell.lower() for cell in rows[0]] if rows else []
    names = next((head.index(column) for column in _NAMES if column in head), None)
    channels = next((c for c in _CHANNELS if set(c) <= set(head)), None)
    if names is None or channels is None:
        return [_read_line(",".join(row)) for row in rows]
    places = [head.index(channel) for channel in channels]
    return [(row[names], [int(row[place]) for place in places]) for row in rows[1:]]


def _read_json(content: object) -> list[tuple[str, Sequence[int]]]:
    """Records with a name and a colour (CVAT, Mapillary, Supervisely), or a mapping of the two."""
    for key in ("labels", "classes", "categories"):
        if isinstance(content, Mapping) and isinstance(content.get(key), list):
            content = content[key]
    if isinstance(content, Mapping):
        return [(str(name), _color(color)) for name, color in content.items()]
    if not isinstance(content, list):
        raise ValueError("no list of names and colours")
    return [(str(next(r[n] for n in _NAMES if n in r)), _color(r["color"])) for r in content]


def _color(value: object) -> Sequence[int]:
    return _hex(value) if isinstance(value, str) else [int(v) for v in value]  # type: ignore[attr-defined]


def _hex(text: str) -> Sequence[int]:
    if not re.fullmatch("#[0-9a-fA-F]{6}", text):
        raise ValueError(f"{text[:20]!r} is not a colour such as #ff8000")
    return bytes.fromhex(text[1:])

"""YOLO's label files: a line for each object, its class and the corners of a polygon."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

from segray.models.class_files import names_by_id
from segray.models.plain_yaml import MAX_BYTES as YAML_BYTES
from segray.models.plain_yaml import read_plain_yaml
from segray.pipelines.errors import UserError
from segray.pipelines.io.members import display_part
from segray.pipelines.io.sources import read_file
from segray.pipelines.io.sources.trees import Tree
from segray.pipelines.training.data.coco_masks import check_count
from segray.pipelines.training.data.labelled_outlines import Outline

FILE = "data.yaml"
_LISTS = ("classes.txt", "obj.names")
"""What programs write that have no data.yaml: a name per line."""
_MAX_BYTES = 1 << 23
"""Of a label file; each corner takes about 20."""

_SHOWN = 3
"""Problems of lines that a message lists; the others are counted."""
_SLACK = 1e-3
"""Programs round; what is outside of the image is not drawn."""


def description_of(tree: Tree) -> str | None:
    """The file of class names in a folder of label files; None if it is none."""
    names = set(tree.names(""))
    if FILE in names:
        return FILE
    found = next((name for name in _LISTS if name in names), None) if "labels" in names else None
    masks = found and any(name.lower().endswith(".png") for name in tree.names("labels"))
    return None if masks else found


def named_description(tree: Tree) -> str:
    """The file of class names in what is known to be YOLO's."""
    return next((name for name in (FILE, *_LISTS) if tree.exists(name)), FILE)


def read_description(where: str, name: str) -> tuple[Mapping[str, Any], dict[int, str]]:
    """What data.yaml says, and the class names by their numbers in label files.

    Args:
        where: its URI, or that of a list of names.
        name: of the file.

    Raises:
        UserError: it cannot be read, or has no names.
    """
    try:
        data = read_file(where, YAML_BYTES)
        if name.endswith(_LISTS):
            return {}, _listed(data.decode("utf-8-sig"))
        content = read_plain_yaml(data)
        return content if isinstance(content, Mapping) else {}, dict(sorted(names_by_id(content).items()))
    except (OSError, ValueError) as error:
        raise UserError(f"{display_part(where, name)}: {error}") from None


def _listed(text: str) -> dict[int, str]:
    """Names by the numbers of their lines, from 0, whatever they look like."""
    names = {number: name for number, line in enumerate(text.splitlines()) if (name := line.strip())}
    if not names:
        raise ValueError("it holds no class name; allowed: one per line, the first is class 0")
    return names


def read_label_file(where: str, shown: str) -> str:
    """The content of a label file.

    Args:
        where: its URI.
        shown: its name, for messages.

    Raises:
        UserError: it is no text, too long, or cannot be read.
    """
    try:
        return read_file(where, _MAX_BYTES).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{shown}: no label file of YOLO ({error})") from None


class BadLines:
    """Lines of label files that are no polygons."""

    def __init__(self) -> None:
        self._lines = 0
        self._files: set[str] = set()
        self._first: dict[str, str] = {}
        self._more = Counter[str]()

    def add(self, where: str, number: int, problem: str) -> None:
        """Note a line."""
        self._lines += 1
        self._files.add(where)
        if problem in self._first:
            self._more[problem] += 1
        elif len(self._first) < _SHOWN:
            self._first[problem] = f"{where}, line {number}"

    def refuse(self) -> None:
        """Raise all of them as one error; do nothing without any.

        Raises:
            UserError: one line: the first few problems with an example, and how many lines there are.
        """
        if not self._lines:
            return
        texts = [
            f"{place}: {problem}{f' ({more} more such lines)' if (more := self._more[problem]) else ''}"
            for problem, place in self._first.items()
        ]
        several = f"; {self._lines} bad lines in {len(self._files)} files" if self._lines > 1 else ""
        raise UserError(f"{'; '.join(texts)}{several}")


@dataclass(frozen=True)
class Polygon:
    """An object of a label file.

    Attributes:
        name: of its class.
        shares: x and y of each corner, as shares of the image's width and height.
    """

    name: str
    shares: Sequence[float]

    def outline(self, size: tuple[int, int]) -> Outline:
        """It in an image of (height, width) pixels."""
        sides = cycle(reversed(size))
        return Outline(self.name, [[share * side for share, side in zip(self.shares, sides, strict=False)]])


def read_polygons(text: str, names: Mapping[int, str], where: str, bad: BadLines) -> tuple[Polygon, ...]:
    """The objects of a label file.

    Args:
        text: its content.
        names: of the classes, by their numbers.
        where: the file, for messages.
        bad: is filled with the lines that are no polygons.

    Raises:
        UserError: too many objects for any image.
    """
    lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    try:
        check_count(len(lines), 1, 1)
    except ValueError as problem:
        raise UserError(f"{where}{problem}") from None
    polygons: list[Polygon] = []
    for number, line in lines:
        try:
            polygons.append(_polygon(line.split(), names))
        except ValueError as problem:
            bad.add(where, number, str(problem))
    return tuple(polygons)


def _polygon(fields: Sequence[str], names: Mapping[int, str]) -> Polygon:
    try:
        class_id, *shares = map(float, fields)
    except ValueError:
        raise ValueError("not numbers alone; allowed: a class, then x and y of each corner") from None
    if len(shares) == 4:
        raise ValueError("a box; boxes are no masks: export polygons, as YOLO's segmentation tasks have them")
    if len(shares) < 6 or len(shares) % 2:
        raise ValueError(f"{len(fields)} numbers; allowed: a class, then x and y of three corners or more")
    if class_id not in names:
        raise ValueError(f"class {class_id:g} has no name; there are {len(names)} names")
    outside = next((share for share in shares if not -_SLACK <= share <= 1 + _SLACK), None)
    if outside is not None:
        raise ValueError(f"a coordinate of {outside:g}; allowed: shares of the image's sides, 0 to 1")
    return Polygon(names[int(class_id)], shares)

"""The classes of a training set: given by configuration, or its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from segray.models.label_space import IGNORE_INDEX, LabelSpace, label_space
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage

FILE = "class_names.txt"
_NO_CLASS = {"background": "background", "_background_": "background", "void": "void"}


def given_space(classes: str | Sequence[str]) -> LabelSpace:
    """The label space of `data.classes`, as in annotate: id 0 is "background" or "void".

    Raises:
        UserError: no class, one twice, or more than 254.
    """
    try:
        return label_space(classes)
    except ValueError as problem:
        raise UserError(f"data.{problem}") from None


def own_space(root: str) -> LabelSpace | None:
    """The label space of the file class_names.txt in a data set; None without one.

    Its first line is id 0, be that the background or a class like all others.

    Raises:
        UserError: the file is empty, or has a name twice.
    """
    where = storage.join(root, FILE)
    try:
        text = storage.read_bytes(where).decode("utf-8-sig")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise UserError(f"{storage.display(where)}: not UTF-8 text ({error.reason})") from None
    names = [line.partition(":")[0].strip() for line in text.splitlines() if line.strip()]
    try:
        if names and names[0].lower() in _NO_CLASS:
            return label_space([_NO_CLASS[names[0].lower()], *names[1:]])
        # Checked by it, but its background is not wanted: id 0 is a class.
        space = label_space(names)
    except ValueError as problem:
        raise UserError(f"{storage.display(where)}: {problem}") from None
    return LabelSpace(space.classes[1:], space.aliases[1:])


def has_no_class(classes: Sequence[str]) -> bool:
    """Whether id 0 stands for "no class"."""
    return classes[0].lower() in _NO_CLASS


def translation(stored: Sequence[str], classes: Sequence[str], ignore: int, where: str) -> NDArray[np.uint8]:
    """What each id of a label set is in the data set: uint8 [256].

    Where every pixel of the data set has a class, the label set's "no class" says nothing: 255.

    Args:
        stored: the label set's classes.
        classes: the data set's.
        ignore: the label set's ignore index.
        where: the label set, for the message.

    Raises:
        UserError: the classes differ; one line with the difference.
    """
    shift = 1 if has_no_class(stored) and not has_no_class(classes) else 0
    names = list(stored[shift:])
    wanted = list(classes)
    if has_no_class(names) and has_no_class(wanted):
        names[0] = wanted[0]
    if names != wanted:
        raise UserError(f"data.labels={where}: {_difference(names, wanted)}; give data.classes, or relabel")
    table = np.full(256, IGNORE_INDEX, np.uint8)
    table[shift : len(stored)] = np.arange(len(wanted))
    table[ignore] = IGNORE_INDEX
    return table


def _difference(stored: list[str], wanted: list[str]) -> str:
    for index, (own, other) in enumerate(zip(wanted, stored, strict=False)):
        if own != other:
            return f"class {index} is {other!r} in the label set and {own!r} in the data"
    return f"the label set has {len(stored)} classes, the data {len(wanted)}"

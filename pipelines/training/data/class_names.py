"""The classes of a training set: from the configuration, or from the data set itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from segray.models.class_files import class_lines
from segray.models.label_map import LabelMap, label_dtype
from segray.models.label_space import IGNORE_INDEX, LabelSpace, ignore_index_of, label_space, no_class_name
from segray.pipelines.config.commands.train import DataConfig
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.members import display_part, parse_member
from segray.pipelines.io.sources import read_file, sources_of
from segray.pipelines.io.sources.kinds import folder_of, is_wild
from segray.pipelines.io.sources.trees import Tree
from segray.pipelines.io.uris import parent
from segray.pipelines.masks.options import MaskOptions

FILE = "class_names.txt"


def configured_space(classes: str | Sequence[str]) -> LabelSpace:
    """The label space of `data.classes`, as in annotate: id 0 is "background" or "void".

    Raises:
        UserError: no class, one twice, too many, or a background that is not the first.
    """
    try:
        return label_space(classes, in_order=True)
    except ValueError as problem:
        raise UserError(f"data.{problem}") from None


def dataset_space(tree: Tree, ignore_index: int = IGNORE_INDEX) -> LabelSpace | None:
    """The label space of the file class_names.txt in a data set, or beside archives and tables; else None.

    Its first line is id 0, which may be the background or a class like all others. A last line such as "void"
    whose id is the ignore index is no class.

    Args:
        tree: the data set.
        ignore_index: the id of mask pixels that are ignored.

    Raises:
        UserError: the file is empty, has a name twice, or a background that is not the first.
    """
    where, text = _class_file(tree)
    if text is None:
        return None
    try:
        names = [line.partition(":")[0].strip() for line in class_lines(text, FILE)]
        if names and len(names) == ignore_index + 1 and no_class_name(names[-1]):
            names.pop()
        space = label_space(names, in_order=True)
        if names and no_class_name(names[0]):
            return space
        # A background was added that this data set does not have: its id 0 is a class.
    except ValueError as problem:
        raise UserError(f"{where}: {problem}") from None
    return LabelSpace(space.classes[1:], space.aliases[1:])


def _class_file(tree: Tree) -> tuple[str, str | None]:
    """The file for messages, and its text; None without one."""
    files = [tree.uri(FILE)] if tree.exists(FILE) else _beside(tree) if tree.packed else []
    where = next((file for file in files if parse_member(file) or storage.exists(file)), "")
    shown = display_part(where, FILE)
    try:
        return shown, read_file(where).decode("utf-8-sig") if where else None
    except UnicodeDecodeError as error:
        raise UserError(f"{shown}: not UTF-8 text ({error.reason})") from None


def _beside(tree: Tree) -> list[str]:
    """Where the class file of archives and tables may be: beside them, or above a folder "data"."""
    folders = []
    for source in sources_of(tree.root):
        folder = folder_of(source) if is_wild(source) else parent(source)
        folders += [folder, *([parent(folder)] if folder.rpartition("/")[2] == "data" else [])]
    return [storage.join(folder, FILE) for folder in dict.fromkeys(folders)]


def mask_options(config: DataConfig) -> MaskOptions:
    """How the masks of a training run are read.

    Raises:
        UserError: as `MaskOptions.of`.
    """
    return MaskOptions.of_keys(config, config.image, "data.")


def has_background(classes: Sequence[str]) -> bool:
    """Whether id 0 is the background, which means "no class", and not a class like all others."""
    return no_class_name(classes[0]) is not None


def class_id_table(stored: Sequence[str], classes: Sequence[str], ignore: int, where: str) -> LabelMap:
    """The data set's class id for each class id of a label set: uint8 [256], or uint16 [65536].

    If every pixel of the data set has a class, the label set's background becomes `ignore_index_of`, unknown.

    Args:
        stored: the label set's classes.
        classes: the data set's.
        ignore: the label set's ignore index.
        where: the label set, for the message.

    Raises:
        UserError: the classes differ; the message is one line with the difference.
    """
    shift = 1 if has_background(stored) and not has_background(classes) else 0
    names = list(stored[shift:])
    expected = list(classes)
    if has_background(names) and has_background(expected):
        names[0] = expected[0]
    if names != expected:
        raise UserError(f"data.labels={where}: {_difference(names, expected)}; set data.classes, or relabel")
    unknown = ignore_index_of(len(expected))
    table = np.full(np.iinfo(label_dtype(ignore)).max + 1, unknown, label_dtype(unknown))
    table[shift : len(stored)] = np.arange(len(expected))
    table[ignore] = unknown
    return table


def _difference(stored: list[str], expected: list[str]) -> str:
    for index, (in_data, in_labels) in enumerate(zip(expected, stored, strict=False)):
        if in_data != in_labels:
            return f"class {index} is {in_labels!r} in the label set and {in_data!r} in the data"
    return f"the label set has {len(stored)} classes, the data {len(expected)}"

"""From the ids of a label set to those of an export: classes renamed, merged and left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segray.models.label_map import LabelMap, label_dtype
from segray.models.label_space import (
    IGNORE_INDEX,
    WIDE_IGNORE_INDEX,
    LabelSpace,
    hidden_characters,
    ignore_index_of,
    name_key,
    no_class_name,
)
from segray.pipelines.errors import UserError
from segray.pipelines.label_set.schema import pixel_counts, stored_palette
from segray.pipelines.understood import name_some

_IGNORED = -1


@dataclass(frozen=True)
class ClassMap:
    """How ids change.

    Attributes:
        names: of the new ids; id 0 is the background.
        palette: uint8 [256 or more, 3], colours of the new ids.
        table: the new id of each old one, uint8 [256], or uint16 or [65536] of more than 254 classes.
        known: bool of the same length, the ids that the label set's maps may have.
        old_ignore: the label set's id of ignored pixels.
    """

    names: tuple[str, ...]
    palette: NDArray[np.uint8]
    table: LabelMap
    known: NDArray[np.bool_]
    old_ignore: int

    def apply(self, label: LabelMap, unsure: NDArray[np.bool_]) -> LabelMap:
        """The label map of the export, [H, W].

        Args:
            label: of the label set.
            unsure: bool [H, W], pixels to ignore.

        Raises:
            ValueError: an id that the label set has no class for.
        """
        strange = np.flatnonzero((pixel_counts(label) > 0) & ~self.known)
        if strange.size:
            raise ValueError(f"its label has id {strange[0]}, which is not a class")
        mapped: LabelMap = self.table[label]
        mapped[unsure] = ignore_index_of(len(self.names))
        return mapped


def class_map(provenance: Mapping[str, Any], renamed: Mapping[str, str | None]) -> ClassMap:
    """The map of a label set's classes.

    Args:
        provenance: of the label set.
        renamed: new names by old ones; equal new names are merged, names such as "background" make id 0,
            None makes ignored pixels. Other classes keep their names, and ids are in the old order.

    Raises:
        UserError: an unknown class, or new names that are no names or differ by case alone.
    """
    old = [str(name) for name in provenance["classes"]]
    _check_known(old, renamed)
    names, ids, first = [old[0]], [0], [0]
    known_names: dict[str, int] = {}
    for i, name in enumerate(old[1:], 1):
        new = renamed.get(name, name)
        if new is None or (name in renamed and no_class_name(new)):
            ids.append(_IGNORED if new is None else 0)
            continue
        if new not in known_names:
            known_names[new] = len(names)
            names.append(new)
            first.append(i)
        ids.append(known_names[new])
    _check_names(names)
    old_ignore = int(provenance.get("ignore_index", ignore_index_of(len(old))))
    return _assembled(names, ids, stored_palette(provenance)[first], old_ignore)


def _assembled(
    names: Sequence[str], ids: Sequence[int], colours: NDArray[np.uint8], old_ignore: int
) -> ClassMap:
    ignore = ignore_index_of(len(names))
    length = 1 + (WIDE_IGNORE_INDEX if old_ignore > IGNORE_INDEX else IGNORE_INDEX)
    table = np.full(length, ignore, label_dtype(ignore))
    table[: len(ids)] = [ignore if i == _IGNORED else i for i in ids]
    known = np.arange(length) < len(ids)
    known[old_ignore], table[old_ignore] = True, ignore
    palette = LabelSpace(tuple(names), ()).palette()
    palette[: len(colours)] = colours
    return ClassMap(tuple(names), palette, table, known, old_ignore)


def _check_known(old: Sequence[str], renamed: Mapping[str, str | None]) -> None:
    for name in renamed:
        if name == old[0]:
            raise UserError(f"classes.{name}: id 0 stays the background")
        if name not in old:
            near = get_close_matches(name, old[1:], n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UserError(f"classes.{name}: no class of the label set{hint} (it has {name_some(old[1:])})")


def _check_names(names: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    for name in names[1:]:
        if not name.strip() or hidden_characters(name):
            raise UserError(f"classes: {name!r} is not a name (allowed: characters that can be seen)")
        if (other := seen.setdefault(name_key(name), name)) != name:
            raise UserError(f"classes: {other!r} and {name!r} are the same name; write it the same to merge")

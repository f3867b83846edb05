"""From the ids of a label set to those of an export: classes renamed, merged and left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segray.models.label_map import LabelMap
from segray.models.label_space import IGNORE_INDEX, hidden_characters, name_key, no_class_name
from segray.pipelines.errors import UserError
from segray.pipelines.label_set.schema import pixel_counts, stored_palette
from segray.pipelines.understood import name_some


@dataclass(frozen=True)
class ClassMap:
    """How ids change.

    Attributes:
        names: of the new ids; id 0 is the background.
        palette: uint8 [256, 3], colours of the new ids.
        table: uint8 [256], the new id of each old one; 255 for ignored pixels.
        known: bool [256], the ids that the label set's maps may have.
    """

    names: tuple[str, ...]
    palette: NDArray[np.uint8]
    table: NDArray[np.uint8]
    known: NDArray[np.bool_]

    def apply(self, label: LabelMap, unsure: NDArray[np.bool_]) -> LabelMap:
        """The label map of the export, uint8 [H, W].

        Args:
            label: of the label set.
            unsure: bool [H, W], pixels to ignore.

        Raises:
            ValueError: an id that the label set has no class for.
        """
        strange = np.flatnonzero((pixel_counts(label) > 0) & ~self.known)
        if strange.size:
            raise ValueError(f"its label has id {strange[0]}, which is no class")
        mapped: LabelMap = self.table[label]
        mapped[unsure] = IGNORE_INDEX
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
    names, table = [old[0]], np.full(256, IGNORE_INDEX, np.uint8)
    table[0] = 0
    first = [0]
    for i, name in enumerate(old[1:], 1):
        new = renamed.get(name, name)
        if new is None:
            continue
        if name in renamed and no_class_name(new):
            table[i] = 0
            continue
        if new not in names[1:]:
            names.append(new)
            first.append(i)
        table[i] = names.index(new, 1)
    _check_names(names)
    colours = stored_palette(provenance)
    palette = np.concatenate([colours[first], colours[len(first) :]])
    known = np.arange(256) < len(old)
    ignore = int(provenance.get("ignore_index", IGNORE_INDEX))
    known[ignore], table[ignore] = True, IGNORE_INDEX
    return ClassMap(tuple(names), palette, table, known)


def _check_known(old: Sequence[str], renamed: Mapping[str, str | None]) -> None:
    for name in renamed:
        if name == old[0]:
            raise UserError(f"classes.{name}: id 0 stays the background")
        if name not in old:
            near = get_close_matches(name, old[1:], n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UserError(f"classes.{name}: no class of the label set{hint} (it has {name_some(old[1:])})")


def _check_names(names: Sequence[str]) -> None:
    if len(names) > IGNORE_INDEX:
        raise UserError(f"classes: {len(names)} classes; ids reach 254, for 255 is ignored")
    seen: dict[str, str] = {}
    for name in names[1:]:
        if not name.strip() or hidden_characters(name):
            raise UserError(f"classes: {name!r} is no name (allowed: characters that can be seen)")
        if (other := seen.setdefault(name_key(name), name)) != name:
            raise UserError(f"classes: {other!r} and {name!r} are the same name; write it the same to merge")

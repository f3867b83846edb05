"""Masks whose values are no class ids: 0 and 255, a background of 255, ids from 1, greys."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from segray.models.label_map import LabelMap
from segray.models.label_space import IGNORE_INDEX, WIDE_IGNORE_INDEX, ignore_index_of, no_class_name
from segray.pipelines.errors import UserError
from segray.pipelines.label_set.schema import pixel_counts
from segray.pipelines.understood import name_some

FROM_1 = "its ids seem to begin with 1"
"""Part of the message about a mask with ids from 1."""
OBJECT = 255
"""What such masks hold where the object is; elsewhere segray reads it as "ignored"."""
_SURROUNDINGS = 0.25
"""Share of ignored pixels from which they may be the background; outlines and "unclear" take less."""

_SHIFTED = 0.8
"""Share of the pixels whose ids are all moved by one, from which it is no accident."""


def with_object_as_class(mask: LabelMap) -> LabelMap:
    """A mask of 8 bits with 255 as class 1."""
    return np.where(mask == OBJECT, np.uint8(1), mask).astype(np.uint8)


def look_binary(pixels: NDArray[np.int64]) -> bool:
    """Whether counts of ids, the last one that of 255, have both 0 and 255 and nothing between."""
    return bool(pixels[0] and pixels[-1] and not pixels[1:-1].any())


def all_look_binary(masks: Iterable[NDArray[np.unsignedinteger]]) -> bool:
    """`look_binary` over all masks; stops at the first one that holds another id."""
    total = np.zeros(256, np.int64)
    for mask in masks:
        if mask.dtype != np.uint8:
            return False
        total += pixel_counts(mask.astype(np.uint8, copy=False))
        if total[1:OBJECT].any():
            return False
    return look_binary(total)


def refuse_binary(where: str, key: str, classes: tuple[str, ...] | None) -> None:
    """Stop, because nothing but the user can tell what 255 means.

    Args:
        where: the masks, for the message.
        key: the configuration key that settles it.
        classes: names of the ids; None without names.

    Raises:
        UserError: always.
    """
    name = f" ({classes[1]})" if classes and len(classes) > 1 else ""
    raise UserError(
        f"{where}: these look like binary masks: object = 255 (they hold 0 and 255 and no id between); "
        f"{key}=true reads 255 as class 1{name}, {key}=false ignores these pixels"
    )


def void_is_background(pixels: NDArray[np.int64], classes: tuple[str, ...]) -> bool:
    """Whether masks with a background class have none of it, other classes, and many ignored pixels.

    Args:
        pixels: by class, with the ignored ones at the end, int64 [N + 1].
        classes: names of the ids.
    """
    many = pixels[-1] >= _SURROUNDINGS * pixels.sum()
    return bool(no_class_name(classes[0]) and not pixels[0] and pixels[1:-1].any() and many)


def refuse_void(where: str, classes: tuple[str, ...], share: float, colors_key: str, void_key: str) -> None:
    """Stop, because the ignored pixels may be the background.

    Args:
        where: the masks, for the message.
        classes: names of the ids.
        share: of the ignored pixels.
        colors_key: the configuration key that reads them as the background.
        void_key: the one that ignores them.

    Raises:
        UserError: always.
    """
    void = ignore_index_of(len(classes))
    colors = (
        f"{colors_key}=FILE reads it so, with a line for each class as in {classes[0]}: 255,255,255 and "
        f"{classes[1]}: 1,1,1; "
    )
    raise UserError(
        f"{where}: no pixel has id 0 ({classes[0]}), and {100 * share:.0f} % have {void}, which is ignored: "
        # No colour has 16 bits.
        f"these look like masks whose background is {void}; {colors * (void == OBJECT)}"
        f"{void_key}={void} ignores it"
    )


def check_two_classes(classes: tuple[str, ...] | None, key: str) -> None:
    """Refuse to read masks as binary where the classes are not a background and one object.

    Raises:
        UserError: there are more or fewer than two classes.
    """
    if classes is not None and len(classes) != 2:
        raise UserError(
            f"{key}=true: masks of 0 and {OBJECT} have two classes, the background and the object; "
            f"the class list has {len(classes)}: {name_some(classes, 5)}"
        )


def narrowed(mask: LabelMap) -> LabelMap:
    """A mask of 16 bits that holds 0 and 65535 alone as one of 0 and 255."""
    if mask.dtype == np.uint8 or not np.isin(mask, (0, WIDE_IGNORE_INDEX)).all():
        return mask
    return (mask > 0).astype(np.uint8) * np.uint8(OBJECT)


def shift_hint(mask: NDArray[np.unsignedinteger], n_classes: int, colors_key: str) -> str:
    """The end of a message about an id out of range, where ids begin with 1; else nothing."""
    if mask.min() < 1 or not (mask == n_classes).any():
        return ""
    return (
        f"; {FROM_1}: line 1 of the class list is id 0, put a line before it; where it is "
        f"the background already, {colors_key}=FILE reads ids as colours, with lines as in background: 1,1,1"
    )


def no_zero_text(name: str, colors_key: str) -> str:
    """A line for masks none of which has id 0: that may be, or all ids are one too high.

    Args:
        name: of id 0.
        colors_key: the configuration key that reads such ids.
    """
    remedy = f"{colors_key}=FILE reads them, with a line for each class as in {name}: 1,1,1"
    return f"no mask has id 0 ({name}); if the ids of the masks begin with 1, {remedy}"


def shifted_ids(confusion: NDArray[np.int64]) -> list[int]:
    """The ids of masks by which all of them are one higher, or one lower, than those of the labels.

    Classes of most pixels are somewhere else in the labels, two or more of them, and all by one: labels that
    are just bad, or of one class alone, are not.

    Args:
        confusion: rows truth, columns labels, [C + 1, C + 1].
    """
    pixels = confusion.sum(1)
    best = confusion.argmax(1)
    # The last column is of pixels without a label.
    best = np.where((pixels > 0) & (best < len(pixels) - 1), best, -2)
    ids = np.arange(len(pixels))
    for shift in (1, -1):
        shifted = np.flatnonzero(best == ids - shift)
        if len(shifted) > 1 and pixels[shifted].sum() >= _SHIFTED * pixels.sum():
            return [int(i) for i in shifted]
    return []


def refuse_shift(
    where: str, classes: tuple[str, ...], confusion: NDArray[np.int64], colors_key: str, void_key: str
) -> None:
    """Stop where the ids of all masks differ by one from those of the labels.

    Args:
        where: the masks, for the message.
        classes: names of the ids.
        confusion: see `shifted_ids`.
        colors_key: the configuration key that reads such ids.
        void_key: the one that takes them as they are.

    Raises:
        UserError: with both keys.
    """
    ids = shifted_ids(confusion)
    if not ids:
        return
    shift = ids[0] - int(confusion[ids[0]].argmax())
    pairs = [f"{classes[i]} (id {i}) is {classes[i - shift]} (id {i - shift})" for i in ids[:2]]
    known = [i for i in range(len(classes)) if i + shift >= 0][:2]
    lines = " and ".join(f"{classes[i]}: {','.join(3 * [str(i + shift)])}" for i in known)
    than = "higher" if shift > 0 else "lower"
    raise UserError(
        f"{where}: the ids of the masks are one {than} than those of the labels: "
        f"most of {', most of '.join(pairs)} there; {colors_key}=FILE reads such ids, with a line for each "
        f"class as in {lines}, and ignore: 255,255,255 for ignored pixels; "
        f"{void_key}={ignore_index_of(len(classes))} takes them as they are"
    )


def binary_hint(mask: NDArray[np.unsignedinteger], ignore_index: int, key: str) -> str:
    """The end of a message about an id out of range, where the mask looks binary; else nothing."""
    hint = ignore_index != IGNORE_INDEX and look_binary(pixel_counts(mask.astype(np.uint8, copy=False)))
    return f"; this looks like a binary mask: object = 255; {key}=true reads it as one" if hint else ""


def gray_hint(mask: NDArray[np.unsignedinteger], n_classes: int, key: str) -> str:
    """The end of a message about an id out of range, where greys may stand for classes; else nothing."""
    values = np.unique(mask)
    if mask.dtype != np.uint8 or len(values[values >= n_classes]) < 2 - (n_classes == 2):
        return ""
    if n_classes != 2 or len(values) != 2 or values[0]:
        greys = ", ".join(map(str, values[:6].tolist())) + ", ..." * (len(values) > 6)
        return f"; if the greys {greys} stand for classes, {key}=FILE reads them: lines as NAME: 200,200,200"
    grey = int(values[1])
    return (
        f"; this looks like a binary mask: object = {grey}; {key}=FILE reads it, with a line for each class "
        f"as in NAME: {grey},{grey},{grey}"
    )

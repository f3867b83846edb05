"""How the masks of a command are read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from segray.models.label_map import LabelMap, label_dtype
from segray.models.label_space import IGNORE_INDEX, WIDE_IGNORE_INDEX, LabelSpace, ignore_index_of
from segray.pipelines.config.shared import LinksConfig
from segray.pipelines.errors import UserError
from segray.pipelines.io.images import ImageProblem
from segray.pipelines.io.listing import reason
from segray.pipelines.io.sources import read_allowed, read_file
from segray.pipelines.masks.binary import (
    binary_hint,
    check_two_classes,
    gray_hint,
    narrowed,
    refuse_void,
    shift_hint,
    void_is_background,
    with_object_as_class,
)
from segray.pipelines.masks.color_table import GRAY, BoundColors, ColorTable, open_color_table
from segray.pipelines.masks.raster import ENDINGS, IdMap, read_ids

if TYPE_CHECKING:
    from segray.pipelines.config.commands.annotate import CalibrateMasksConfig
    from segray.pipelines.config.commands.calibrate import CalibrateConfig
    from segray.pipelines.config.commands.evaluate import EvaluateConfig
    from segray.pipelines.config.commands.import_masks import ImportKeys
    from segray.pipelines.config.commands.report import ReportConfig
    from segray.pipelines.config.commands.serve import ServeConfig
    from segray.pipelines.config.commands.train import DataConfig

    MaskKeys = (
        CalibrateConfig
        | CalibrateMasksConfig
        | DataConfig
        | EvaluateConfig
        | ImportKeys
        | ReportConfig
        | ServeConfig
    )


@dataclass(frozen=True)
class MaskOptions:
    """How masks are found and what their values mean.

    Attributes:
        prefix: of the configuration keys in messages, such as `data.`.
        suffix: what a mask's name has behind its image's, such as `_mask`; `OLD:NEW` replaces OLD by it; or a
            pattern with `*` for the image's name: `mask_*`, `img_*:mask_*`, `*/mask`.
        table: the colours of the classes; None: masks hold ids.
        colors: the table with the ids of a class list, see `bound`.
        binary: whether 255 is class 1; None: neither true nor false was said.
        void: id of the pixels that count for nothing.
        void_key: the configuration key of `void`; "" where a command has none.
        void_set: whether the user has set it; else `void` is the default, which may not hold.
        follow_links: which links in a folder of masks are followed, see `FolderLinks`.
        also: folders below which the rows of a list or a manifest may name masks, besides its own folder.
        column: of masks in Parquet and CSV files; None: found by its name.
        roots: what masks must be below, as another person may have named them; None: the user's own.
        most_ids: how many ids a mask may have: 8 bits of them, or those of a longer class list, see `bound`.
    """

    prefix: str = ""
    suffix: str = ""
    table: ColorTable | None = None
    colors: BoundColors | None = None
    binary: bool | None = None
    void: int = IGNORE_INDEX
    void_key: str = ""
    void_set: bool = False
    follow_links: bool = True
    also: tuple[str, ...] = ()
    column: str | None = None
    roots: tuple[str, ...] | None = None
    most_ids: int = IGNORE_INDEX

    @classmethod
    def of_keys(cls, keys: MaskKeys, image: LinksConfig, prefix: str = "") -> MaskOptions:
        """From the configuration of a command that reads a folder of masks.

        Args:
            keys: of the command, or of a section.
            image: its section `image`; its `roots`, if it has them, may hold masks, too.
            prefix: of the section in messages, such as `data.`.

        Raises:
            UserError: as `of`.
        """
        return cls.of(
            prefix=prefix,
            suffix=keys.mask_suffix,
            colors=keys.colors,
            binary=keys.binary,
            void=keys.ignore_index,
            void_set="ignore_index" in keys.model_fields_set,
            follow_links=image.follow_links,
            also=getattr(image, "roots", ()),
            column=keys.mask_column,
        )

    @classmethod
    def of(
        cls,
        *,
        prefix: str = "",
        suffix: str | None = None,
        colors: str | None = None,
        binary: bool | None = None,
        void: int | None = None,
        void_set: bool = False,
        follow_links: bool = True,
        also: tuple[str, ...] = (),
        column: str | None = None,
    ) -> MaskOptions:
        """From the keys of a command; None: the command has no such key, or it is not set.

        Raises:
            UserError: the table of colours cannot be read, or is given beside `binary`.
        """
        if colors is not None and binary is not None:
            raise UserError(f"{prefix}binary: not with {prefix}colors, whose table names all colours")
        table = None if colors is None else open_color_table(colors, f"{prefix}colors")
        void_key = "" if void is None else f"{prefix}ignore_index"
        return cls(
            prefix=prefix,
            suffix=_without_ending(suffix or ""),
            table=table,
            binary=binary,
            void=IGNORE_INDEX if void is None else void,
            void_key=void_key,
            void_set=void_set,
            follow_links=follow_links,
            also=also,
            column=column,
        )

    @property
    def binary_key(self) -> str:
        """The key of `binary`."""
        return f"{self.prefix}binary"

    @property
    def masks_key(self) -> str:
        """The key of the masks themselves."""
        return f"{self.prefix}masks"

    @property
    def colors_key(self) -> str:
        """The key of `table`."""
        return f"{self.prefix}colors"

    @property
    def said(self) -> bool:
        """Whether the user has said what the id of ignored pixels means."""
        return self.table is not None or self.void_set or self.binary is not None

    @property
    def plain(self) -> bool:
        """Whether the masks hold the ids of the classes as they are, 0 among them."""
        return self.table is None and not self.binary and self.void != 0

    def check_void(self, pixels: NDArray[np.int64], classes: tuple[str, ...], where: str) -> None:
        """Stop where the masks look as if their background had the id of ignored pixels.

        Args:
            pixels: of all masks, by class, with the ignored ones at the end, int64 [N + 1].
            classes: names of the ids.
            where: the masks, for the message.

        Raises:
            UserError: with the keys that settle it.
        """
        if not self.said and void_is_background(pixels, classes):
            share = float(pixels[-1] / pixels.sum())
            refuse_void(where, classes, share, self.colors_key, self.void_key or "ignore_index")

    def space(self) -> LabelSpace | None:
        """The classes of the table of colours; None without one.

        Raises:
            UserError: they cannot be a class list.
        """
        if self.table is None or not self.table.names:
            return None
        try:
            return self.table.space()
        except ValueError as problem:
            raise UserError(f"{self.colors_key}={self.table.where}: {problem}") from None

    def bound(self, space: LabelSpace) -> MaskOptions:
        """The same with the ids that a class list gives to the colours.

        Raises:
            UserError: the class list does not fit the table, or `binary`.
        """
        if self.binary:
            check_two_classes(space.classes, self.binary_key)
        bound = replace(self, most_ids=max(IGNORE_INDEX, len(space.classes)))
        if self.table is None:
            return bound
        if self.table.where == GRAY:
            empty = np.zeros(0, np.int64)
            return replace(bound, colors=BoundColors(GRAY, empty, empty.astype(np.uint16), by_value=True))
        return replace(bound, colors=self.table.bind(space, self.colors_key))

    def read(self, uri: str) -> bytes:
        """The bytes of a mask file.

        Raises:
            ValueError: it cannot be read, or is not where it may be.
        """
        try:
            if self.roots is None:
                return read_file(uri)
            return read_allowed(uri, self.roots, follow=self.follow_links)
        except OSError as error:
            raise ValueError(reason(error)) from None
        except ImageProblem as problem:
            raise ValueError(problem.reason) from None

    def ids(self, data: bytes) -> IdMap:
        """The ids in a mask file as they are stored; 255 is 1 with `binary`, 65535 is 255 beside 0 alone.

        Raises:
            ValueError: as `read_ids`.
        """
        ids = read_ids(data, self.colors, self.colors_key)
        if self.void != WIDE_IGNORE_INDEX and self.most_ids <= IGNORE_INDEX:
            ids = narrowed(ids)
        return with_object_as_class(ids) if self.binary and ids.dtype == np.uint8 else ids

    def label_map(self, ids: IdMap, n_classes: int) -> LabelMap:
        """Ids as segray has them: those of the classes, and `ignore_index_of` for ignored pixels.

        Raises:
            ValueError: an id out of range.
        """
        ignored = ignore_index_of(n_classes)
        by_table = self.colors is not None and not self.colors.by_value
        # With more than 254 classes 255 is one of them, and the default cannot mean it.
        void = ignored if by_table or self.void == IGNORE_INDEX else self.void
        bad = (ids >= n_classes) & (ids != void)
        if bad.any():
            y, x = np.argwhere(bad)[0]
            hint = binary_hint(ids, void, self.binary_key) if ids.dtype == np.uint8 else ""
            hint = (
                hint
                or shift_hint(ids, n_classes, self.colors_key)
                or gray_hint(ids, n_classes, self.colors_key)
            )
            if not hint and self.void_key:
                hint = f"; {self.void_key}={ids[y, x]} ignores these pixels"
            raise ValueError(
                f"holds id {ids[y, x]} (first at x={x}, y={y}); "
                f"allowed: 0 to {n_classes - 1} and {void} (ignored){hint}"
            )
        return np.where(ids == void, ignored, ids).astype(label_dtype(ignored))


IDS = MaskOptions()
"""Masks of ids, named as their images."""


def _without_ending(suffix: str) -> str:
    """`_mask.png` as `_mask`."""
    ending = next((ending for ending in ENDINGS if suffix.lower().endswith(ending)), "")
    return suffix.removesuffix(suffix[len(suffix) - len(ending) :]) if ending else suffix

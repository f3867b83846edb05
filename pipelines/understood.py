"""What a command understood of its input, in a few lines before it works.

The principle of this module: nothing is silently wrong. A command prints what it understood (classes, images,
masks, pixels per class, ignored pixels), names what is missing together with the remedy, and stops with a
`UserError` that names the key where its input contradicts its configuration.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segray.pipelines.printing import echo

SHOWN = 12
"""Names that a line has before it counts the rest."""
_LARGEST = 6
"""Classes whose share of the pixels a line has."""
MOSTLY_IGNORED = 0.5
"""Share of ignored pixels above which the line asks whether that is intended."""


def show(lines: Iterable[str]) -> None:
    """Print the lines on stderr."""
    for line in lines:
        echo(line, err=True)


def line(name: str, text: str) -> str:
    """A name in a column of its own, as in the summaries, and a text."""
    return f"{name:<12}{text}"


def name_some(names: Sequence[str], shown: int = SHOWN) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def classes_line(classes: Sequence[str]) -> str:
    """Ids and names: all of a short list, else the first ones and the last."""
    pairs = [f"{i} {name}" for i, name in enumerate(classes)]
    if len(pairs) > SHOWN:
        pairs = [*pairs[: SHOWN - 2], "...", pairs[-1]]
    return line("classes", ", ".join(pairs))


@dataclass(frozen=True)
class PixelCounts:
    """Pixels of some masks by class.

    Attributes:
        masks: how many masks.
        pixels: one count per class id.
        ignored: pixels that count for nothing.
    """

    masks: int
    pixels: tuple[int, ...]
    ignored: int

    @classmethod
    def of(cls, counts: Sequence[NDArray[np.int64]], n_classes: int, void: int) -> PixelCounts:
        """Sum the counts of some masks.

        Args:
            counts: for each mask the pixels of each id, arrays of one length.
            n_classes: ids from here on have no pixels, but for `void`.
            void: the id of ignored pixels.
        """
        total = np.zeros(len(counts[0]) if counts else void + 1, np.int64)
        for count in counts:
            total += count
        ignored = int(total[void])
        total[void] = 0
        return cls(len(counts), tuple(total[:n_classes].tolist()), ignored)

    @property
    def ignored_share(self) -> float:
        """Share of all pixels that is ignored; nan without pixels."""
        total = sum(self.pixels) + self.ignored
        return self.ignored / total if total else math.nan

    @property
    def absent(self) -> list[int]:
        """Ids of the classes without a pixel."""
        return [class_id for class_id, pixels in enumerate(self.pixels) if not pixels]

    def absent_names(self, classes: Sequence[str]) -> list[str]:
        """Names of the classes without a pixel."""
        return [classes[class_id] for class_id in self.absent]

    def text(self, classes: Sequence[str]) -> str:
        """Masks, share of the largest classes, share of ignored pixels."""
        total = max(1, sum(self.pixels))
        largest = sorted((-pixels, i) for i, pixels in enumerate(self.pixels) if pixels)
        shares = [f"{classes[i]} {100 * -pixels / total:.1f} %" for pixels, i in largest]
        masks = f"{self.masks} mask{'s' * (self.masks != 1)}"
        mostly = " (is data.ignore_index right?)" if self.ignored_share > MOSTLY_IGNORED else ""
        ignored = 0.0 if math.isnan(self.ignored_share) else self.ignored_share
        return f"{masks}: {name_some(shares, _LARGEST)}; ignored {100 * ignored:.1f} % of the pixels{mostly}"

"""The confusion matrix of a training run as a table for the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_CLASSES = 21
"""Rows of the table: as many as PASCAL VOC has classes; a wider table does not fit beside the bars."""


@dataclass(frozen=True)
class Cell:
    """One cell: percent of the true class, its text, and whether the prediction is right."""

    level: int
    text: str
    right: bool


@dataclass(frozen=True)
class Row:
    """One true class; no cells if it does not occur."""

    name: str
    pixels: str
    cells: list[Cell]


@dataclass(frozen=True)
class ConfusionTable:
    """The table.

    Attributes:
        columns: names of the predicted classes.
        rows: of the true classes.
        left_out: how many classes have no row; a last column sums them.
    """

    columns: list[str]
    rows: list[Row]
    left_out: int


def confusion_table(counts: NDArray[np.int64], names: Sequence[str]) -> ConfusionTable:
    """Shares of the true class, for the `MAX_CLASSES` classes with the most pixels.

    Args:
        counts: int64 [C, C], rows truth, columns predictions.
        names: C class names.
    """
    largest = np.argsort(-(counts.sum(0) + counts.sum(1)), kind="stable")[:MAX_CLASSES]
    shown = sorted(largest.tolist())
    left_out = len(names) - len(shown)
    rows = []
    for i in shown:
        row = counts[i, shown].tolist()
        row += [int(counts[i].sum()) - sum(row)] if left_out else []
        rows.append(_row(names[i], shown.index(i), row))
    columns = [names[i] for i in shown] + (["others"] if left_out else [])
    return ConfusionTable(columns, rows, left_out)


def _row(name: str, right: int, row: Sequence[int]) -> Row:
    total = sum(row)
    shares = [value / total if total else 0.0 for value in row]
    cells = [Cell(round(100 * share), _cell_text(share), i == right) for i, share in enumerate(shares)]
    return Row(name, f"{total:,}", cells if total else [])


def _cell_text(share: float) -> str:
    """Percent without the sign: 100 only if it is all, nothing for less than half a percent."""
    if share < 0.005:
        return ""
    return "100" if share == 1 else f"{min(round(100 * share), 99)}"

"""Scores of a label set, as numbers, JSON, CSV and text."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segray.models.label_map import LabelMap
from segray.models.label_space import ignore_index_of
from segray.models.metrics import Confusion, class_iou, confusion_matrix
from segray.pipelines.masks.binary import no_zero_text
from segray.pipelines.printing import csv_text
from segray.pipelines.understood import name_some


@dataclass(frozen=True)
class Evaluation:
    """The scores of a label set.

    Attributes:
        classes: the name of each of the C ids.
        confusion: int64 [C + 1, C + 1], rows truth, columns labels; the last column counts pixels that the
            labels leave unlabelled (id 255). They count as errors.
        n_images: images that were compared.
        missing: images without a mask, left out.
        not_ok: rows without a label, by status, left out.
        unused_masks: masks that belong to no image of the label set.
        ignored_pixels: mask pixels that are left out.
        plain: see `MaskOptions.plain`.
    """

    classes: tuple[str, ...]
    confusion: Confusion
    n_images: int
    missing: tuple[str, ...] = ()
    not_ok: dict[str, int] = field(default_factory=dict)
    unused_masks: int = 0
    ignored_pixels: int = 0
    plain: bool = True

    @property
    def iou(self) -> NDArray[np.float64]:
        """float64 [C]; nan for a class in neither truth nor labels."""
        return class_iou(self.confusion)[:-1]

    @property
    def miou(self) -> float:
        """Mean IoU over the classes that occur; nan if the masks hold fewer than two classes.

        Masks of one class make a perfect score of any label that names it everywhere: it says nothing.
        """
        present = self.iou[~np.isnan(self.iou)]
        return float(present.mean()) if np.count_nonzero(self.truth_pixels) > 1 else math.nan

    @property
    def accuracy(self) -> float:
        """Pixel accuracy: share of the counted pixels whose class is right."""
        total = int(self.confusion.sum())
        return int(np.trace(self.confusion)) / total if total else math.nan

    @property
    def truth_pixels(self) -> NDArray[np.int64]:
        """int64 [C]."""
        return self.confusion.sum(1)[:-1]

    @property
    def label_pixels(self) -> NDArray[np.int64]:
        """int64 [C], of the pixels whose truth counts."""
        return self.confusion.sum(0)[:-1]

    @property
    def ignored_share(self) -> float:
        """Share of all mask pixels that are left out; nan without pixels."""
        total = self.ignored_pixels + int(self.confusion.sum())
        return self.ignored_pixels / total if total else math.nan

    @property
    def absent(self) -> tuple[str, ...]:
        """Classes without a pixel in the masks."""
        return tuple(n for n, p in zip(self.classes, self.truth_pixels, strict=True) if not p)


def compare(truth: LabelMap, label: LabelMap, n_classes: int) -> Confusion:
    """Confusion of one image, int64 [C + 1, C + 1]: see `Evaluation.confusion`.

    Raises:
        ValueError: the label holds an id out of range.
    """
    ignored = ignore_index_of(n_classes)
    over = label[(label >= n_classes) & (label != ignored)]
    if over.size:
        raise ValueError(f"holds id {over[0]}; allowed: 0 to {n_classes - 1} and {ignored} (no answer)")
    answered = np.where(label == ignored, n_classes, label)
    return confusion_matrix(truth, answered, n_classes + 1, ignored)


def to_dict(result: Evaluation) -> dict[str, Any]:
    """The evaluation as plain values for JSON; undefined scores are null."""
    return {
        "miou": _number(result.miou),
        "pixel_accuracy": _number(result.accuracy),
        "n_images": result.n_images,
        "n_missing_masks": len(result.missing),
        "missing_masks": list(result.missing[:100]),
        "not_ok": result.not_ok,
        "unused_masks": result.unused_masks,
        "unanswered_pixels": int(result.confusion[:, -1].sum()),
        "ignored_pixels": result.ignored_pixels,
        "ignored_share": _number(result.ignored_share),
        "absent_classes": list(result.absent),
        "classes": _class_rows(result),
        "confusion": result.confusion[:-1, :-1].tolist(),
    }


def to_csv(result: Evaluation) -> str:
    """One line per class; an undefined IoU is empty."""
    buffer = io.StringIO()
    rows = _class_rows(result)
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: csv_text(cell) for name, cell in row.items()} for row in rows)
    return buffer.getvalue()


def table(result: Evaluation) -> str:
    """The evaluation as text for a terminal."""
    width = max(5, *(len(name) for name in result.classes))
    lines = [f" id  {'class':<{width}}   IoU %  truth %  labels %"]
    counted = max(1, int(result.confusion.sum()))
    for row in _class_rows(result):
        iou = "-" if row["iou"] is None else f"{100 * row['iou']:.1f}"
        shares = f"{100 * row['truth_share']:7.1f}  {100 * row['label_pixels'] / counted:8.1f}"
        lines.append(f"{row['id']:3}  {row['class']:<{width}}  {iou:>6}  {shares}")
    lines += ["", f"mIoU            {_miou(result)}"]
    lines += [f"pixel accuracy  {_percent(result.accuracy)}", f"images          {result.n_images}"]
    lines += [f"ignored         {_percent(result.ignored_share)} of the mask pixels"]
    return "\n".join([*lines, *_remarks(result)])


def _miou(result: Evaluation) -> str:
    """The mean IoU and what it is a mean of, or why there is none."""
    present = [name for name in result.classes if name not in result.absent]
    if len(present) < 2:
        return f"- (no result: the masks hold {f'one class only, {present[0]}' if present else 'no class'})"
    n_scored = int((~np.isnan(result.iou)).sum())
    n_classes = len(result.classes)
    of = f"{n_scored} of {n_classes}" if n_scored < n_classes else f"{n_scored}"
    return f"{_percent(result.miou)} (mean of {of} classes)"


def _remarks(result: Evaluation) -> list[str]:
    left_out = [f"{n} with status {status}" for status, n in sorted(result.not_ok.items())]
    if result.missing:
        left_out.append(f"{len(result.missing)} without a mask")
    remarks = [f"not in masks    {name_some(result.absent)}"] if result.absent else []
    first_alone = result.absent[:1] == result.classes[:1] and len(result.absent) < len(result.classes)
    if result.plain and first_alone:
        remarks.append(f"ids             {no_zero_text(result.classes[0], 'colors')}")
    remarks += [f"left out        {', '.join(left_out)}"] if left_out else []
    if result.unused_masks:
        remarks.append(f"unused masks    {result.unused_masks} (no such image in the label set)")
    unanswered = int(result.confusion[:, -1].sum())
    if unanswered:
        share = 100 * unanswered / int(result.confusion.sum())
        ignored = ignore_index_of(len(result.classes))
        remarks.append(f"no answer       {share:.1f} % of the pixels have label {ignored}, counted as missed")
    return remarks


def _class_rows(result: Evaluation) -> list[dict[str, Any]]:
    counted = max(1, int(result.confusion.sum()))
    columns = (
        result.classes,
        result.iou.tolist(),
        result.truth_pixels.tolist(),
        result.label_pixels.tolist(),
    )
    return [
        {
            "id": i,
            "class": name,
            "iou": _number(iou),
            "truth_share": truth / counted,
            "truth_pixels": truth,
            "label_pixels": predicted,
        }
        for i, (name, iou, truth, predicted) in enumerate(zip(*columns, strict=True))
    ]


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f} %"

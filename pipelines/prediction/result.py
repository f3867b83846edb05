"""What a prediction has done, and its summary."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import cast

import pyarrow as pa

from segray.pipelines.config.commands.predict import PredictConfig
from segray.pipelines.engine.progress import clock
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.prediction import coco
from segray.pipelines.prediction.job import CONFIDENCE, MASKS, OVERLAYS, Job
from segray.pipelines.prediction.output import TABLE
from segray.pipelines.prediction.rows import ImageRow
from segray.pipelines.prediction.stages import STOP
from segray.pipelines.printing import echo

_STORED = tuple(ImageRow.__annotations__)


@dataclass
class Outcome:
    """What a run has done.

    Attributes:
        images: how many it took.
        bad: status and reason of those without a mask.
        notes: how many images had a note; the first is printed.
    """

    images: int = 0
    bad: dict[str, tuple[str, str]] = field(default_factory=dict)
    notes: int = 0

    def add(self, table: pa.Table) -> list[ImageRow]:
        """Count rows of `prediction.stages.ROW_SCHEMA`, and return what is kept of those with a mask.

        Raises:
            UserError: one of them must end the run.
        """
        good: list[ImageRow] = []
        for row in table.to_pylist():
            if row["status"] == STOP:
                safe = "finished masks are safe; run the same command to resume when this is repaired"
                raise UserError(f"{row['error']}; {safe}", exit_code=1)
            self.images += 1
            if row["note"] and not self.notes:
                echo(row["note"], err=True)
            self.notes += bool(row["note"])
            if row["status"] == "ok":
                good.append(cast("ImageRow", {name: row[name] for name in _STORED}))
            else:
                self.bad[row["image_id"]] = (row["status"], row["error"])
        return good


@dataclass
class Totals:
    """The classes of all predicted images.

    Attributes:
        images: how many images hold each class id.
        pixels: of each class id.
        confidence: sum of the confidences of these pixels.
    """

    images: Counter[int] = field(default_factory=Counter)
    pixels: Counter[int] = field(default_factory=Counter)
    confidence: defaultdict[int, float] = field(default_factory=lambda: defaultdict(float))

    @classmethod
    def of(cls, rows: Iterable[ImageRow]) -> Totals:
        """The totals of some images."""
        totals = cls()
        for row in rows:
            totals.images.update(row["class_ids"])
            values = zip(row["class_ids"], row["class_pixels"], row["class_confidence"], strict=True)
            for class_id, pixels, confidence in values:
                totals.pixels[class_id] += pixels
                totals.confidence[class_id] += pixels * confidence
        return totals

    def mean_confidence(self) -> float | None:
        """Of all pixels; None without any."""
        return sum(self.confidence.values()) / total if (total := self.pixels.total()) else None


@dataclass(frozen=True)
class PredictResult:
    """What `predict` wrote; as text, the summary that the command prints.

    Attributes:
        out: folder or URI of the masks and overlays.
        images: how many images there are.
        bad: status and reason, by image_id, of the images of this run without a mask.
        mean_confidence: of all pixels that have a class; None without any.
        seconds: how long the run took.
        summary: the printed lines.
    """

    out: str
    images: int
    bad: dict[str, tuple[str, str]]
    mean_confidence: float | None
    seconds: float
    summary: tuple[str, ...]

    @classmethod
    def of(
        cls, config: PredictConfig, job: Job, total: int, outcome: Outcome, totals: Totals, seconds: float
    ) -> PredictResult:
        """The result of a run.

        Args:
            config: of the command.
            job: what was predicted.
            total: how many images there are.
            outcome: of this run.
            totals: of all images.
            seconds: how long the run took.
        """
        lines = [*_counts(total, outcome, seconds), *_table(job.classes, totals), "", *_places(config)]
        return cls(config.out, total, outcome.bad, totals.mean_confidence(), seconds, tuple(lines))

    def __str__(self) -> str:
        return "\n".join(self.summary)


def _counts(total: int, outcome: Outcome, seconds: float) -> Iterator[str]:
    states = Counter(status for status, _ in outcome.bad.values())
    ok = total - len(outcome.bad)
    yield ""
    yield f"images      {total}: {ok} ok, {states['error']} error, {states['skipped']} skipped"
    if outcome.images:
        yield f"this run    {outcome.images} images in {clock(seconds)}"


def _table(classes: tuple[str, ...], totals: Totals) -> Iterator[str]:
    if not (n_pixels := totals.pixels.total()):
        return
    width = max(len(name) for name in (*classes, "class"))
    yield ""
    yield f"{'class':<{width}}  {'pixels':>8}  {'images':>8}  confidence"
    for i, n_images in sorted(totals.images.items()):
        share, mean = 100 * totals.pixels[i] / n_pixels, 100 * totals.confidence[i] / totals.pixels[i]
        yield f"{classes[i]:<{width}}  {share:>6.2f} %  {n_images:>8}  {mean:>8.1f} %"


def _places(config: PredictConfig) -> Iterator[str]:
    wanted = {
        MASKS: True,
        OVERLAYS: config.overlays,
        CONFIDENCE: config.confidence,
        coco.FILE: config.coco,
        TABLE: True,
    }
    for name, is_wanted in wanted.items():
        if is_wanted:
            yield storage.display(storage.join(config.out, name))

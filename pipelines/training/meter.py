"""Metrics between two validations: mean losses, the source of the labels, time spent waiting for data."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from segray.pipelines.engine.progress import clock
from segray.pipelines.training.data.sampler import StepBatch
from segray.pipelines.training.history import HistoryEntry, MeterSums, TrainingMetrics
from segray.pipelines.training.session import sum_over_workers
from segray.pipelines.training.step import StepMetrics


class DivergedError(Exception):
    """The loss is not finite."""


class Meter:
    """Sums over the steps since `first`; nothing is read off the device before `check`, `sums` or `summary`.

    Args:
        first: the next step.
        earlier: of the steps before it since the last validation, if the run was interrupted there.
    """

    def __init__(self, first: int, earlier: MeterSums | None = None) -> None:
        self.first, self.steps, self.checked, self.earlier = first, 0, 0, earlier
        self.losses: list[Tensor] = []
        self.counts: dict[str, Tensor] = {}
        self.waited = 0.0
        self.began = time.perf_counter()

    def timed(self, batches: Iterator[StepBatch]) -> Iterator[StepBatch]:
        """The same batches; the time that each is waited for is counted."""
        while True:
            requested = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - requested
            if batch is None:
                return
            yield batch

    def add(self, metrics: StepMetrics) -> None:
        """Count one step."""
        self.steps += 1
        self.losses.append(metrics.losses().detach().float())
        for name, count in metrics.counts.items():
            self.counts[name] = self.counts.get(name, torch.zeros_like(count)) + count

    def check(self) -> None:
        """Raise on all workers if the loss of any of them is not finite.

        Raises:
            DivergedError: naming the first step whose loss is not finite.
        """
        new = self.losses[self.checked :]
        if not new:
            return
        bad = ~torch.isfinite(sum_over_workers(torch.stack(new)[:, 0]))
        if bool(bad.any()):
            step = self.first + self.checked + int(bad.float().argmax())
            raise DivergedError(f"the loss is not finite from step {step} on; lower train.lr")
        self.checked = len(self.losses)

    def summary(self) -> TrainingMetrics:
        """Means over steps and workers; shares of unlabelled pixels, None without such pixels."""
        sums = self.sums()
        loss, supervised, unsupervised = (value / sums["steps"] for value in sums["losses"])
        return {
            "loss": loss,
            "supervised": supervised,
            "unsupervised": unsupervised,
            "from_model": _share(sums["counts"], "from_model", "pixels"),
            "agreement": _share(sums["counts"], "agree", "known"),
            "seconds": sums["seconds"],
            "waiting": sums["waited"] / sums["seconds"],
        }

    def sums(self) -> MeterSums:
        """All sums since the last validation; all workers call it, after a step."""
        total = sum_over_workers(torch.stack(self.losses).double().sum(0))
        workers = float(sum_over_workers(torch.ones(1, device=total.device)))
        new: MeterSums = {
            "steps": len(self.losses),
            "losses": [float(value) / workers for value in total],
            "counts": {k: float(sum_over_workers(v.double())) for k, v in sorted(self.counts.items())},
            "seconds": time.perf_counter() - self.began,
            "waited": self.waited,
        }
        return new if self.earlier is None else _added(self.earlier, new)


def _added(one: MeterSums, other: MeterSums) -> MeterSums:
    names = {*one["counts"], *other["counts"]}
    return {
        "steps": one["steps"] + other["steps"],
        "losses": [a + b for a, b in zip(one["losses"], other["losses"], strict=True)],
        "counts": {k: one["counts"].get(k, 0.0) + other["counts"].get(k, 0.0) for k in names},
        "seconds": one["seconds"] + other["seconds"],
        "waited": one["waited"] + other["waited"],
    }


def _share(counts: dict[str, float], part: str, whole: str) -> float | None:
    return counts[part] / counts[whole] if counts.get(whole) else None


def mean_metrics(parts: Sequence[StepMetrics]) -> StepMetrics:
    """Metrics of a step whose batch was processed in parts."""
    counts = {k: torch.stack([part.counts[k] for part in parts]).sum(0) for k in parts[0].counts}
    loss, supervised, unsupervised = torch.stack([part.losses().detach() for part in parts]).mean(0)
    return StepMetrics(loss, supervised, unsupervised, counts)


def progress_line(entry: HistoryEntry, epochs: int, left: float) -> str:
    """One validation as a line: epoch, losses, mIoU, share of the model's own labels, time left.

    Args:
        entry: the validation.
        epochs: of the whole run.
        left: seconds until its end.
    """
    labels = {
        "zero-shot": entry.get("zero_shot_miou"),
        "enhanced": entry.get("enhanced_miou"),
        "from model": entry["from_model"],
    }
    parts = [
        f"epoch {entry['epoch']:g}/{epochs}",
        f"loss {entry['loss']:.3f}",
        f"mIoU {_percent(entry['miou'])}{_of_classes(entry['iou'])}",
        *(f"{name} {_percent(value)}" for name, value in labels.items() if value is not None),
        f"waiting {entry['waiting']:.1%}",
        f"left {clock(left)}",
    ]
    return "  ".join(parts)


def _of_classes(iou: list[float | None]) -> str:
    """How many of the classes a mean counts, where it does not count all."""
    counted = sum(value is not None for value in iou)
    return f" of {counted}/{len(iou)} classes" if 0 < counted < len(iou) else ""


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"

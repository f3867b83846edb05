"""What happened between two validations: mean losses, where the labels came from, time spent waiting."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from segray.pipelines.engine.progress import clock
from segray.pipelines.training.data.batches import StepSamples
from segray.pipelines.training.session import sum_over_workers
from segray.pipelines.training.step import StepMetrics

LOSSES = ("loss", "supervised", "unsupervised")


class DivergedError(Exception):
    """The loss is no number any more."""


class Meter:
    """Sums over the steps since `first`; nothing is read off the device before `check` or `figures`."""

    def __init__(self, first: int) -> None:
        self.first, self.steps, self.checked = first, 0, 0
        self.losses: list[Tensor] = []
        self.counts: dict[str, Tensor] = {}
        self.waited = 0.0
        self.began = time.perf_counter()

    def waiting(self, samples: Iterator[StepSamples]) -> Iterator[StepSamples]:
        """The same samples; the time until each is there is counted."""
        while True:
            asked = time.perf_counter()
            item = next(samples, None)
            self.waited += time.perf_counter() - asked
            if item is None:
                return
            yield item

    def add(self, figures: StepMetrics) -> None:
        """One step's figures."""
        self.steps += 1
        self.losses.append(torch.stack([getattr(figures, name).detach().float() for name in LOSSES]))
        for name, count in figures.counts.items():
            self.counts[name] = self.counts.get(name, torch.zeros_like(count)) + count

    def check(self) -> None:
        """All workers learn of a bad loss on any of them.

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

    def figures(self) -> dict[str, float | None]:
        """Means over steps and workers; shares of unlabelled pixels, None where there are none."""
        total = sum_over_workers(torch.stack(self.losses).mean(0))
        workers = float(sum_over_workers(torch.ones(1, device=total.device)))
        counts = {k: float(sum_over_workers(v.double())) for k, v in sorted(self.counts.items())}
        seconds = time.perf_counter() - self.began
        return {
            **{name: float(value) / workers for name, value in zip(LOSSES, total, strict=True)},
            "from_model": _share(counts, "from_model", "pixels"),
            "agreement": _share(counts, "agree", "known"),
            "seconds": seconds,
            "waiting": self.waited / seconds,
        }


def _share(counts: dict[str, float], part: str, whole: str) -> float | None:
    return counts[part] / counts[whole] if counts.get(whole) else None


def mean_figures(figures: Sequence[StepMetrics]) -> StepMetrics:
    """StepMetrics of a step that was taken in parts."""
    counts = {k: torch.stack([f.counts[k] for f in figures]).sum(0) for k in figures[0].counts}
    loss, supervised, unsupervised = (
        torch.stack([getattr(f, name).detach() for f in figures]).mean() for name in LOSSES
    )
    return StepMetrics(loss, supervised, unsupervised, counts)


def progress_line(entry: dict[str, Any], epochs: int, left: float) -> str:
    """One validation as a line: epoch, losses, mIoU, share of the model's own labels, time left."""
    parts = [
        f"epoch {entry['epoch']:g}/{epochs}",
        f"loss {entry['loss']:.3f}",
        f"mIoU {_percent(entry['miou'])}",
    ]
    for name, key in (
        ("zero-shot", "zero_shot_miou"),
        ("enhanced", "enhanced_miou"),
        ("own labels", "from_model"),
    ):
        if entry.get(key) is not None:
            parts.append(f"{name} {_percent(entry[key])}")
    return "  ".join([*parts, f"waiting {entry['waiting']:.1%}", f"left {clock(left)}"])


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"

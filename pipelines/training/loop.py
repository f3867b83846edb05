"""The training loop of one worker, from its first step, or the last checkpoint, to the end."""

from __future__ import annotations

import logging
import tempfile
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from segray.models.segmenters.registry import Segmenter, build_segmenter
from segray.models.semi.student import Student
from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.config.loading import identity
from segray.pipelines.engine.compiling import compiling
from segray.pipelines.engine.cpu import reuse_freed_memory
from segray.pipelines.training.checkpoints import load_optimiser, newest_whole, save_checkpoint
from segray.pipelines.training.data.batches import StepData, StepSamples, steps
from segray.pipelines.training.data.sampler import step_seed, steps_in_epoch
from segray.pipelines.training.data.training_data import LabelledImages, TrainingData, UnlabelledImages
from segray.pipelines.training.meter import Meter, mean_figures, progress_line
from segray.pipelines.training.optimiser import make_optimiser
from segray.pipelines.training.session import Session, device_of_worker
from segray.pipelines.training.step import Objective, StepMetrics
from segray.pipelines.training.trackers import Trackers
from segray.pipelines.training.validate import validate

CHECK_EVERY = 50
"""Steps between looks at the loss: each look makes a GPU wait."""

_log = logging.getLogger(__name__)


@dataclass
class Progress:
    """Where a run is: the next step, and one entry of figures a validation."""

    step: int
    history: list[dict[str, Any]]


class Worker:
    """One worker of a run: network, optimiser, data and position.

    Args:
        config: the run.
        data: checked images, masks and labels.
        session: the workers around it.
        logs: folder for the trackers' files, or None.
    """

    def __init__(self, config: TrainConfig, data: TrainingData, session: Session, logs: str | None) -> None:
        self.config, self.data, self.session, self.logs = config, data, session, logs
        self.device = device_of_worker()
        if self.device.type == "cpu":
            reuse_freed_memory()
        self.classes = len(data.space.classes)
        torch.manual_seed(config.seed)
        self.network = _network(config, self.classes, self.device, session.workers)
        self.objective = Objective(config, self.network, self.classes, self.device)
        self.student = self._wrapped()
        self.optimiser = make_optimiser(self.network, config.train)
        self.unlabelled = data.unlabelled if self.objective.method.pseudo != "none" else ()
        passed = data.unlabelled or data.labelled
        self.epoch_steps = steps_in_epoch(len(passed), config.train.batch)
        self.total = config.train.epochs * self.epoch_steps
        self._labelled = LabelledImages(data.labelled)
        self._validation = LabelledImages(data.validation)
        labels, names = config.data.labels, data.space.classes
        self._unlabelled = UnlabelledImages(self.unlabelled, labels, names) if self.unlabelled else None
        self._validation_labels = UnlabelledImages(data.validation, labels, names) if labels else None
        self.progress = self._resumed()

    def run(self) -> list[dict[str, Any]]:
        """Train to the end; the history.

        Raises:
            DivergedError: the loss is not finite; the checkpoints so far are kept.
            CannotCompileError: `train.compile` is true, and the network cannot be compiled.
        """
        trackers = Trackers(self.config, self.logs if self.session.rank == 0 else None)
        with trackers, compiling("train.compile") if self.config.train.compile else nullcontext():
            while self.progress.step < self.total:
                entry = self._stretch()
                # Told before it is kept: a worker that is lost in between tells it twice, not never.
                trackers.add(entry, self.data.space.classes)
                self._say(entry)
                self._report(entry)
        return self.progress.history

    def _stretch(self) -> dict[str, Any]:
        """Train to the next validation, and validate."""
        every = self.config.train.validate_every * self.epoch_steps
        first = self.progress.step
        last = min(self.total, (first // every + 1) * every)
        meter = Meter(first)
        self.network.train()
        for samples in meter.waiting(steps(self._step_data(), first, last, self.config.train.loaders)):
            meter.add(self._step(samples))
            if (samples.step + 1) % CHECK_EVERY == 0:
                meter.check()
        meter.check()
        self.progress.step = last
        entry = {
            "step": last,
            "steps": last - first,
            "epoch": last / self.epoch_steps,
            "lr": self._lr(last - 1),
            **meter.figures(),
        }
        entry |= self._validate()
        self.progress.history.append(entry)
        return entry

    def _say(self, entry: dict[str, Any]) -> None:
        if self.session.rank == 0:
            steps_done = sum(e["steps"] for e in self.progress.history)
            pace = sum(e["seconds"] for e in self.progress.history) / steps_done
            left = pace * (self.total - self.progress.step)
            self.session.say(progress_line(entry, self.config.train.epochs, left))

    def _step(self, samples: StepSamples) -> StepMetrics:
        for group in self.optimiser.param_groups:
            group["lr"] = group["factor"] * self._lr(samples.step)
        torch.manual_seed(step_seed(self.config.seed, samples.step, self.session.rank))
        parts = _parts(samples, self.config.train.accumulate)
        self.optimiser.zero_grad(set_to_none=True)
        figures = []
        for i, part in enumerate(parts):
            with _reduces(self.student, i == len(parts) - 1):
                figures.append(self.objective(self.student, part))
                (figures[-1].loss / len(parts)).backward()
        self.optimiser.step()
        self.objective.follow(samples.step)
        return figures[0] if len(figures) == 1 else mean_figures(figures)

    def _lr(self, step: int) -> float:
        train = self.config.train
        rise = min(1.0, (step + 1) / train.warmup) if train.warmup else 1.0
        return train.lr * train.batch / 8 * rise * (1 - step / self.total) ** train.power

    def _step_data(self) -> StepData:
        return StepData(
            self._labelled,
            self._unlabelled,
            seed=self.config.seed,
            batch=self.config.train.batch,
            rank=self.session.rank,
            workers=self.session.workers,
        )

    def _validate(self) -> dict[str, Any]:
        return validate(
            self.objective.teacher or self.network,
            self._validation,
            self._validation_labels,
            classes=self.classes,
            tau=self.objective.tau,
            window=self.config.train.window,
            session=self.session,
        )

    def _report(self, entry: dict[str, Any]) -> None:
        if self.session.rank:
            self.session.report(_scalars(entry), None)
            return
        with tempfile.TemporaryDirectory() as folder:
            state = {
                "step": self.progress.step,
                "total": self.total,
                "history": self.progress.history,
                "classes": list(self.data.space.classes),
                "network": self.config.network.name,
                "window": self.config.train.window,
                "config": identity(self.config),
            }
            save_checkpoint(Path(folder), self.network, self.objective.teacher, self.optimiser, state)
            self.session.report(_scalars(entry), Path(folder))

    def _resumed(self) -> Progress:
        checkpoint = newest_whole(self.session.checkpoints())
        if checkpoint is None:
            return Progress(0, [])
        self.network.load_state_dict(checkpoint.model)
        if self.objective.teacher is not None:
            self.objective.teacher.load_state_dict(checkpoint.teacher)
        self.optimiser.load_state_dict(load_optimiser(checkpoint))
        if self.session.rank == 0:
            _log.info("going on from step %d of %d", checkpoint.state["step"], self.total)
        return Progress(checkpoint.state["step"], checkpoint.state["history"])

    def _wrapped(self) -> nn.Module:
        train = self.config.train
        student: nn.Module = Student(self.network)
        if train.compile:
            student = torch.compile(student)  # type: ignore[assignment]
        if self.session.workers == 1:
            return student
        ids = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(student, device_ids=ids)


def _network(config: TrainConfig, classes: int, device: torch.device, workers: int) -> Segmenter:
    given = config.network
    network = build_segmenter(given.name, classes, weights=given.weights, pretrained=given.pretrained)
    if device.type == "cuda" and workers > 1:
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    if config.train.channels_last:
        network = network.to(memory_format=torch.channels_last)
    return network.to(device)


def _parts(samples: StepSamples, count: int) -> list[StepSamples]:
    """A worker's samples in `count` equal parts."""
    if count == 1:
        return [samples]
    labelled = samples.labelled.parts(count)
    unlabelled = samples.unlabelled.parts(count) if samples.unlabelled else [None] * count
    return [StepSamples(samples.step, a, b) for a, b in zip(labelled, unlabelled, strict=True)]


def _reduces(student: nn.Module, last: bool) -> AbstractContextManager[None]:
    """Only the last part of a batch makes the workers exchange gradients."""
    if isinstance(student, DistributedDataParallel) and not last:
        return student.no_sync()
    return nullcontext()


def _scalars(entry: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in entry.items() if not isinstance(v, list)}

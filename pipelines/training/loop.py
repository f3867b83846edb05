"""The training loop. Read `Trainer.run` first, then the methods below it, in order.

epoch > step > validation > checkpoint; a run that stopped resumes from its newest checkpoint.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel

from segray.models.segmenters.inference import window_of
from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.config.loading import identity
from segray.pipelines.engine.compiling import compiling
from segray.pipelines.engine.cpu import reuse_freed_memory
from segray.pipelines.training.auto_precision import on_device
from segray.pipelines.training.build import (
    build_network,
    build_student,
    class_weights,
    learning_rate,
    load_optimiser_state,
    make_optimiser,
    set_learning_rate,
)
from segray.pipelines.training.calibrated import labels_of
from segray.pipelines.training.checkpoints import Checkpoint, load_optimiser, newest_whole, save_checkpoint
from segray.pipelines.training.data.datasets import LabelledImages, UnlabelledImages
from segray.pipelines.training.data.sampler import (
    StepBatch,
    StepDataset,
    read_ahead,
    step_batches,
    step_seed,
    steps_in_epoch,
)
from segray.pipelines.training.data.samples import Sample, TrainingData
from segray.pipelines.training.finetune import load_start
from segray.pipelines.training.history import (
    HistoryEntry,
    MeterSums,
    TrainingMetrics,
    ValidationMetrics,
    has_stopped,
)
from segray.pipelines.training.meter import Meter, mean_metrics, progress_line
from segray.pipelines.training.mistakes import mistakes_of
from segray.pipelines.training.session import Notes, Session, device_of_worker
from segray.pipelines.training.step import Objective, StepMetrics
from segray.pipelines.training.trackers import Trackers
from segray.pipelines.training.transition import transition_of
from segray.pipelines.training.validate import validate

CHECK_EVERY = 50
"""Steps between two checks of the loss: each check makes a GPU wait."""

WATCH_EVERY = 10
"""Steps between two looks at whether a machine is about to be taken away: each one lets all workers meet."""

READERS = 4
"""Threads of a worker with a GPU that read images, where no processes do: decoding leaves Python's lock."""

_log = logging.getLogger(__name__)


@dataclass
class Progress:
    """Position of a run: the next step, one entry per validation so far, and sums since the last one."""

    step: int
    history: list[HistoryEntry]
    interim: MeterSums | None = None


class Trainer:
    """One worker of a training run: its network, optimiser, data and position.

    Args:
        config: the run.
        data: checked images, masks and labels.
        session: connects this worker to the others.
        tracker_folder: folder for the trackers' files; None: no trackers.
    """

    def __init__(
        self, config: TrainConfig, data: TrainingData, session: Session, tracker_folder: str | None
    ) -> None:
        self.device = device_of_worker()
        self.config = config = on_device(config, self.device)
        self.session, self.classes = session, data.space.classes
        self.tracker_folder = tracker_folder if session.rank == 0 else None
        session.note("the network to load")
        # An epoch is a pass over the unlabelled images, even where the method does not use them.
        self.epoch_steps = steps_in_epoch(len(data.unlabelled or data.labelled), config.train.batch)
        self.total = config.train.epochs * self.epoch_steps
        checkpoint = newest_whole(session.checkpoints())
        self._build_network(data, fresh=checkpoint is None)
        self._open_data(data)
        self.window = self._window(checkpoint)
        self.progress = self._resume(checkpoint)
        self._warned = False

    def run(self) -> list[HistoryEntry]:
        """Train to the end, and return the history.

        Raises:
            DivergedError: the loss is not finite; the checkpoints so far are kept.
            CannotCompileError: `train.compile` is true, and the network cannot be compiled.
        """
        compiler = compiling("train.compile") if self.config.train.compile else nullcontext()
        with Trackers(self.config, self.tracker_folder) as trackers, compiler:
            while self.progress.step < self.total and not self._has_stopped():
                training = self.train_until_validation()
                entry = self._record(training, self.validate())
                # Tracked before it is saved: a worker lost in between tracks an entry twice instead of never.
                trackers.add(entry, self.classes)
                self._print_progress(entry)
                self.save(entry)
        if self.progress.step < self.total and self.session.rank == 0:
            self.session.log(f"stopped early: no better mIoU in {self.config.train.patience} validations")
        return self.progress.history

    def train_until_validation(self) -> TrainingMetrics:
        """Train from the current step to the end of the epoch that is validated next."""
        first, last = self.progress.step, self._next_validation()
        meter = Meter(first, self.progress.interim)
        self.network.train()
        steps = Notes(self.session, f"steps {first + 1} to {last} of {self.total}")
        steps.show(0)
        for batch in meter.timed(self._batches(first, last)):
            steps.show(batch.step - first)
            meter.add(self.train_step(batch))
            if (batch.step + 1) % CHECK_EVERY == 0:
                meter.check()
            if (batch.step + 1) % WATCH_EVERY == 0 and batch.step + 1 < last:
                self._save_before_preemption(batch.step + 1, meter)
        meter.check()
        self.progress.step, self.progress.interim = last, None
        return meter.summary()

    def train_step(self, batch: StepBatch) -> StepMetrics:
        """One optimiser step: forward and backward pass of each part of the batch, update, teacher."""
        set_learning_rate(self.optimiser, self.learning_rate(batch.step))
        torch.manual_seed(step_seed(self.config.seed, batch.step, self.session.rank))
        parts = batch.parts(self.config.train.accumulate)
        metrics = []
        self.optimiser.zero_grad(set_to_none=True)
        for i, part in enumerate(parts):
            with _gradient_sync(self.student, i == len(parts) - 1):
                metrics.append(self.objective(self.student, part))
                (metrics[-1].loss / len(parts)).backward()
        self.optimiser.step()
        self.objective.update_teacher(batch.step)
        return metrics[0] if len(metrics) == 1 else mean_metrics(metrics)

    def validate(self) -> ValidationMetrics:
        """Metrics of the network that predicts, which is the teacher where the method has one."""
        return validate(
            self.objective.teacher or self.network,
            self.validation_images,
            self.validation_labels,
            classes=len(self.classes),
            tau=float(self.objective.labels.tau),
            window=window_of(self.window, self.config.augment.crop),
            session=self.session,
        )

    def save(self, entry: HistoryEntry) -> None:
        """Report the metrics, and on rank 0 a checkpoint; all workers call it."""
        self._store(partial(self.session.report, _scalars(entry)))

    def _save_before_preemption(self, step: int, meter: Meter) -> None:
        """Save once, at once, if a machine is about to be taken away; Ray restarts the run elsewhere."""
        if self._warned or not self.session.preempted():
            return
        self._warned = True
        meter.check()
        self.progress.step, self.progress.interim = step, meter.sums()
        self._store(self.session.keep)
        if self.session.rank == 0:
            self.session.log(f"a machine is about to be taken away: saved at step {step} of {self.total}")

    def _store(self, report: Callable[[Path | None], None]) -> None:
        """Hand the checkpoint of the current position to `report` on rank 0, and None on the others."""
        if self.session.rank:
            report(None)
            return
        with tempfile.TemporaryDirectory() as folder:
            state = {
                **({} if self.progress.interim is None else {"interim": self.progress.interim}),
                "step": self.progress.step,
                "total": self.total,
                "tau": float(self.objective.labels.tau),
                "stopped": self._has_stopped(),
                "history": self.progress.history,
                "classes": list(self.classes),
                "network": self.config.network.name,
                "window": self.window,
                "config": identity(self.config),
            }
            save_checkpoint(Path(folder), self.network, self.objective.teacher, self.optimiser, state)
            report(Path(folder))

    def learning_rate(self, step: int) -> float:
        """The encoder's learning rate in a step, counted from 0."""
        return learning_rate(self.config.train, step, self.total)

    def _build_network(self, data: TrainingData, *, fresh: bool) -> None:
        config, device = self.config, self.device
        if device.type == "cpu":
            reuse_freed_memory()
        torch.manual_seed(config.seed)
        self.network = build_network(config, len(self.classes), device, self.session.workers)
        if fresh:
            load_start(self.network, config.network, self.classes)
        self.objective = Objective(
            config,
            self.network,
            len(self.classes),
            device,
            class_weights(config.loss, data.labelled_pixels),
            total=self.total,
            transition=transition_of(config, self.classes),
            mistakes=mistakes_of(config, data),
        )
        # A supervised start has steps of another layout.
        alike = not config.pseudo.start
        self.student = build_student(self.network, config.train, self.session.workers, alike=alike)
        self.optimiser = make_optimiser(self.network, config.train)

    def _open_data(self, data: TrainingData) -> None:
        config, labels = self.config, labels_of(self.config)
        self.labelled_pixels = data.labelled_pixels.pixels
        unlabelled = data.unlabelled if self.objective.method.pseudo != "none" else ()
        self.dataset = StepDataset(
            LabelledImages(data.labelled),
            self._unlabelled_images(data, unlabelled) if unlabelled else None,
            seed=config.seed,
            batch=config.train.batch,
            rank=self.session.rank,
            workers=self.session.workers,
            parts=config.train.accumulate,
            paired=self.objective.method.strong_views > 0 and config.augment.cutmix > 0,
            supervised=self.objective.labels.stages.supervised,
            # Processes that read, and a worker whose CPU computes, have no use for threads.
            readers=1 if config.train.loaders or self.device.type == "cpu" else READERS,
        )
        self.validation_images = LabelledImages(data.validation)
        self.validation_labels = UnlabelledImages(data.validation, labels, self.classes) if labels else None

    def _unlabelled_images(self, data: TrainingData, samples: Sequence[Sample]) -> UnlabelledImages:
        labels, segments = labels_of(self.config), self.config.pseudo.segments
        return UnlabelledImages(samples, labels, self.classes, data.corrections, segments=segments)

    def _batches(self, first: int, last: int) -> Iterator[StepBatch]:
        """The batches of some steps; for a GPU pinned, and read while it works on the steps before."""
        batches = step_batches(self.dataset, first, last, self.config.train.loaders)
        return read_ahead(map(StepBatch.pin_memory, batches)) if self.device.type == "cuda" else batches

    def _window(self, checkpoint: Checkpoint | None) -> int | None:
        """Side of the windows in which the network predicts by default; see `window_of`."""
        # A history has one measure, also where an earlier version with another default began it.
        if checkpoint is not None:
            return checkpoint.state.get("window")
        chosen = self.config.train.window
        return self.config.augment.crop if chosen is None and self.network.crop_windows else chosen

    def _resume(self, checkpoint: Checkpoint | None) -> Progress:
        """Continue from the newest checkpoint, if there is one."""
        if checkpoint is None:
            return Progress(0, [])
        self.network.load_state_dict(checkpoint.model)
        if self.objective.teacher is not None:
            self.objective.teacher.load_state_dict(checkpoint.teacher)
        load_optimiser_state(self.optimiser, load_optimiser(checkpoint))
        if self.config.pseudo.dynamic_tau:
            self.objective.labels.tau.fill_(checkpoint.state["tau"])
        if self.session.rank == 0:
            _log.info("resuming from step %d of %d", checkpoint.state["step"], self.total)
        state = checkpoint.state
        return Progress(state["step"], state["history"], state.get("interim"))

    def _has_stopped(self) -> bool:
        """Whether the last `train.patience` validations were no better than one before them."""
        patience = self.config.train.patience
        mious = [entry["miou"] for entry in self.progress.history]
        return patience is not None and has_stopped(mious, patience)

    def _next_validation(self) -> int:
        interval = self.config.train.validate_every * self.epoch_steps
        return min(self.total, (self.progress.step // interval + 1) * interval)

    def _record(self, training: TrainingMetrics, validation: ValidationMetrics) -> HistoryEntry:
        step = self.progress.step
        before = self.progress.history[-1]["step"] if self.progress.history else 0
        entry: HistoryEntry = {
            "step": step,
            "steps": step - before,
            "epoch": step / self.epoch_steps,
            "lr": self.learning_rate(step - 1),
            "labelled_pixels": list(self.labelled_pixels),
            **training,
            **validation,
        }
        self.progress.history.append(entry)
        return entry

    def _print_progress(self, entry: HistoryEntry) -> None:
        if self.session.rank == 0:
            pace = sum(e["seconds"] for e in self.progress.history) / self.progress.step
            left = pace * (self.total - self.progress.step)
            self.session.log(progress_line(entry, self.config.train.epochs, left))


def _gradient_sync(student: object, last: bool) -> AbstractContextManager[None]:
    """Workers exchange gradients only in the last part of a batch."""
    if isinstance(student, DistributedDataParallel) and not last:
        return student.no_sync()
    return nullcontext()


def _scalars(entry: HistoryEntry) -> dict[str, float | None]:
    scalars = {k: value for k, value in entry.items() if value is None or isinstance(value, int | float)}
    # Ray orders checkpoints by it, and cannot order None.
    return {**scalars, "miou": entry["miou"] or 0.0}

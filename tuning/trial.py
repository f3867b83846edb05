"""A trial as Ray Tune runs it: a light driver that launches one Ray Train run a seed.

Tune never ends a trial by force. A trainer that is killed leaves its placement group behind, until something
that needs the dashboard finds it; so the trial's workers ask, after each validation, whether to go on, and a
trial that is stopped ends as one that is finished does.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.training.run_folder import CHECKPOINTS, RunFolder
from segray.pipelines.training.session import RaySession, sum_over_workers
from segray.tuning.ledger import Run

STOPPED = "stopped: behind the other trials of its split"
_POLL_S = 0.2
_VERDICT_S = 60.0
"""How long a worker waits for a verdict before it goes on without one."""


class Desk:
    """The actor between the search, its trials' drivers and their workers."""

    def __init__(self) -> None:
        self._data: dict[str, list[Any]] = {}
        self._entries: dict[str, list[dict[str, float]]] = {}
        self._verdicts: dict[str, tuple[float, bool]] = {}
        self._held: dict[str, Any] = {}

    def hold(self, file: str, group: Any) -> None:
        """The placement group that a trial's workers are in."""
        self._held[file] = group

    def release(self, file: str) -> Any:
        """The placement group that was held last; None: there is none."""
        return self._held.pop(file, None)

    def put_data(self, key: str, ref: list[Any]) -> None:
        """Keep a reference to training data that trials share."""
        self._data[key] = ref

    def data(self, key: str) -> list[Any]:
        """The reference, in a list, so that it is not followed."""
        return self._data[key]

    def write(self, line: str) -> None:
        """Lines of a training run; a search has its own."""

    def post(self, file: str, entry: dict[str, float]) -> None:
        """A worker's figures after a validation."""
        self._entries.setdefault(file, []).append(entry)

    def take(self, file: str) -> list[dict[str, float]]:
        """What was posted since the last call."""
        return self._entries.pop(file, [])

    def judge(self, file: str, epoch: float, stop: bool) -> None:
        """The scheduler's verdict on a trial at an epoch."""
        self._verdicts[file] = (epoch, stop)

    def verdict(self, file: str, epoch: float) -> bool | None:
        """Whether to stop; None: not known yet."""
        judged, stop = self._verdicts.get(file, (-1.0, False))
        return stop if stop or judged >= epoch else None


class StoppedError(Exception):
    """The search has no more use for this trial."""


class TrialSession(RaySession):
    """A training worker's session that asks the search whether to go on.

    Args:
        folder: where Ray keeps the run's checkpoints.
        desk: the search's `Desk`.
        file: the trial.
        judged: whether this run of the trial may be stopped.
    """

    def __init__(self, folder: str, desk: Any, file: str, judged: bool) -> None:
        from ray.util import get_current_placement_group

        super().__init__(folder, desk)
        self._desk, self._file, self._judged = desk, file, judged
        if self.rank == 0:
            desk.hold.remote(file, get_current_placement_group())

    def report(self, metrics: Mapping[str, Any], checkpoint: Path | None) -> None:
        """As any worker; then all of them stop, or none.

        Raises:
            StoppedError: the search stops the trial.
        """
        super().report(metrics, checkpoint)
        stop = self._asked(metrics) if self.rank == 0 else False
        if not self._judged:
            return
        flag = torch.tensor([float(stop)], device="cuda" if torch.cuda.is_available() else "cpu")
        if sum_over_workers(flag).item():
            raise StoppedError

    def _asked(self, metrics: Mapping[str, Any]) -> bool:
        import ray

        epoch = float(metrics["epoch"])
        entry = {"epoch": epoch, "miou": float(metrics["miou"] or 0.0)}
        ray.get(self._desk.post.remote(self._file, entry))
        deadline = time.monotonic() + _VERDICT_S
        while self._judged and time.monotonic() < deadline:
            verdict: bool | None = ray.get(self._desk.verdict.remote(self._file, epoch))
            if verdict is not None:
                return verdict
            time.sleep(_POLL_S)
        return False


def work(given: dict[str, Any]) -> str | None:
    """What each training worker of a trial runs; the reason where the run ended early."""
    from segray.pipelines.training.loop import Trainer
    from segray.pipelines.training.meter import DivergedError

    config = given["config"]
    checkpoints = storage.join(config.out, CHECKPOINTS)
    session = TrialSession(checkpoints, given["board"], given["file"], given["judged"])
    try:
        Trainer(config, given["data"], session, given["logs"]).run()
    except StoppedError:
        return STOPPED
    except DivergedError as error:
        return str(error)
    return None


def drive(given: dict[str, Any], desk: Any) -> None:
    """Tune's trainable: train with each seed in turn, and report the outcome.

    Args:
        given: `file`, `judged` and `runs`, each with its configuration and the key of its data.
        desk: the search's `Desk`.
    """
    from ray import tune

    found = outcome(given, desk)
    tune.report({"outcome": found, "miou": found["runs"][-1]["miou"] if found["runs"] else 0.0})


def outcome(given: dict[str, Any], desk: Any) -> dict[str, Any]:
    """state, reason and runs of a trial; a crash is told, not raised, so that its reason is our own line."""
    runs: list[dict[str, Any]] = []
    for index, one in enumerate(given["runs"]):
        try:
            run, ended = _train(given, one, desk, judged=given["judged"] and index == 0, shown=index == 0)
        except Exception as error:  # noqa: BLE001  whatever ends one trial must not end the search
            return {"state": "crashed", "reason": cause(error), "runs": runs}
        runs += [run] if run else []
        if ended:
            return {"state": "stopped" if ended == STOPPED else "diverged", "reason": ended, "runs": runs}
    return {"state": "done", "reason": "", "runs": runs}


def _train(
    given: dict[str, Any], one: dict[str, Any], desk: Any, *, judged: bool, shown: bool
) -> tuple[dict[str, Any] | None, str | None]:
    """One run to its end: its record, where anything was validated, and why it ended early."""
    import ray

    config = TrainConfig.model_validate(one["config"])
    data = ray.get(ray.get(desk.data.remote(one["data"]))[0])
    folder = RunFolder(config)
    folder.check()
    # The search's lock covers its trials: one of their own would outlive a driver that is lost with its node.
    folder.begin(data)
    ended = None if folder.finished() else _fit(given["file"], config, data, desk, judged, shown)
    folder.export()
    return _record(folder, len(data.labelled)), ended


def _fit(file: str, config: TrainConfig, data: Any, desk: Any, judged: bool, shown: bool) -> str | None:
    """Train in a thread beside this one, which hands its figures to Tune."""
    import ray
    from ray import tune

    from segray.pipelines.engine import cluster
    from segray.pipelines.training.trainer import scaling_config, torch_trainer, tracker_folder

    given = {"config": config, "data": data, "board": desk, "logs": tracker_folder(config), "file": file}
    loop = partial(work, {**given, "judged": judged})
    fitting = torch_trainer(config, loop, scaling_config(config, cluster.resources()))
    thread = _Outcome(fitting.fit)
    thread.start()
    while thread.is_alive():
        thread.join(_POLL_S)
        for entry in ray.get(desk.take.remote(file)):
            # Only the first seed's epochs are the search's measure of time.
            tune.report(entry if shown else {"again": entry["epoch"], "miou": entry["miou"]})
    if thread.error is not None:
        raise thread.error
    reason: str | None = thread.result.return_value
    return reason


class _Outcome(threading.Thread):
    """Calls a function, and keeps what it returns or raises."""

    def __init__(self, call: Any) -> None:
        super().__init__(name="segray-trial", daemon=True)
        self._call = call
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        """Call it."""
        try:
            self.result = self._call()
        except BaseException as error:  # noqa: BLE001  raised again in the thread that waits
            self.error = error


def _record(folder: RunFolder, labelled: int) -> dict[str, Any] | None:
    states = folder.states()
    if not states:
        return None
    state = max(states.values(), key=lambda one: one["step"])
    curve = [(entry["epoch"], entry["miou"] or 0.0) for entry in state["history"]]
    run = Run(
        seed=folder.config.seed,
        miou=curve[-1][1],
        best=max(miou for _, miou in curve),
        epoch=curve[-1][0],
        epochs=folder.config.train.epochs,
        curve=curve,
        labelled=labelled,
        zero_shot=state["history"][-1].get("zero_shot_miou"),
        seconds=sum(entry["seconds"] for entry in state["history"]),
    )
    return asdict(run)


def cause(error: BaseException) -> str:
    """Why a trial crashed, in one line: what its worker raised, where one did."""
    failures = getattr(error, "worker_failures", None)
    inner: Any = next(iter(failures.values())) if failures else error
    inner = getattr(inner, "cause", None) or inner
    lines = [line.strip() for line in str(inner).splitlines() if line.strip()] or [""]
    told = lines[0] if isinstance(inner, UserError) else f"{type(inner).__name__}: {lines[-1]}"
    return told[:200].rstrip(": ")

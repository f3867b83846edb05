"""Errors of a training worker: those that would happen again end the run, all others are worth a retry."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist

from segray.models.weights import WeightsError
from segray.pipelines.engine.compiling import CannotCompileError
from segray.pipelines.errors import UserError
from segray.pipelines.training.meter import DivergedError

_OF_PEERS = ("NCCL", "gloo", "Connection closed", "Connection reset", "CUDA error", "exited unexpectedly")
"""Parts of messages of errors that come from a lost worker, machine or process."""


@dataclass(frozen=True)
class Failure:
    """Why a run cannot succeed however often it is tried.

    Attributes:
        message: one line.
        exit_code: of the command.
        everywhere: whether every worker has it in the same step, so that none waits for another.
    """

    message: str
    exit_code: int = 2
    everywhere: bool = False


def lasting_failure(error: Exception) -> Failure | None:
    """What a worker's error means; None where another try may succeed: a lost peer, disk or memory."""
    if isinstance(error, CannotCompileError | DivergedError):
        return Failure(str(error), exit_code=1, everywhere=True)
    if isinstance(error, WeightsError):
        return Failure(f"network: {error}", everywhere=True)
    if isinstance(error, UserError):
        return Failure(_last_line(error) if _of_loader(error) else _first_line(error), error.exit_code)
    if isinstance(error, torch.OutOfMemoryError):
        return Failure("out of GPU memory: lower train.batch or augment.crop, or raise train.accumulate")
    if isinstance(error, OSError | MemoryError | dist.DistError) or _is_of_peer(error):
        return None
    line = _last_line(error) if _of_loader(error) else f"{type(error).__name__}: {_first_line(error)}"
    return Failure(f"training: {line}")


def _is_of_peer(error: Exception) -> bool:
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _OF_PEERS)


def _of_loader(error: Exception) -> bool:
    """Whether a reading process raised it: its text is then a traceback, whose last line is the error."""
    return "in DataLoader worker process" in str(error)


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _last_line(error: Exception) -> str:
    line = [line.strip() for line in str(error).splitlines() if line.strip()][-1]
    return line.removeprefix(f"{UserError.__module__}.{UserError.__name__}: ")

"""What `train.precision=auto` stands for in a run: the run's own precision, or the best for its devices."""

from __future__ import annotations

from typing import TypeVar, get_args

import torch

from segray.models.plain_yaml import MAX_BYTES, read_plain_yaml
from segray.models.precision import TrainPrecision, device_precision
from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.engine import devices
from segray.pipelines.io import storage
from segray.pipelines.training.run_folder import CONFIG

ConfigT = TypeVar("ConfigT", bound=TrainConfig)


def recorded_precision(out: str) -> str | None:
    """`train.precision` of the run or search in `out`; None if there is none that is known."""
    try:
        stored = read_plain_yaml(storage.read_bytes(storage.join(out, CONFIG), MAX_BYTES))
        precision = stored["train"]["precision"]
        return precision if precision in get_args(TrainPrecision) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def with_precision(config: ConfigT, recorded: str | None) -> ConfigT:
    """The configuration with a precision in place of `auto`, so that the run records it.

    Args:
        config: of the command.
        recorded: by `recorded_precision`, which a resumed run keeps on any device; None: a new run.

    Raises:
        UserError: no cluster at the configured address.
    """
    if config.train.precision != "auto":
        return config
    return _replaced(config, recorded or devices.best_precision(config.address, config.grow))


def on_device(config: ConfigT, device: torch.device) -> ConfigT:
    """The configuration with what is left of `auto` decided for the device of one worker."""
    if config.train.precision != "auto":
        return config
    return _replaced(config, device_precision(device))


def _replaced(config: ConfigT, precision: str) -> ConfigT:
    train = config.train.model_copy(update={"precision": precision})
    return config.model_copy(update={"train": train})

"""Training data that a search opens and checks once, for all trials that need the same."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.training.data.samples import TrainingData
from segray.pipelines.training.data.training_data import open_data


class SharedData:
    """Training data that was opened and checked once for all trials that need the same."""

    def __init__(self) -> None:
        self._opened: dict[str, TrainingData] = {}
        self._desk: Any = None
        self._handed: set[str] = set()

    def open(self, config: TrainConfig) -> TrainingData:
        """The data of a training run.

        Raises:
            UserError: see `open_data`.
        """
        key = _data_key(config)
        if key not in self._opened:
            self._opened[key] = open_data(config.data, config.seed)
        return self._opened[key]

    def lend(self, config: TrainConfig, desk: Any) -> str:
        """Put the data of a run where its trial finds it; the key that it is found under."""
        import ray

        key = _data_key(config)
        if key not in self._handed:
            ray.get(desk.put_data.remote(key, [ray.put(self.open(config))]))
            self._handed.add(key)
        return key


def _data_key(config: TrainConfig) -> str:
    told = json.dumps([config.data.model_dump(mode="json"), config.seed], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()

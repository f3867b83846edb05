"""Training data that a search opens and checks once for all trials that need the same."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.training.data.samples import TrainingData
from segray.pipelines.training.data.training_data import open_data

if TYPE_CHECKING:
    from ray import ObjectRef


class SharedData:
    """The training data of a search, by the keys that it depends on."""

    def __init__(self) -> None:
        self._opened: dict[str, TrainingData] = {}
        self._references: dict[str, ObjectRef] = {}

    def open(self, config: TrainConfig) -> TrainingData:
        """The data of a training run.

        Raises:
            UserError: see `open_data`.
        """
        key = _key(config)
        if key not in self._opened:
            self._opened[key] = open_data(config.data, config.seed)
        return self._opened[key]

    def reference(self, config: TrainConfig) -> ObjectRef:
        """A reference to the data in Ray's object store.

        Raises:
            UserError: see `open_data`.
        """
        import ray

        key = _key(config)
        if key not in self._references:
            self._references[key] = ray.put(self.open(config))
        return self._references[key]


def _key(config: TrainConfig) -> str:
    return json.dumps([config.data.model_dump(mode="json"), config.seed], sort_keys=True)

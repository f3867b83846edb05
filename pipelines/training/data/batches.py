"""A worker's share of each step, read from the data set by step number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from segray.pipelines.training.data.sampler import LABELLED, UNLABELLED, generator, index_at, positions


@dataclass(frozen=True)
class Samples:
    """Images [3, h, w] uint8 of one stream, the maps [h, w] of each, and where in the stream each stands."""

    images: list[Tensor]
    maps: list[list[Tensor]]
    positions: list[int]

    def generators(self, seed: int, stream: int) -> list[torch.Generator]:
        """The random numbers of each image."""
        return [generator(seed, stream, position) for position in self.positions]

    def parts(self, count: int) -> list[Samples]:
        """`count` equal parts, in order."""
        size = len(self.images) // count
        cuts = [slice(i * size, (i + 1) * size) for i in range(count)]
        return [Samples(self.images[c], self.maps[c], self.positions[c]) for c in cuts]


@dataclass(frozen=True)
class StepSamples:
    """What one worker takes in one step."""

    step: int
    labelled: Samples
    unlabelled: Samples | None


class StepData(Dataset[StepSamples]):
    """Item `step` is this worker's share of that step; the shorter stream repeats, nothing is left out.

    Args:
        labelled: items (image, mask).
        unlabelled: items (image, zero-shot label, confidence), or None where the method needs none.
        seed: chooses the order.
        batch: images a step of each stream, over all workers.
        rank: this worker.
        workers: how many there are.
    """

    def __init__(
        self,
        labelled: Dataset[Any],
        unlabelled: Dataset[Any] | None,
        *,
        seed: int,
        batch: int,
        rank: int,
        workers: int,
    ) -> None:
        self.labelled, self.unlabelled = labelled, unlabelled
        self.seed, self.batch, self.rank, self.workers = seed, batch, rank, workers

    def __getitem__(self, step: int) -> StepSamples:
        places = positions(step, self.batch, self.rank, self.workers)
        unlabelled = self._samples(self.unlabelled, UNLABELLED, places) if self.unlabelled else None
        return StepSamples(step, self._samples(self.labelled, LABELLED, places), unlabelled)

    def _samples(self, source: Any, stream: int, places: range) -> Samples:
        items = [source[index_at(self.seed, stream, place, len(source))] for place in places]
        return Samples([item[0] for item in items], [list(item[1:]) for item in items], list(places))


def _first(items: list[StepSamples]) -> StepSamples:
    return items[0]


def steps(data: StepData, first: int, last: int, loaders: int) -> Iterator[StepSamples]:
    """The samples of steps `first` to `last` - 1, in order, read ahead by `loaders` processes if any."""
    loader = DataLoader(
        data,
        sampler=range(first, last),
        batch_size=1,
        collate_fn=_first,
        num_workers=loaders,
        prefetch_factor=2 if loaders else None,
        persistent_workers=False,
    )
    return iter(loader)

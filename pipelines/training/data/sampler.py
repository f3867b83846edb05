"""Which image comes when, and each worker's share of it: a function of seed and step, so that any step can
be repeated.

A step takes a batch from each of two streams, labelled and unlabelled images. A stream passes over all of its
images again and again, each pass in a new order, so that the shorter stream repeats and no image is left out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import islice
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

LABELLED, UNLABELLED = 0, 1
"""The two streams."""
_PAIRS = 2


@lru_cache(maxsize=16)
def _permutation(seed: int, stream: int, cycle: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, stream, cycle]).permutation(count)


def index_at(seed: int, stream: int, position: int, count: int) -> int:
    """The image at a position of a stream of `count` images."""
    cycle, place = divmod(position, count)
    return int(_permutation(seed, stream, cycle, count)[place])


def generator(seed: int, stream: int, position: int) -> torch.Generator:
    """The random numbers of the image at a position, the same on every worker."""
    words = np.random.SeedSequence([seed, stream, position, 77]).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(words[0]) << 31 ^ int(words[1]))


def step_seed(seed: int, step: int, rank: int) -> int:
    """Seed of the random numbers that a network draws itself in a step (dropout, stochastic depth)."""
    return int(np.random.SeedSequence([seed, step, rank, 78]).generate_state(1, np.uint32)[0])


def positions(step: int, batch: int, rank: int, workers: int, parts: int = 1) -> list[int]:
    """Positions in either stream that a worker takes in a step: its slice of each part of the batch.

    Which images a part has does not depend on the workers. Where their number does not divide a part, some
    take one image more than others.
    """
    size = batch // parts
    first, end = size * rank // workers, size * (rank + 1) // workers
    return [step * batch + part * size + i for part in range(parts) for i in range(first, end)]


def partner_of(position: int) -> int:
    """The position of an image's CutMix partner, the other one of its pair.

    It depends on the position alone, so that workers and parts of a batch do not matter.
    """
    return position ^ 1


def absent_partners(share: Sequence[int]) -> list[int]:
    """Partners that are not among the images themselves: of a slice at most those of its two ends."""
    return [partner for p in share if (partner := partner_of(p)) not in share]


def one_of_each_pair(seed: int, share: Sequence[int]) -> list[bool]:
    """For each position whether its image was drawn from its pair: half of any even batch."""
    coins = [torch.rand((), generator=generator(seed, _PAIRS, p // 2)) < 0.5 for p in share]
    return [p % 2 == int(coin) for p, coin in zip(share, coins, strict=True)]


def steps_in_epoch(count: int, batch: int) -> int:
    """Steps of one pass over `count` images; the last one reaches into the next pass."""
    return -(-count // batch)


@dataclass(frozen=True)
class Batch:
    """A worker's share of one stream in one step.

    Attributes:
        images: uint8 [3, h, w] each.
        maps: for each image its maps [h, w].
        positions: of each image in the stream.
        paired: the CutMix partner of each image is there.
        borrowed: the last so many images are partners alone, which another worker or part learns from.
    """

    images: list[Tensor]
    maps: list[list[Tensor]]
    positions: list[int]
    paired: bool = False
    borrowed: int = 0

    @property
    def own(self) -> int:
        """How many images, the first ones, the worker learns from."""
        return len(self.images) - self.borrowed

    def partners(self) -> list[int]:
        """For each own image the index of its partner; where the batch is not paired perhaps its own."""
        places = {position: i for i, position in enumerate(self.positions)}
        return [places.get(partner_of(p), i) for i, p in enumerate(self.positions[: self.own])]

    def generators(self, seed: int, stream: int) -> list[torch.Generator]:
        """The random numbers of each image."""
        return [generator(seed, stream, position) for position in self.positions]

    def parts(self, count: int) -> list[Batch]:
        """`count` equal parts of the own images, in order; of a paired batch each is paired as well."""
        size, partners = self.own // count, self.partners()
        return [self._part(range(i * size, (i + 1) * size), partners) for i in range(count)]

    def _part(self, own: range, partners: list[int]) -> Batch:
        lacking = [partners[i] for i in own if partners[i] not in own] if self.paired else []
        chosen = [*own, *lacking]
        return Batch(
            [self.images[i] for i in chosen],
            [self.maps[i] for i in chosen],
            [self.positions[i] for i in chosen],
            self.paired,
            len(lacking),
        )

    def pin_memory(self) -> Batch:
        """The same in pinned memory, from which copies to a GPU do not wait."""
        maps = [[m.pin_memory() for m in group] for group in self.maps]
        return replace(self, images=[image.pin_memory() for image in self.images], maps=maps)


@dataclass(frozen=True)
class StepBatch:
    """A worker's share of both streams in one step; no unlabelled images where the step uses none."""

    step: int
    labelled: Batch
    unlabelled: Batch | None

    def parts(self, count: int) -> list[StepBatch]:
        """`count` equal parts, in order."""
        if count == 1:
            return [self]
        labelled = self.labelled.parts(count)
        unlabelled = self.unlabelled.parts(count) if self.unlabelled else [None] * count
        return [StepBatch(self.step, a, b) for a, b in zip(labelled, unlabelled, strict=True)]

    def pin_memory(self) -> StepBatch:
        """The same in pinned memory."""
        unlabelled = self.unlabelled.pin_memory() if self.unlabelled else None
        return StepBatch(self.step, self.labelled.pin_memory(), unlabelled)


class ImageMaps(Sized, Protocol):
    """Random access to images uint8 [3, h, w], each with one map [h, w] or more."""

    def __getitem__(self, index: int, /) -> tuple[Tensor, ...]: ...


class StepDataset(Dataset[StepBatch]):
    """Sample `step` is this worker's share of that step.

    Args:
        labelled: items (image, mask).
        unlabelled: items (image, zero-shot label, confidence); None where the method uses none.
        seed: of the order.
        batch: images per step in each stream, over all workers.
        rank: this worker.
        workers: how many there are.
        parts: that a worker takes its share in (`train.accumulate`).
        paired: unlabelled images come with their CutMix partners, whoever learns from these.
        supervised: steps, the first ones, without unlabelled images. The steps after them have the images and
            the random numbers that they have without such a start, as a position depends on the step alone.
        readers: threads that read the images of a step. Above 1 the data set cannot be pickled.
    """

    def __init__(
        self,
        labelled: ImageMaps,
        unlabelled: ImageMaps | None,
        *,
        seed: int,
        batch: int,
        rank: int,
        workers: int,
        parts: int = 1,
        paired: bool = False,
        supervised: int = 0,
        readers: int = 1,
    ) -> None:
        self.paired, self.supervised = paired, supervised
        self._each = ThreadPoolExecutor(readers).map if readers > 1 else map
        self.labelled, self.unlabelled = labelled, unlabelled
        self.seed = seed
        self._share = partial(positions, batch=batch, rank=rank, workers=workers, parts=parts)

    def __getitem__(self, step: int) -> StepBatch:
        share = self._share(step)
        labelled, unlabelled = self._read(self.labelled, LABELLED, share), None
        if self.unlabelled is not None and step >= self.supervised:
            unlabelled = self._read(self.unlabelled, UNLABELLED, share, self.paired)
        return StepBatch(step, labelled, unlabelled)

    def _read(self, source: ImageMaps, stream: int, share: list[int], paired: bool = False) -> Batch:
        borrowed = absent_partners(share) if paired else []
        chosen = [*share, *borrowed]
        indices = [index_at(self.seed, stream, position, len(source)) for position in chosen]
        items = list(self._each(source.__getitem__, indices))
        maps = [list(item[1:]) for item in items]
        return Batch([item[0] for item in items], maps, chosen, paired, len(borrowed))


def step_batches(data: StepDataset, first: int, last: int, loaders: int) -> Iterator[StepBatch]:
    """The batches of steps `first` to `last` - 1, in order.

    Args:
        data: the batches by step.
        first: the first step.
        last: the step after the last.
        loaders: processes that read ahead; 0: this process reads.
    """
    loader = DataLoader(
        data,
        sampler=range(first, last),
        batch_size=1,
        collate_fn=_only,
        num_workers=loaders,
        prefetch_factor=2 if loaders else None,
        persistent_workers=False,
    )
    return iter(loader)


def read_ahead(batches: Iterator[StepBatch], depth: int = 2) -> Iterator[StepBatch]:
    """The same batches, of which a thread reads up to `depth` while another one is used."""
    # Not yet during the first: that step is recorded as CUDA graphs, which another thread's memory spoils.
    yield from islice(batches, 1)
    with ThreadPoolExecutor(1) as thread:
        waiting = deque(thread.submit(next, batches, None) for _ in range(depth))
        while (batch := waiting.popleft().result()) is not None:
            waiting.append(thread.submit(next, batches, None))
            yield batch


def _only(batches: list[StepBatch]) -> StepBatch:
    return batches[0]

"""Which image stands where in a run: a function of seed and position, so that any step can be redone."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

LABELLED, UNLABELLED = 0, 1
"""The two streams of a step."""


@lru_cache(maxsize=16)
def _permutation(seed: int, stream: int, cycle: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, stream, cycle]).permutation(count)


def index_at(seed: int, stream: int, position: int, count: int) -> int:
    """The image at a position of a stream: pass after pass over all `count` images, each in a new order."""
    cycle, place = divmod(position, count)
    return int(_permutation(seed, stream, cycle, count)[place])


def generator(seed: int, stream: int, position: int) -> torch.Generator:
    """The random numbers of one image at one position, the same on whatever worker it falls."""
    words = np.random.SeedSequence([seed, stream, position, 77]).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(words[0]) << 31 ^ int(words[1]))


def step_seed(seed: int, step: int, rank: int) -> int:
    """Seed of whatever a network draws itself in a step (dropout, stochastic depth)."""
    return int(np.random.SeedSequence([seed, step, rank, 78]).generate_state(1, np.uint32)[0])


def positions(step: int, batch: int, rank: int, workers: int) -> range:
    """Positions in either stream that a worker takes in a step: its slice of the batch."""
    share = batch // workers
    first = step * batch + rank * share
    return range(first, first + share)


def steps_in_epoch(count: int, batch: int) -> int:
    """Steps of one pass over `count` images; the last one reaches into the next pass."""
    return -(-count // batch)

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from segray.pipelines.training.data.batches import Samples, StepData, StepSamples, steps


class Numbers(Dataset[Any]):
    """Item i is a picture full of i, and a map of the same."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.full((3, 2, 2), index), torch.full((2, 2), index)


def data(rank: int = 0, workers: int = 1, unlabelled: bool = True) -> StepData:
    other = Numbers(10) if unlabelled else None
    return StepData(Numbers(3), other, seed=1, batch=4, rank=rank, workers=workers)


def seen(samples: Samples | None) -> list[int]:
    assert samples is not None
    return [int(image[0, 0, 0]) for image in samples.images]


def test_the_shorter_stream_repeats_and_nothing_is_left_out() -> None:
    items = list(steps(data(), 0, 15, 0))
    labelled = [i for item in items for i in seen(item.labelled)]
    unlabelled = [i for item in items for i in seen(item.unlabelled)]
    assert [labelled.count(i) for i in range(3)] == [20, 20, 20]
    assert [unlabelled.count(i) for i in range(10)] == [6] * 10
    assert [item.step for item in items] == list(range(15))


def test_maps_stay_with_their_images() -> None:
    samples = data()[4].labelled
    assert [int(maps[0][0, 0]) for maps in samples.maps] == seen(samples)


def test_two_workers_take_what_one_takes() -> None:
    whole, halves = data()[3], [data(rank, 2)[3] for rank in range(2)]
    assert seen(whole.unlabelled) == seen(halves[0].unlabelled) + seen(halves[1].unlabelled)
    assert whole.labelled.positions == halves[0].labelled.positions + halves[1].labelled.positions


def test_a_method_without_unlabelled_images_reads_none() -> None:
    assert data(unlabelled=False)[0].unlabelled is None


@pytest.mark.parametrize("loaders", [0, 2])
def test_a_run_that_starts_later_sees_the_same_steps(loaders: int) -> None:
    def trace(items: list[StepSamples]) -> list[list[int]]:
        return [seen(item.unlabelled) for item in items]

    assert trace(list(steps(data(), 0, 6, 0)))[4:] == trace(list(steps(data(), 4, 6, loaders)))


def test_parts_of_a_share_are_in_order() -> None:
    samples = data()[2].labelled
    first, second = samples.parts(2)
    assert first.positions + second.positions == samples.positions
    assert seen(first) + seen(second) == seen(samples)

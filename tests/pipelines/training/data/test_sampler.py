from __future__ import annotations

import torch

from segray.pipelines.training.data.sampler import (
    LABELLED,
    UNLABELLED,
    generator,
    index_at,
    positions,
    step_seed,
    steps_in_epoch,
)


def test_each_pass_holds_each_image_once_in_an_order_of_its_own() -> None:
    passes = [[index_at(3, UNLABELLED, 7 * cycle + i, 7) for i in range(7)] for cycle in range(3)]
    assert [sorted(p) for p in passes] == [list(range(7))] * 3
    assert passes[0] != passes[1] != passes[2]


def test_the_order_depends_on_seed_and_stream_alone() -> None:
    def order(seed: int, stream: int) -> list[int]:
        return [index_at(seed, stream, i, 50) for i in range(50)]

    assert order(1, LABELLED) == order(1, LABELLED)
    assert order(1, LABELLED) != order(1, UNLABELLED)
    assert order(1, LABELLED) != order(2, LABELLED)


def test_workers_share_a_batch_without_gap_or_overlap() -> None:
    whole = list(positions(5, 8, 0, 1))
    shared = [p for rank in range(4) for p in positions(5, 8, rank, 4)]
    assert whole == shared == list(range(40, 48))


def test_random_numbers_belong_to_the_position() -> None:
    def draw(seed: int, stream: int, position: int) -> float:
        return torch.rand((), generator=generator(seed, stream, position)).item()

    places = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)]
    assert len({draw(*place) for place in places}) == 4
    assert draw(0, 0, 1) == draw(0, 0, 1)
    assert len({step_seed(0, step, rank) for step in range(9) for rank in range(3)}) == 27


def test_an_epoch_reaches_every_image() -> None:
    assert [steps_in_epoch(n, 8) for n in (1, 8, 9, 16, 17)] == [1, 1, 2, 2, 3]

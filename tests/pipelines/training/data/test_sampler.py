from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch.utils.data import Dataset

from segray.pipelines.errors import UserError
from segray.pipelines.training.data.sampler import (
    LABELLED,
    UNLABELLED,
    Batch,
    StepBatch,
    StepDataset,
    generator,
    index_at,
    one_of_each_pair,
    positions,
    read_ahead,
    step_batches,
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
    whole = list(range(40, 48))
    for workers in range(1, 9):
        shares = [positions(5, 8, rank, workers) for rank in range(workers)]
        assert [p for share in shares for p in share] == whole
        assert {len(share) for share in shares} <= {8 // workers, -(-8 // workers)}


def test_a_part_has_the_same_images_however_many_workers_share_it() -> None:
    for workers in range(1, 5):
        shares = [positions(5, 8, rank, workers, parts=2) for rank in range(workers)]
        first = [p for share in shares for p in share[: len(share) // 2]]
        last = [p for share in shares for p in share[len(share) // 2 :]]
        assert (first, last) == ([40, 41, 42, 43], [44, 45, 46, 47])


def test_random_numbers_belong_to_the_position() -> None:
    def draw(seed: int, stream: int, position: int) -> float:
        return torch.rand((), generator=generator(seed, stream, position)).item()

    places = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)]
    assert len({draw(*place) for place in places}) == 4
    assert draw(0, 0, 1) == draw(0, 0, 1)
    assert len({step_seed(0, step, rank) for step in range(9) for rank in range(3)}) == 27


def test_half_of_each_batch_is_drawn_however_it_is_shared() -> None:
    drawn = one_of_each_pair(3, range(400))
    assert all(a != b for a, b in zip(drawn[::2], drawn[1::2], strict=True))
    assert 60 < sum(drawn[::2]) < 140
    assert [one_of_each_pair(3, [p])[0] for p in range(40)] == drawn[:40]
    assert one_of_each_pair(4, range(40)) != drawn[:40]


def test_an_epoch_reaches_every_image() -> None:
    assert [steps_in_epoch(n, 8) for n in (1, 8, 9, 16, 17)] == [1, 1, 2, 2, 3]


class Numbers(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Sample i is an image full of i, and a map of the same."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.full((3, 2, 2), index), torch.full((2, 2), index)


def data(rank: int = 0, workers: int = 1, unlabelled: bool = True, readers: int = 1) -> StepDataset:
    other = Numbers(10) if unlabelled else None
    return StepDataset(Numbers(3), other, seed=1, batch=4, rank=rank, workers=workers, readers=readers)


def seen(batch: Batch | None) -> list[int]:
    assert batch is not None
    return [int(image[0, 0, 0]) for image in batch.images]


def test_the_shorter_stream_repeats_and_nothing_is_left_out() -> None:
    batches = list(step_batches(data(), 0, 15, 0))
    labelled = [i for batch in batches for i in seen(batch.labelled)]
    unlabelled = [i for batch in batches for i in seen(batch.unlabelled)]
    assert [labelled.count(i) for i in range(3)] == [20, 20, 20]
    assert [unlabelled.count(i) for i in range(10)] == [6] * 10
    assert [batch.step for batch in batches] == list(range(15))


def test_maps_stay_with_their_images() -> None:
    batch = data()[4].labelled
    assert [int(maps[0][0, 0]) for maps in batch.maps] == seen(batch)


def test_two_workers_take_what_one_takes() -> None:
    whole, halves = data()[3], [data(rank, 2)[3] for rank in range(2)]
    assert seen(whole.unlabelled) == seen(halves[0].unlabelled) + seen(halves[1].unlabelled)
    assert whole.labelled.positions == halves[0].labelled.positions + halves[1].labelled.positions


def test_a_method_without_unlabelled_images_reads_none() -> None:
    assert data(unlabelled=False)[0].unlabelled is None


def test_a_supervised_start_reads_labelled_images_alone_and_changes_no_step_after_it() -> None:
    read: list[int] = []

    class Watched(Numbers):
        def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
            read.append(index)
            return super().__getitem__(index)

    late = StepDataset(Numbers(3), Watched(10), seed=1, batch=4, rank=0, workers=1, paired=True, supervised=2)
    plain = StepDataset(Numbers(3), Numbers(10), seed=1, batch=4, rank=0, workers=1, paired=True)
    first = [late[step] for step in range(2)]
    assert [batch.unlabelled for batch in first] == [None, None]
    assert read == []
    assert [seen(batch.labelled) for batch in first] == [seen(plain[step].labelled) for step in range(2)]
    for step in range(2, 5):
        own, other = late[step].unlabelled, plain[step].unlabelled
        assert own is not None
        assert other is not None
        assert (own.positions, seen(own)) == (other.positions, seen(other))
    assert len(read) == 12


@pytest.mark.parametrize("loaders", [0, 2])
def test_a_run_that_starts_later_sees_the_same_steps(loaders: int) -> None:
    def trace(batches: list[StepBatch]) -> list[list[int]]:
        return [seen(batch.unlabelled) for batch in batches]

    assert trace(list(step_batches(data(), 0, 6, 0)))[4:] == trace(list(step_batches(data(), 4, 6, loaders)))


def test_parts_of_a_share_are_in_order() -> None:
    batch = data()[2].labelled
    first, second = batch.parts(2)
    assert first.positions + second.positions == batch.positions
    assert seen(first) + seen(second) == seen(batch)


def test_threads_read_the_batches_of_one() -> None:
    one, several = data(), data(readers=3)
    for step in range(4):
        for a, b in zip(one[step].labelled.images, several[step].labelled.images, strict=True):
            assert torch.equal(a, b)


def test_batches_that_are_read_ahead_come_in_order() -> None:
    batches = list(read_ahead(step_batches(data(), 2, 9, 0)))
    assert [batch.step for batch in batches] == list(range(2, 9))


def test_what_cannot_be_read_ahead_is_raised() -> None:
    def broken() -> Iterator[StepBatch]:
        yield data()[0]
        raise UserError("mask is gone")

    batches = read_ahead(broken())
    assert next(batches).step == 0
    with pytest.raises(UserError, match="mask is gone"):
        next(batches)

"""CutMix between the images of a step, however they are shared."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from segray.models.semi.objective import PseudoLabel
from segray.pipelines.config.commands.train import AugmentConfig
from segray.pipelines.training.augmentation.views import Augmentation, Views
from segray.pipelines.training.data.sampler import StepBatch, StepDataset, partner_of

ALWAYS = AugmentConfig(crop=32, cutmix=1.0, cutmix_area=(0.2, 0.4))


class Noise(Dataset[tuple[Tensor, ...]]):
    """Image i is noise of its own; its maps are full of i."""

    def __init__(self, count: int, maps: int) -> None:
        self.count, self.maps = count, maps

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(index)
        image = torch.randint(0, 256, (3, 40, 36), generator=generator, dtype=torch.uint8)
        maps = [torch.full((40, 36), index, dtype=torch.uint8) for _ in range(self.maps)]
        return image, *maps


def shares(step: int, batch: int, workers: int, accumulate: int = 1) -> list[StepBatch]:
    """All parts of all workers' shares of a step, in the order of their images."""

    def parts_of(rank: int) -> list[StepBatch]:
        data = StepDataset(
            *(Noise(5, 1), Noise(19, 2)),
            seed=3,
            batch=batch,
            rank=rank,
            workers=workers,
            parts=accumulate,
            paired=True,
        )
        return data[step].parts(accumulate)

    together = zip(*map(parts_of, range(workers)), strict=True)
    return [part for parts in together for part in parts]


def views(parts: list[StepBatch]) -> list[Views]:
    augmentation = Augmentation(ALWAYS, 2, 7, torch.device("cpu"))
    return [augmentation(part)[0] for part in parts]


def joined(parts: list[Views], of: Callable[[Views], Tensor]) -> Tensor:
    return torch.cat([of(part) for part in parts])


class Levels(Dataset[tuple[Tensor, ...]]):
    """Images with the label 1 and a confidence of 253, 254 or 255 in all pixels."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        maps = [torch.full((40, 36), value, dtype=torch.uint8) for value in (1, 253 + index % 3)]
        return torch.zeros(3, 40, 36, dtype=torch.uint8), *maps


def test_the_greatest_confidence_is_a_person_s() -> None:
    steps = StepDataset(Noise(5, 1), Levels(), seed=3, batch=6, rank=0, workers=1, paired=True)
    for view in views([steps[0]]):
        assert view.by_hand is not None
        assert view.confidence is not None
        assert view.padding is not None
        inside = ~view.padding
        levels = [
            round(float(of[known].amax()), 4) for of, known in zip(view.confidence, inside, strict=True)
        ]
        hands = [bool(of[known].all()) for of, known in zip(view.by_hand, inside, strict=True)]
        assert sorted(levels) == [0.9922] * 2 + [1.0] * 4
        assert sorted(hands) == [False] * 4 + [True] * 2
        assert all(level == 1 for level, hand in zip(levels, hands, strict=True) if hand)
        assert not (view.by_hand & view.padding).any()


def own(view: Views, tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    assert view.partner is not None
    return tensor[: len(view.partner)]


def mixed_label(view: Views, k: int) -> Tensor:
    """The label of a strong view whose pseudo-label is the zero-shot one."""
    assert view.zero_shot is not None
    assert view.padding is not None
    assert view.partner is not None
    partner = view.partner
    label = PseudoLabel(view.zero_shot, ~view.padding, view.padding)
    mixed = label.reordered(lambda x: x[: len(partner)]).mixed(
        label.reordered(lambda x: x.index_select(0, partner)), view.boxes[k]
    )
    return mixed.label


@pytest.mark.parametrize(("workers", "accumulate"), [(8, 1), (1, 8), (2, 4), (4, 1), (3, 1), (3, 2)])
def test_workers_and_parts_see_what_one_worker_sees(workers: int, accumulate: int) -> None:
    (alone,) = views(shares(5, 8, 1))
    parts = views(shares(5, 8, workers, accumulate))
    assert len(parts) == workers * accumulate
    assert torch.equal(joined(parts, lambda v: v.labelled), alone.labelled)
    assert torch.equal(joined(parts, lambda v: own(v, v.weak)), own(alone, alone.weak))
    for k in range(2):
        assert torch.equal(joined(parts, lambda v: v.strong[k]), alone.strong[k])  # noqa: B023
        assert torch.equal(joined(parts, lambda v: v.boxes[k]), alone.boxes[k])  # noqa: B023
        assert torch.equal(joined(parts, lambda v: mixed_label(v, k)), mixed_label(alone, k))  # noqa: B023


@pytest.mark.parametrize(("batch", "workers"), [(8, 8), (3, 1), (1, 1), (6, 2)])
def test_every_image_has_the_other_one_of_its_pair_pasted_in(batch: int, workers: int) -> None:
    for step in range(3):
        for part, view in zip(shares(step, batch, workers), views(shares(step, batch, workers)), strict=True):
            assert part.unlabelled is not None
            assert view.partner is not None
            positions = part.unlabelled.positions
            for i, partner in enumerate(view.partner.tolist()):
                assert positions[partner] == partner_of(positions[i]) != positions[i]
                inside = mixed_label(view, 0)[i][view.boxes[0][i]]
                assert set(inside.tolist()) - {255} == {int(part.unlabelled.maps[partner][0][0, 0])}


@pytest.mark.parametrize(
    ("batch", "workers", "borrowed"), [(8, 8, 1), (3, 1, 1), (6, 2, 1), (8, 4, 0), (8, 1, 0)]
)
def test_an_odd_share_borrows_one_image(batch: int, workers: int, borrowed: int) -> None:
    """The same in each step, as recorded steps have one shape; of labelled images none."""
    for step in range(4):
        for part in shares(step, batch, workers):
            assert part.unlabelled is not None
            assert part.unlabelled.borrowed == borrowed
            assert part.unlabelled.own == part.labelled.own == len(part.labelled.images) == batch // workers


def test_without_cutmix_nothing_is_borrowed() -> None:
    data = StepDataset(Noise(5, 1), Noise(19, 2), seed=3, batch=8, rank=1, workers=8)
    for part in (data[2], *data[2].parts(1)):
        assert part.unlabelled is not None
        assert len(part.unlabelled.images) == 1
    whole = StepDataset(Noise(5, 1), Noise(19, 2), seed=3, batch=8, rank=0, workers=1)[2]
    assert [len(part.unlabelled.images) for part in whole.parts(8) if part.unlabelled] == [1] * 8

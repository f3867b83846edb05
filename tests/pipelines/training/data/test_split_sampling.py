from __future__ import annotations

import numpy as np
import pytest

from segray.pipelines.errors import UserError
from segray.pipelines.training.data.split_sampling import amount, balanced_sample, is_amount


def contents(n: int = 400, seed: int = 5) -> list[frozenset[int]]:
    """Background everywhere, class 1 in half of the images, ..., class 5 in one of a hundred."""
    rng = np.random.default_rng(seed)
    shares = [1.0, 0.5, 0.3, 0.1, 0.03, 0.01]
    return [frozenset(np.flatnonzero(rng.random(6) < shares).tolist()) for _ in range(n)]


def counts(chosen: list[int], all_contents: list[frozenset[int]]) -> list[int]:
    return [sum(class_id in all_contents[i] for i in chosen) for class_id in range(6)]


@pytest.mark.parametrize("seed", range(5))
def test_each_class_has_about_its_share(seed: int) -> None:
    images = contents()
    chosen = balanced_sample(images, 40, [seed])
    share = [c / 10 for c in counts(list(range(400)), images)]
    got = counts(chosen, images)
    assert len(set(chosen)) == 40
    assert all(g >= max(1, round(s) - 1) for g, s in zip(got, share, strict=True))
    assert all(g <= 1.5 * s + 2 for g, s in zip(got, share, strict=True)), (got, share)


def test_a_rare_class_is_in_where_chance_alone_would_leave_it_out() -> None:
    images = [frozenset({0, 1})] * 199 + [frozenset({0, 2})]
    assert all(199 in balanced_sample(images, 2, [seed]) for seed in range(10))


def test_few_images_cover_as_many_classes_as_they_can() -> None:
    pairs = [frozenset({a, a + 1}) for a in range(0, 8, 2)] * 5 + [frozenset({a}) for a in range(8)] * 5
    chosen = balanced_sample(pairs, 4, [3])
    assert frozenset().union(*(pairs[i] for i in chosen)) == set(range(8))


def test_a_seed_gives_one_draw_and_another_seed_another() -> None:
    images = contents()
    assert balanced_sample(images, 40, [1, 2]) == balanced_sample(images, 40, [1, 2])
    assert balanced_sample(images, 40, [1, 2]) != balanced_sample(images, 40, [1, 3])
    assert balanced_sample(images, 40, [1, 2]) == sorted(balanced_sample(images, 40, [1, 2]))


def test_images_without_any_class_fill_up() -> None:
    assert balanced_sample([frozenset()] * 3, 2, [0]) == sorted(balanced_sample([frozenset()] * 3, 2, [0]))
    assert len(balanced_sample([frozenset(), frozenset({1}), frozenset()], 3, [0])) == 3


@pytest.mark.parametrize(
    ("text", "count", "wanted"),
    [
        ("92", 1464, 92),
        ("1/16", 1464, 92),
        ("1/8", 1464, 183),
        ("1/512", 118287, 232),
        ("1/32", 118287, 3697),
    ],
)
def test_shares_give_the_published_counts(text: str, count: int, wanted: int) -> None:
    assert amount(text, count, "data.labelled") == wanted


def test_what_is_an_amount() -> None:
    assert [t for t in ("all", "92", "1/16", "splits/92", "1/16/labelled.txt", "92.txt") if is_amount(t)] == [
        "all",
        "92",
        "1/16",
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("0", "data.labelled=0: 30 training images have masks (allowed: 1 to 30)"),
        ("31", "data.labelled=31: 30 training images have masks (allowed: 1 to 30)"),
        ("1/0", "data.labelled: 1/0 is not a valid share (allowed: above 0 and at most 1/1)"),
        ("3/2", "data.labelled: 3/2 is not a valid share (allowed: above 0 and at most 1/1)"),
    ],
)
def test_impossible_amounts_are_refused(text: str, line: str) -> None:
    with pytest.raises(UserError) as caught:
        amount(text, 30, "data.labelled")
    assert str(caught.value) == line

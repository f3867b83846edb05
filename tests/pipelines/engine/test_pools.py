from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from segray.pipelines.config.commands.annotate import ClipConfig, Pool, SamConfig
from segray.pipelines.engine.cluster import Resources
from segray.pipelines.engine.pools import (
    PoolPlan,
    Size,
    at_most,
    balanced,
    fair_share,
    plan,
    plan_alone,
    rows_per_block,
    shared,
)
from segray.pipelines.engine.ray_data import TASK_CPUS
from segray.pipelines.errors import UserError


def plans(
    cpus: float, gpus: float = 0, sam: dict[str, object] | None = None, clip: dict[str, object] | None = None
) -> tuple[PoolPlan, PoolPlan]:
    return plan(
        SamConfig.model_validate(sam or {}), ClipConfig.model_validate(clip or {}), Resources(cpus, gpus)
    )


@pytest.mark.parametrize(
    ("cpus", "sam_workers", "clip_workers", "share", "threads"),
    [(1, 1, 1, 0.0, 1), (2, 2, 1, 5 / 16, 1), (16, 16, 2, 0.5, 1), (64, 64, 10, 0.5, 1)],
)
def test_without_gpus_sam_runs_on_every_cpu(
    cpus: int, sam_workers: int, clip_workers: int, share: float, threads: int
) -> None:
    sam, clip = plans(cpus)
    assert (sam.workers, sam.max_workers, sam.num_gpus, sam.threads) == (sam_workers, sam_workers, 0, threads)
    assert (clip.workers, clip.max_workers, clip.num_gpus) == (clip_workers, clip_workers, 0)
    assert sam.num_cpus == clip.num_cpus == share


@pytest.mark.parametrize("cpus", [1, 2, 3, 4, 5, 7, 8, 12, 31, 32, 96, 1000])
@pytest.mark.parametrize(
    ("sam", "clip"),
    [
        ({}, {}),
        ({"workers": 1}, {}),
        ({"workers": 40}, {"workers": 3}),
        ({"max_workers": 2}, {"max_workers": 1}),
    ],
)
def test_one_whole_cpu_stays_free(cpus: int, sam: dict[str, object], clip: dict[str, object]) -> None:
    pools = plans(cpus, sam=sam, clip=clip)
    assert all(pool.num_cpus >= 0 for pool in pools)
    assert sum(pool.workers * pool.num_cpus for pool in pools) <= cpus - 1


@pytest.mark.parametrize("cpus", range(1, 66))
def test_what_actors_hold_adds_up_without_rounding(cpus: int) -> None:
    pools = plans(cpus)
    held = [pool.num_cpus for pool in pools for _ in range(pool.workers)]
    # As Ray Data counts: all that runs, less each of the actors, leaves exactly one task.
    left = sum([*held, TASK_CPUS])
    for share in held:
        left -= round(share, 5)
    assert left == TASK_CPUS


@pytest.mark.parametrize(
    ("cpus", "gpus", "clip", "expected"),
    [
        (2, 0, {}, PoolPlan(2, 2, 0.5, 0, 1, 4)),
        (1, 0, {}, PoolPlan(1, 1, 0, 0, 1, 4)),
        (8, 0, {"workers": 2}, PoolPlan(2, 2, 0.5, 0, 4, 16)),
        (8, 4, {}, PoolPlan(4, 4, 0, 1, 1, 4)),
        (8, 4, {"workers": 8, "num_gpus": 0.5}, PoolPlan(8, 8, 0, 0.5, 1, 4)),
    ],
)
def test_the_only_model_has_everything(
    cpus: int, gpus: int, clip: dict[str, object], expected: PoolPlan
) -> None:
    config = ClipConfig.model_validate(clip)
    assert plan_alone(config, Resources(cpus, gpus)) == expected


def test_a_model_that_fills_a_node_has_one_worker_on_each_and_small_batches() -> None:
    alone = plan_alone(Pool(), Resources(32, 0, 2, (16, 16)), 100, per_node=True)
    assert (alone.workers, alone.threads, alone.batch_size) == (2, 16, 4)
    assert plan_alone(Pool(), Resources(8, 4), 100, per_node=True).workers == 4
    assert plan_alone(Pool(batch_size=9), Resources(8, 0), 100, per_node=True).batch_size == 9


def test_the_only_model_cannot_have_more_than_there_is() -> None:
    with pytest.raises(UserError, match="the cluster has 2 CPUs"):
        plan_alone(ClipConfig(workers=2, num_cpus=1), Resources(2, 0))


@pytest.mark.parametrize("gpus", [1, 2, 8])
def test_with_gpus_each_takes_one_actor_of_both(gpus: int) -> None:
    sam, clip = plans(4, gpus)
    assert sam.workers == clip.workers == gpus
    assert sam.num_cpus == clip.num_cpus == 0
    assert sam.num_gpus > clip.num_gpus > 0
    assert sam.num_gpus + clip.num_gpus == 1


def test_what_is_configured_is_kept() -> None:
    sam, clip = plans(
        16,
        4,
        {"workers": 2, "num_gpus": 1, "num_cpus": 0.5, "batch_size": 7},
        {"workers": 4, "num_gpus": 0.5, "max_workers": 4, "batch_size": 9},
    )
    assert sam == PoolPlan(2, 2, 0.5, 1, 1, 7)
    assert clip == PoolPlan(4, 4, 0.0, 0.5, 1, 9)


def test_few_sam_workers_get_the_other_cpus_as_threads() -> None:
    sam, clip = plans(16, sam={"workers": 4})
    assert (sam.threads, clip.threads) == (4, 1)


def test_threads_get_batches_that_keep_them_busy() -> None:
    assert [pool.batch_size for pool in plans(2, sam={"workers": 2})] == [4, 4]
    assert [pool.batch_size for pool in plans(16, sam={"workers": 4})] == [16, 4]
    assert plans(16, sam={"workers": 4, "batch_size": 2})[0].batch_size == 2


def test_a_pool_starts_no_larger_than_it_may_grow() -> None:
    sam, clip = plans(16, sam={"max_workers": 3}, clip={"workers": 1, "max_workers": 5})
    assert (sam.workers, sam.max_workers) == (3, 3)
    assert (clip.workers, clip.max_workers) == (1, 5)


def test_more_gpus_than_there_are_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"sam\.num_gpus .* = 2\.25, the cluster has 1 GPUs; ask for less"
    ) as caught:
        plans(4, 1, {"num_gpus": 2})
    assert caught.value.exit_code == 2
    with pytest.raises(UserError, match="the cluster has 0 GPUs"):
        plans(4, 0, {"num_gpus": 0.5})


@pytest.mark.parametrize(("cpus", "share"), [(4, 2), (2, 1), (1, 0.5)])
def test_more_cpus_than_can_be_spared_are_refused(cpus: int, share: float) -> None:
    with pytest.raises(UserError, match=rf"the cluster has {cpus} CPUs and one must stay free to read"):
        plans(cpus, sam={"workers": 2, "num_cpus": share})


@pytest.mark.parametrize("gpus", [0, 2])
def test_a_cluster_without_a_cpu_is_refused(gpus: int) -> None:
    with pytest.raises(UserError, match="the cluster has 0 CPUs and one must stay free to read"):
        plans(0, gpus)


def test_every_machine_of_every_size_can_be_planned_for() -> None:
    for cpus, gpus in itertools.product([1, 2, 3, 6, 8, 48, 256], [0, 1, 3, 8, 64]):
        pools = plans(cpus, gpus)
        assert sum(pool.workers * pool.num_gpus for pool in pools) <= gpus + 1e-6
        assert all(pool.workers >= 1 and pool.threads >= 1 for pool in pools)


def test_a_pool_that_shrinks_is_no_configuration() -> None:
    with pytest.raises(ValueError, match="less than workers"):
        Pool(workers=3, max_workers=2)


def test_pool_that_may_grow_leaves_a_cpu_free_when_it_has_grown() -> None:
    sam, clip = plans(4, sam={"workers": 1, "max_workers": 8})
    assert sam.workers == 1
    assert sam.max_workers * sam.num_cpus + clip.max_workers * clip.num_cpus <= 3


def test_threads_of_a_worker_are_not_spread_over_nodes() -> None:
    sam, _ = plan(SamConfig(workers=1), ClipConfig(), Resources(6, 0, 4, (2, 2, 2)))
    assert sam.threads == 2


# Sizes from a probe


def measured(sam: float, clip: float) -> dict[str, float]:
    return {"read": 0.01, "sam": sam, "clip": clip, "encode": 0.01}


@pytest.mark.parametrize(
    ("sam", "clip", "expected"),
    [
        (0.25, 0.025, {1: (1, 1), 2: (2, 1), 16: (14, 2), 64: (55, 6)}),
        (0.1, 0.1, {1: (1, 1), 2: (1, 1), 16: (8, 8), 64: (30, 30)}),
        (0.025, 0.25, {1: (1, 1), 2: (1, 2), 16: (2, 14), 64: (6, 55)}),
    ],
)
def test_cpus_are_divided_by_seconds(sam: float, clip: float, expected: dict[int, tuple[int, int]]) -> None:
    sizes = {cpus: balanced(measured(sam, clip), Resources(cpus, 0)) for cpus in expected}
    assert {cpus: (s.workers, c.workers) for cpus, (s, c) in sizes.items()} == expected
    assert all(size.num_gpus == 0 for pair in sizes.values() for size in pair)


def test_what_reading_and_encoding_need_is_left_to_them() -> None:
    seconds = {"read": 0.1, "sam": 0.1, "clip": 0.1, "encode": 0.1}
    assert balanced(seconds, Resources(16, 0)) == (Size(4), Size(4))


@pytest.mark.parametrize(
    ("gpus", "sam", "clip", "expected"),
    [
        (1, 0.4, 0.1, (Size(1, 13 / 16), Size(1, 3 / 16))),
        (1, 0.1, 0.1, (Size(1, 9 / 16), Size(1, 7 / 16))),
        (1, 0.1, 0.9, (Size(1, 9 / 16), Size(1, 7 / 16))),
        (1, 9.0, 0.01, (Size(1, 15 / 16), Size(1, 1 / 16))),
        (2, 0.1, 0.1, (Size(1, 1), Size(1, 1))),
        (4, 1.0, 0.1, (Size(4, 15 / 16), Size(4, 1 / 16))),
        (8, 1.0, 0.1, (Size(7, 1), Size(1, 1))),
        (8, 0.1, 0.1, (Size(4, 1), Size(4, 1))),
        (8, 0.1, 1.0, (Size(1, 1), Size(7, 1))),
        (8, 1.0, 0.5, (Size(8, 11 / 16), Size(8, 5 / 16))),
        (9, 1.0, 0.5, (Size(6, 1), Size(3, 1))),
        (100, 1.0, 0.1, (Size(90, 1), Size(10, 1))),
        (100, 0.1, 1.0, (Size(9, 1), Size(91, 1))),
    ],
)
def test_gpus_are_divided_where_that_loses_less_than_sharing(
    gpus: int, sam: float, clip: float, expected: tuple[Size, Size]
) -> None:
    assert balanced(measured(sam, clip), Resources(64, gpus)) == expected


RATIOS = [(1.0, 0.1), (0.1, 0.1), (0.1, 1.0), (5.0, 0.001)]


@pytest.mark.parametrize(("sam", "clip"), RATIOS)
@pytest.mark.parametrize("gpus", [1, 2, 3, 8, 100])
def test_sizes_fit_the_gpus_and_no_gpu_gets_two_of_a_model(gpus: int, sam: float, clip: float) -> None:
    resources = Resources(4, gpus)
    pools = plan(SamConfig(), ClipConfig(), resources, balanced(measured(sam, clip), resources))
    # In fractions that floats hold exactly.
    assert sum(pool.workers * pool.num_gpus for pool in pools) == gpus
    assert pools[0].num_gpus > 0.5
    assert all(pool.num_cpus == 0 and pool.threads == 1 for pool in pools)


@pytest.mark.parametrize(("sam", "clip"), RATIOS)
@pytest.mark.parametrize("cpus", [1, 2, 3, 7, 16, 96, 1000])
def test_sizes_leave_one_whole_cpu_free(cpus: int, sam: float, clip: float) -> None:
    resources, seconds = Resources(cpus, 0), measured(sam, clip)
    pools = plan(SamConfig(), ClipConfig(), resources, balanced(seconds, resources))
    assert sum(pool.workers * pool.num_cpus for pool in pools) <= cpus - 1
    assert sum(pool.workers for pool in pools) <= cpus + 1
    assert all(pool.threads == 1 for pool in pools)
    # Each pool keeps up with what all CPUs together could do.
    for pool, name in zip(pools, ("sam", "clip"), strict=True):
        assert pool.workers / seconds[name] >= cpus / sum(seconds.values()) * (1 - 1e-5)


def test_what_is_configured_goes_before_a_size() -> None:
    sizes = (Size(7), Size(2))
    sam, clip = plan(SamConfig(workers=4), ClipConfig(), Resources(16, 0), sizes)
    assert (sam.workers, sam.threads, clip.workers) == (4, 4, 2)
    sam, clip = plan(SamConfig(), ClipConfig(workers=3, num_cpus=1), Resources(16, 0), sizes)
    assert (sam.workers, clip.workers, clip.num_cpus) == (7, 3, 1)
    sam, clip = plan(SamConfig(max_workers=5), ClipConfig(max_workers=4), Resources(16, 0), sizes)
    assert [(pool.workers, pool.max_workers) for pool in (sam, clip)] == [(5, 5), (2, 4)]
    on_gpus = (Size(7, 1), Size(1, 1))
    sam, clip = plan(SamConfig(workers=6, num_gpus=0.5), ClipConfig(), Resources(16, 8), on_gpus)
    assert (sam.workers, sam.num_gpus, clip.workers, clip.num_gpus) == (6, 0.5, 1, 1)


@pytest.mark.parametrize(("gpus", "workers"), [(0, 5), (8, 5)])
def test_a_pool_that_was_only_told_how_far_it_may_grow(gpus: int, workers: int) -> None:
    _, clip = plans(16, gpus, clip={"max_workers": 5})
    assert (clip.workers, clip.max_workers) == (workers, 5)
    sam, _ = plans(16, 8, sam={"max_workers": 20})
    assert (sam.workers, sam.max_workers) == (8, 20)


@pytest.mark.parametrize(
    ("n_images", "workers", "rows"),
    [(0, 1, 8), (480, 2, 8), (6000, 2, 46), (10**6, 2, 64), (10**6, 1000, 15), (10**6, 4000, 8)],
)
def test_long_lists_go_in_larger_blocks(n_images: int, workers: int, rows: int) -> None:
    sam = PoolPlan(workers, workers, num_cpus=0, num_gpus=0, threads=1, batch_size=4)
    clip = replace(sam, workers=1, max_workers=1)
    assert rows_per_block(n_images, {"sam": sam, "clip": clip}) == rows


def test_few_images_are_shared_out_among_the_workers() -> None:
    def share(n_images: int, *workers: int) -> int:
        plans = {str(n): PoolPlan(n, n, 0.5, 0, 1, 4) for n in workers}
        return fair_share(n_images, plans)

    assert [share(4, 2, 1), share(48, 2, 1), share(4_800, 2, 1)] == [1, 3, 300]
    assert share(48, 1, 3) == 2


def test_no_more_workers_start_than_there_are_images() -> None:
    assert at_most((Size(16), Size(2)), 3) == (Size(3), Size(2))
    assert at_most((Size(8, 0.75), Size(8, 0.25)), 1) == (Size(1, 0.75), Size(1, 0.25))
    sixteen = Resources(16, 0)
    assert [plan_alone(Pool(), sixteen, n).workers for n in (1, 5, 100)] == [1, 5, 16]
    assert plan_alone(Pool(), sixteen, 5).threads == 3
    assert plan_alone(Pool(workers=8), sixteen, 1).workers == 8
    assert plan_alone(Pool(), Resources(16, 4), 3).workers == 3


@pytest.mark.parametrize(
    ("gpus", "n_images", "sam", "workers"),
    [
        (4, 100, {}, 4),
        (4, 3, {}, 3),
        (0, 100, {}, None),
        (4, 100, {"workers": 4}, None),
        (4, 100, {"num_gpus": 0.5}, None),
    ],
)
def test_both_models_share_each_gpu_unless_a_pool_is_sized(
    gpus: int, n_images: int, sam: dict[str, object], workers: int | None
) -> None:
    found = shared(SamConfig.model_validate(sam), ClipConfig(), Resources(16, gpus), n_images)
    if workers is None:
        assert found is None
    else:
        assert found == PoolPlan(workers, workers, 0.0, 1.0, 1, 32, calls=3)


def test_a_requested_batch_size_holds_where_models_share_gpus() -> None:
    found = shared(SamConfig(), ClipConfig(batch_size=6), Resources(16, 1), 100)
    assert found is not None
    assert found.batch_size == 6


MIXED = Resources(64, 12, 3, (16, 16, 32), {"A100": 4.0, "T4": 8.0})


@pytest.mark.parametrize(
    ("sam", "clip", "expected"),
    [
        ("A100", "T4", ((4, 1.0), (8, 1.0))),
        ("A100", None, ((4, 1.0), (8, 1.0))),
        (None, "T4", ((4, 1.0), (8, 1.0))),
        ("A100", "A100", ((4, 0.75), (4, 0.25))),
    ],
)
def test_pools_on_named_gpus_take_those(
    sam: str, clip: str | None, expected: tuple[tuple[int, float], tuple[int, float]]
) -> None:
    plans = plan(SamConfig(accelerator=sam), ClipConfig(accelerator=clip), MIXED)
    assert tuple((pool.workers, pool.num_gpus) for pool in plans) == expected
    assert [pool.accelerator for pool in plans] == [sam, clip]
    assert all(pool.workers == pool.max_workers for pool in plans)


def test_a_pool_beside_one_that_takes_all_gpus_shares_them() -> None:
    only = Resources(16, 4, 1, (16,), {"A100": 4.0})
    plans = plan(SamConfig(accelerator="A100"), ClipConfig(), only)
    assert [(pool.workers, pool.num_gpus) for pool in plans] == [(4, 0.75), (4, 0.25)]


def test_few_images_start_no_more_workers_on_named_gpus() -> None:
    sizes = at_most((Size(12, 0.75), Size(12, 0.25)), 3)
    plans = plan(SamConfig(accelerator="A100"), ClipConfig(accelerator="T4"), MIXED, sizes)
    assert [pool.workers for pool in plans] == [3, 3]


def test_both_models_share_named_gpus_only_where_both_name_them() -> None:
    both = shared(SamConfig(accelerator="A100"), ClipConfig(accelerator="A100"), MIXED, 100)
    assert both == PoolPlan(4, 4, 0.0, 1.0, 1, 32, calls=3, accelerator="A100")
    assert shared(SamConfig(accelerator="A100"), ClipConfig(), MIXED, 100) is None
    assert plan_alone(ClipConfig(accelerator="T4"), MIXED).workers == 8


def test_gpus_that_no_machine_has_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"^no machine .* has ray\.io/accelerator-type=H100 \(there are: A100"
    ):
        plan(SamConfig(accelerator="H100"), ClipConfig(), MIXED)
    with pytest.raises(UserError, match="the pools on A100 ask for 5 GPUs, and the cluster has 4 of them"):
        plan(SamConfig(accelerator="A100", workers=5), ClipConfig(accelerator="T4", workers=1), MIXED)

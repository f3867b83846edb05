from __future__ import annotations

import itertools

import pytest

from pipelines.cluster import TASK_CPUS, Resources
from pipelines.config.settings import ClipConfig, Pool, SamConfig
from pipelines.errors import UserError
from pipelines.pools import PoolPlan, plan, plan_alone


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

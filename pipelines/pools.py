"""How many workers each model gets, and what of the cluster's CPUs and GPUs each worker."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipelines.cluster import Resources
from pipelines.config.settings import Pool
from pipelines.errors import UserError

IMAGES_PER_THREAD = 4
"""Images that an actor takes at a time for each of its threads, which wait for the last one of a batch."""


@dataclass(frozen=True)
class PoolPlan:
    """How one stage's actors run: how many (from, to), what each takes, and its threads on a CPU."""

    workers: int
    max_workers: int
    num_cpus: float
    num_gpus: float
    threads: int
    batch_size: int


def plan(sam: Pool, clip: Pool, resources: Resources) -> tuple[PoolPlan, PoolPlan]:
    """The SAM and the CLIP pool.

    With GPUs: an actor of each on every GPU, SAM taking most of it. Without: SAM on every CPU, as it takes
    most of the time, and one CLIP actor for six of them. One whole CPU always stays free: tasks that wait for
    a CPU which an actor holds would wait for ever.

    Raises:
        UserError: more is asked for than the cluster has.
    """
    if resources.gpus >= 1:
        count = int(resources.gpus)
        plans = (
            _fill(sam, workers=count, cpus=0.0, gpus=0.75, threads=1),
            _fill(clip, workers=count, cpus=0.0, gpus=0.25, threads=1),
        )
    else:
        workers = sam.max_workers or sam.workers or max(1, int(resources.cpus))
        others = clip.max_workers or clip.workers or max(1, workers // 6)
        share = cpu_share(workers + others, resources.cpus)
        threads = max(1, min(int(resources.cpus) // workers, int(max(resources.node_cpus, default=2**16))))
        plans = (
            _fill(sam, workers=workers, cpus=share, gpus=0.0, threads=threads),
            _fill(clip, workers=others, cpus=share, gpus=0.0, threads=1),
        )
    _check(plans, resources)
    return plans


def plan_alone(pool: Pool, resources: Resources) -> PoolPlan:
    """The pool of the only model: an actor on every GPU, or without GPUs on every CPU.

    More actors than GPUs share them evenly, so that each has its whole share on one GPU.

    Raises:
        UserError: more is asked for than the cluster has.
    """
    gpus, cpus = int(resources.gpus), max(1, int(resources.cpus))
    workers = pool.max_workers or pool.workers or gpus or cpus
    if gpus:
        plan = _fill(pool, workers=workers, cpus=0.0, gpus=1 / math.ceil(workers / gpus), threads=1)
    else:
        share, threads = cpu_share(workers, resources.cpus), max(1, cpus // workers)
        plan = _fill(pool, workers=workers, cpus=share, gpus=0.0, threads=threads)
    _check((PoolPlan(0, 0, 0, 0, 0, 0), plan), resources)
    return plan


def cpu_share(actors: int, cpus: float) -> float:
    """CPUs that each of so many actors takes: half of one at most, and one whole CPU stays free of them.

    In sixteenths: Ray Data adds up and takes away what its actors hold, and a third of a CPU leaves rounding
    errors, for which the last tasks, those that write, wait until the actors have gone.
    """
    return max(0, min(8, int(16 * (cpus - 1) / actors))) / 16


def _fill(pool: Pool, *, workers: int, cpus: float, gpus: float, threads: int) -> PoolPlan:
    wanted = pool.workers or min(workers, pool.max_workers or workers)
    return PoolPlan(
        workers=wanted,
        max_workers=pool.max_workers or wanted,
        num_cpus=cpus if pool.num_cpus is None else pool.num_cpus,
        num_gpus=gpus if pool.num_gpus is None else pool.num_gpus,
        threads=threads,
        batch_size=pool.batch_size or IMAGES_PER_THREAD * threads,
    )


def _check(plans: tuple[PoolPlan, PoolPlan], resources: Resources) -> None:
    cpus = sum(p.workers * p.num_cpus for p in plans)
    gpus = sum(p.workers * p.num_gpus for p in plans)
    if gpus > resources.gpus + 1e-6:
        raise UserError(
            f"sam.workers x sam.num_gpus + clip.workers x clip.num_gpus = {gpus:g}, the cluster has "
            f"{resources.gpus:g} GPUs; ask for less, or leave these keys out"
        )
    if cpus > resources.cpus - 1 + 1e-6:
        raise UserError(
            f"sam.workers x sam.num_cpus + clip.workers x clip.num_cpus = {cpus:g}, the cluster has "
            f"{resources.cpus:g} CPUs and one must stay free to read; ask for less, or leave these keys out"
        )

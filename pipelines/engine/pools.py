"""How many workers each model gets, their CPUs and GPUs, and how many images travel together."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from segray.pipelines.config.commands.annotate import Pool
from segray.pipelines.engine.cluster import Resources
from segray.pipelines.errors import UserError

IMAGES_PER_THREAD = 4
"""Images that an actor takes at a time for each of its threads, which wait for the last one of a batch."""
IMAGES_PER_GPU = 32
"""Images that an actor with both models takes at a time: its GPU waits a little at the end of each batch."""
SHARING_COST = 0.05
"""The part of a GPU's time that two processes on it are taken to lose: an assumption, never measured."""
BLOCK_ROWS = 8, 64
"""Images per block, at least and at most: few, so that all workers get some and a kill loses little; more
of a long list, as the driver's work is per block."""


@dataclass(frozen=True)
class PoolPlan:
    """How one stage's actors run: how many (from, to), what each takes, and its threads on a CPU.

    `calls` batches may be in an actor at once. `accelerator` is that of the machines they run on, None: any.
    """

    workers: int
    max_workers: int
    num_cpus: float
    num_gpus: float
    threads: int
    batch_size: int
    calls: int = 1
    accelerator: str | None = None


@dataclass(frozen=True)
class Size:
    """How large a pool is where its configuration does not say: its actors, and the GPUs of each."""

    workers: int
    num_gpus: float = 0.0


@dataclass(frozen=True)
class BatchSizes:
    """How many images travel together.

    Attributes:
        block: that a task takes, and that the list of images is cut into.
        batch: that an actor takes at most, whatever its `batch_size`.
        part: in a file of the output.
    """

    block: int
    batch: int
    part: int


def plan(
    sam: Pool, clip: Pool, resources: Resources, sizes: tuple[Size, Size] | None = None
) -> tuple[PoolPlan, PoolPlan]:
    """The SAM and the CLIP pool. Explicit settings win over any size.

    One whole CPU always stays free: a task that waits for a CPU that an actor holds would wait for ever.

    Args:
        sam: configuration of the SAM pool.
        clip: configuration of the CLIP pool.
        resources: what the cluster has.
        sizes: of both, as `balanced` gives them; None: as `usual` does.

    Raises:
        UserError: more is asked for than the cluster has.
    """
    first, second = sizes or usual(sam, clip, resources)
    if sam.accelerator or clip.accelerator:
        first, second = _pinned(sam, clip, resources, (first, second))
    share = 0.0
    if resources.gpus < 1:
        actors = (_explicit(sam) or first.workers) + (_explicit(clip) or second.workers)
        share = cpu_share(actors, resources.cpus)
    threads = _threads(sam, resources)
    plans = (
        _fill(sam, workers=first.workers, cpus=share, gpus=first.num_gpus, threads=threads),
        _fill(clip, workers=second.workers, cpus=share, gpus=second.num_gpus, threads=1),
    )
    _check(plans, resources, ("sam.workers", "clip.workers"))
    return plans


def shared(sam: Pool, clip: Pool, resources: Resources, n_images: int) -> PoolPlan | None:
    """One actor per GPU that holds both models; None without GPUs, or where a pool is sized explicitly.

    While the GPU works on one batch, the actor has two more, one that comes in and one that goes out.

    Args:
        sam: configuration of the SAM pool.
        clip: configuration of the CLIP pool.
        resources: what the cluster has.
        n_images: of the run; no more actors than these.
    """
    gpus = int(resources.on(sam.accelerator).gpus)
    if not gpus or is_sized(sam) or is_sized(clip) or sam.accelerator != clip.accelerator:
        return None
    workers, batch = min(gpus, max(1, n_images)), sam.batch_size or clip.batch_size or IMAGES_PER_GPU
    plan = PoolPlan(workers, workers, num_cpus=0.0, num_gpus=1.0, threads=1, batch_size=batch, calls=3)
    return replace(plan, accelerator=sam.accelerator)


def is_sized(pool: Pool) -> bool:
    """Whether the configuration says how many workers it has, or what each takes."""
    return any(value is not None for value in (pool.workers, pool.max_workers, pool.num_cpus, pool.num_gpus))


def usual(sam: Pool, clip: Pool, resources: Resources) -> tuple[Size, Size]:
    """Sizes of the SAM and the CLIP pool where nobody has measured anything.

    With GPUs: an actor of each on every GPU, SAM taking most of it. Without: SAM on every CPU, as it takes
    most of the time, and one CLIP actor for six of them.
    """
    if gpus := int(resources.gpus):
        return Size(gpus, 0.75), Size(gpus, 0.25)
    workers = _explicit(sam) or max(1, int(resources.cpus))
    return Size(workers), Size(_explicit(clip) or max(1, workers // 6))


def _pinned(sam: Pool, clip: Pool, resources: Resources, most: tuple[Size, Size]) -> tuple[Size, Size]:
    """Sizes where a pool names its accelerator: the GPUs of that kind, shared where both are on the same."""
    first, second = (int(resources.on(pool.accelerator).gpus) for pool in (sam, clip))
    if not max(first, second):
        return most
    shares = 0.75, 0.25
    if sam.accelerator != clip.accelerator:
        # The one that may be anywhere takes what the other leaves, if it leaves any.
        rest = int(resources.gpus) - (first if sam.accelerator else second)
        first = first if sam.accelerator else rest or second
        second = second if clip.accelerator else rest or first
        shares = (1.0, 1.0) if rest or (sam.accelerator and clip.accelerator) else shares
    return (
        Size(min(first, most[0].workers), shares[0]),
        Size(min(second, most[1].workers), shares[1]),
    )


def at_most(sizes: tuple[Size, Size], n_images: int) -> tuple[Size, Size]:
    """The sizes with no more actors than there are images."""
    first, second = (replace(size, workers=min(size.workers, max(1, n_images))) for size in sizes)
    return first, second


def balanced(seconds: Mapping[str, float], resources: Resources) -> tuple[Size, Size]:
    """Sizes of the SAM and the CLIP pool with which neither waits for the other.

    Without GPUs each gets its part of the CPUs, by its part of all seconds, those of reading and encoding
    included. Rounded up: two processes may share a CPU, but one too few of a model leaves CPUs idle.

    Args:
        seconds: that one image takes in each stage on one device; those of "sam" and "clip" above 0.
        resources: what the cluster has.
    """
    if gpus := int(resources.gpus):
        return _balanced_gpus(seconds["sam"], seconds["clip"], gpus)
    worth = max(1, int(resources.cpus)) / sum(seconds.values())
    # Less what floats lose: 16 times a half is 8 workers, not 9.
    sam, clip = (max(1, math.ceil(worth * seconds[name] - 1e-6)) for name in ("sam", "clip"))
    return Size(sam), Size(clip)


def _balanced_gpus(sam: float, clip: float, gpus: int) -> tuple[Size, Size]:
    """Whole GPUs for each model, or where dividing them loses more than sharing does, both on each GPU.

    Two that share a GPU take turns by themselves: what Ray calls shares only places them. SAM's is more than
    half, so that no GPU gets two of it, and CLIP's is what that leaves.
    """

    def rate(whole: int) -> float:
        return min(whole / sam, (gpus - whole) / clip)

    whole = max(range(1, gpus), key=rate, default=0)
    if whole and rate(whole) >= (1 - SHARING_COST) * gpus / (sam + clip):
        return Size(whole, 1.0), Size(gpus - whole, 1.0)
    share = min(15, max(9, round(16 * sam / (sam + clip)))) / 16
    return Size(gpus, share), Size(gpus, 1 - share)


def plan_alone(
    pool: Pool, resources: Resources, n_images: int | None = None, *, per_node: bool = False
) -> PoolPlan:
    """The pool of the only model: an actor on every GPU, or without GPUs on every CPU or node.

    More actors than GPUs share them evenly, so that each has its whole share on one GPU.

    Args:
        pool: its configuration.
        resources: what the cluster has.
        n_images: of the run; no more actors than these, unless the configuration asks for more.
        per_node: without GPUs one actor per node, for a model that fills its memory and its cores.

    Raises:
        UserError: more is asked for than the cluster has.
    """
    gpus, cpus = int(resources.on(pool.accelerator).gpus), max(1, int(resources.cpus))
    usual = gpus or (len(resources.node_cpus) or resources.nodes if per_node else cpus)
    workers = _explicit(pool) or min(usual, n_images or sys.maxsize)
    if gpus:
        plan = _fill(pool, workers=workers, cpus=0.0, gpus=1 / math.ceil(workers / gpus), threads=1)
    else:
        share, threads = cpu_share(workers, resources.cpus), max(1, cpus // workers)
        plan = _fill(pool, workers=workers, cpus=share, gpus=0.0, threads=threads)
    if per_node:
        # All threads work on one image: many images at a time would only be lost together.
        plan = replace(plan, batch_size=pool.batch_size or IMAGES_PER_THREAD)
    _check([plan], resources, ("workers",))
    return plan


def cpu_share(actors: int, cpus: float) -> float:
    """CPUs that each of so many actors takes: half of one at most, and one whole CPU stays free of them.

    In sixteenths: Ray Data adds up and takes away what its actors hold, and a third of a CPU leaves rounding
    errors, for which the last tasks, those that write, wait until the actors have gone.
    """
    return max(0, min(8, int(16 * (cpus - 1) / actors))) / 16


def _explicit(pool: Pool) -> int | None:
    return pool.max_workers or pool.workers


def _threads(sam: Pool, resources: Resources) -> int:
    """Few SAM actors that were asked for get the other CPUs, of one node, as threads."""
    asked = _explicit(sam)
    if resources.gpus >= 1 or not asked:
        return 1
    return max(1, min(int(resources.cpus) // asked, int(max(resources.node_cpus, default=2**16))))


def _fill(pool: Pool, *, workers: int, cpus: float, gpus: float, threads: int) -> PoolPlan:
    wanted = pool.workers or min(workers, pool.max_workers or workers)
    return PoolPlan(
        workers=wanted,
        max_workers=pool.max_workers or wanted,
        num_cpus=cpus if pool.num_cpus is None else pool.num_cpus,
        num_gpus=gpus if pool.num_gpus is None else pool.num_gpus,
        threads=threads,
        batch_size=pool.batch_size or IMAGES_PER_THREAD * threads,
        accelerator=pool.accelerator,
    )


def _check(plans: Sequence[PoolPlan], resources: Resources, keys: Sequence[str]) -> None:
    """Refuse pools that do not fit; `keys` say how many workers each has."""
    cpus = sum(p.workers * p.num_cpus for p in plans)
    gpus = sum(p.workers * p.num_gpus for p in plans)
    if gpus > resources.gpus + 1e-6:
        raise UserError(
            f"{_product(keys, 'num_gpus')} = {gpus:g}, the cluster has "
            f"{resources.gpus:g} GPUs; ask for less, or leave these keys out"
        )
    for accelerator in {plan.accelerator for plan in plans if plan.accelerator}:
        asked = sum(p.workers * p.num_gpus for p in plans if p.accelerator == accelerator)
        if asked > (there := resources.on(accelerator).gpus) + 1e-6:
            raise UserError(
                f"the pools on {accelerator} ask for {asked:g} GPUs, and the cluster has {there:g} of them; "
                "ask for less, or leave workers and num_gpus out"
            )
    if cpus > resources.cpus - 1 + 1e-6:
        raise UserError(
            f"{_product(keys, 'num_cpus')} = {cpus:g}, the cluster has "
            f"{resources.cpus:g} CPUs and one must stay free to read; ask for less, or leave these keys out"
        )


def _product(keys: Sequence[str], what: str) -> str:
    return " + ".join(f"{key} x {key.replace('workers', what)}" for key in keys)


def batch_sizes(
    n_images: int, plans: Mapping[str, PoolPlan], pools: Iterable[Pool], cpus: float, part: int | None
) -> BatchSizes:
    """How many images travel together through a graph.

    Args:
        n_images: of the run.
        plans: of its pools, by stage.
        pools: their configurations. Blocks smaller than a requested batch would leave its size to chance.
        cpus: of the cluster.
        part: images per file of the output, or None.
    """
    batch = max(fair_share(n_images, plans), *(pool.batch_size or 1 for pool in pools))
    part = part or rows_per_part(n_images, cpus)
    # Ray Data joins the blocks of a part but splits none.
    return BatchSizes(min(rows_per_block(n_images, plans), part, batch), batch, part)


def rows_per_part(n_images: int, cpus: float) -> int:
    """A sixteenth of a CPU's share: small parts lose little to a kill, large parts are fewer files."""
    return max(8, min(512, n_images // (16 * max(1, int(cpus)))))


def rows_per_block(n_images: int, plans: Mapping[str, PoolPlan]) -> int:
    """A sixty-fourth of a worker's share, within `BLOCK_ROWS`."""
    least, most = BLOCK_ROWS
    return max(least, min(most, n_images // (64 * _most_workers(plans))))


def fair_share(n_images: int, plans: Mapping[str, PoolPlan]) -> int:
    """Images to take at a time at most: an eighth of a worker's share of the largest pool, at least one.

    Of few images, larger batches would leave all of them to one worker, or let the others wait for it.
    """
    return max(1, n_images // (8 * _most_workers(plans)))


def _most_workers(plans: Mapping[str, PoolPlan]) -> int:
    return max(plan.max_workers for plan in plans.values())

"""The Ray side of a run: start or join a cluster quietly, and share its CPUs and GPUs between the stages."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from pipelines.config.settings import Pool
from pipelines.errors import UserError

TASK_CPUS = 0.25
"""CPUs of a decode, encode or write task: small, since tasks and actors must fit side by side on two CPUs."""
NO_PROGRESS_S = 600
"""Ray Data gives up when nothing at all moves for so long; its own default is half an hour."""


@dataclass(frozen=True)
class Resources:
    """What the cluster has: CPUs, GPUs, nodes."""

    cpus: float
    gpus: float
    nodes: int = 1


@dataclass(frozen=True)
class PoolPlan:
    """How one stage's actors run: how many (from, to), what each takes, and its threads on a CPU."""

    workers: int
    max_workers: int
    num_cpus: float
    num_gpus: float
    threads: int
    batch_size: int


@contextlib.contextmanager
def session(address: str | None) -> Iterator[Resources]:
    """A connection to Ray; a local cluster is ended with it.

    Raises:
        UserError: no cluster at the address (2), or Ray does not start here (1).
    """
    import ray

    _quieten()
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    joined = ray.is_initialized()
    if not joined:
        _connect(address)
    try:
        total = ray.cluster_resources()
        nodes = sum(1 for node in ray.nodes() if node["Alive"])
        yield Resources(total.get("CPU", 1.0), total.get("GPU", 0.0), nodes)
    finally:
        if not joined:
            ray.shutdown()


def _connect(address: str) -> None:
    import ray

    options = {"logging_level": logging.ERROR, "log_to_driver": False, "configure_logging": True}
    if address != "local":
        try:
            ray.init(address=address, **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(f"address: no Ray cluster at {address} ({str(error).splitlines()[0]})") from error
        return
    # Listing a Parquet file takes one whole CPU beside the actors: one core pretends to be two.
    cpus = max(2, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    try:
        ray.init(address="local", num_cpus=cpus, include_dashboard=False, **options)
    except Exception as error:  # Ray raises bare ones, such as when a busy machine starts it too slowly
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"Ray did not start on this machine: {said[0]}", exit_code=1) from error


def _quieten() -> None:
    """Ray's own progress bars and warnings would drown ours; set before ray.data is imported."""
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    # Workers that yield to everything else starve on a busy machine, and Ray starts ever more of them.
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    for name in ("ray", "ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)


def quiet_data_context() -> None:
    """Settings of Ray Data for this run: bounded waiting, small blocks, no output of its own."""
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = NO_PROGRESS_S
    context.target_max_block_size = 32 * 2**20
    # Its errors are tracebacks of what it raises as well.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    # Among others that a run of few images has not enough of them for all its actors.
    warnings.filterwarnings("ignore", module=r"ray\.data")


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
            _fill(sam, workers=count, cpus=0.0, gpus=0.7, threads=1),
            _fill(clip, workers=count, cpus=0.0, gpus=0.3, threads=1),
        )
    else:
        workers = sam.max_workers or sam.workers or max(1, int(resources.cpus))
        others = clip.max_workers or clip.workers or max(1, workers // 6)
        share = max(0.0, min(0.5, (resources.cpus - 1) / (workers + others)))
        threads = max(1, int(resources.cpus) // workers)
        plans = (
            _fill(sam, workers=workers, cpus=share, gpus=0.0, threads=threads),
            _fill(clip, workers=others, cpus=share, gpus=0.0, threads=1),
        )
    _check(plans, resources)
    return plans


def _fill(pool: Pool, *, workers: int, cpus: float, gpus: float, threads: int) -> PoolPlan:
    wanted = pool.workers or min(workers, pool.max_workers or workers)
    return PoolPlan(
        workers=wanted,
        max_workers=pool.max_workers or wanted,
        num_cpus=cpus if pool.num_cpus is None else pool.num_cpus,
        num_gpus=gpus if pool.num_gpus is None else pool.num_gpus,
        threads=threads,
        batch_size=pool.batch_size,
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

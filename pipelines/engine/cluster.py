"""The Ray side of a run: start or join a cluster quietly, and tell what it has."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from segray.pipelines.config.shared import GrowConfig
from segray.pipelines.errors import UserError

TASK_CPUS = 0.25
"""CPUs of a decode, encode or write task: small, since tasks and actors must fit side by side on two CPUs."""
NO_PROGRESS_S = 600
"""Ray Data gives up when nothing at all moves for so long; its own default is half an hour."""


_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Resources:
    """What the cluster has: CPUs, GPUs, nodes, and the CPUs of each node that has any."""

    cpus: float
    gpus: float
    nodes: int = 1
    node_cpus: tuple[float, ...] = ()

    def room(self, cpus: float) -> int:
        """How many workers of so many CPUs there is room for; none is spread over two nodes."""
        return sum(int((node + 1e-6) // cpus) for node in self.node_cpus or (self.cpus,))


@contextlib.contextmanager
def session(address: str | None, grow: GrowConfig | None = None) -> Iterator[Resources]:
    """A connection to Ray; a local cluster is ended with it, one that was asked to grow may shrink after it.

    Raises:
        UserError: no cluster at the address, or one with nothing to work on (2), or Ray does not start here
            (1).
    """
    with connected(address), _grown(grow or GrowConfig()):
        yield _workable()


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[str]:
    """A connection to Ray, whatever the cluster has; yields its dashboard as HOST:PORT, if it has one.

    Raises:
        UserError: no cluster at the address (2), or Ray does not start here (1).
    """
    import ray

    _quieten()
    joined = ray.is_initialized()
    if not joined:
        _connect(address or os.environ.get("RAY_ADDRESS") or "local")
    try:
        yield _dashboard()
    finally:
        if not joined:
            ray.shutdown()


def _dashboard() -> str:
    # Ray Client has no such worker.
    from ray._private import worker

    return str(getattr(worker.global_worker.node, "webui_url", None) or "")


def resources() -> Resources:
    """What the cluster that this process is connected to has now."""
    import ray

    total = ray.cluster_resources()
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus = tuple(node["CPU"] for node in nodes if node.get("CPU"))
    return Resources(total.get("CPU", 0.0), total.get("GPU", 0.0), len(nodes), cpus)


def _workable() -> Resources:
    found = resources()
    if found.cpus < 1:
        raise UserError(
            "the cluster has no CPU to work on; where it grows on request, ask: grow.gpus=8 or grow.cpus=16"
        )
    return found


@contextlib.contextmanager
def _grown(wanted: GrowConfig) -> Iterator[None]:
    """Ask for machines and wait until they have come, or long enough; afterwards they may go."""
    if wanted.gpus is None and wanted.cpus is None:
        yield
        return
    from ray.autoscaler.sdk import request_resources

    _log.info("waiting for %s", _asked(wanted))
    bundles = [{"GPU": 1}] * (wanted.gpus or 0) + [{"CPU": 1}] * (wanted.cpus or 0)
    try:
        request_resources(bundles=bundles)
        _wait_for(wanted)
        yield
    finally:
        # Where the cluster is lost, there is nothing to give back, and another error to tell.
        with contextlib.suppress(Exception):
            request_resources(bundles=[])


def _wait_for(wanted: GrowConfig) -> None:
    deadline = time.monotonic() + wanted.wait
    while (found := resources()).gpus < (wanted.gpus or 0) or found.cpus < (wanted.cpus or 0):
        if time.monotonic() > deadline:
            _log.warning(
                "after %d s the cluster has %g CPUs and %g GPUs, not %s; going on with them",
                *(wanted.wait, found.cpus, found.gpus, _asked(wanted)),
            )
            return
        time.sleep(1)


def _asked(wanted: GrowConfig) -> str:
    asked = {"GPUs": wanted.gpus, "CPUs": wanted.cpus}
    return " and ".join(f"{count} {what}" for what, count in asked.items() if count)


def _connect(address: str) -> None:
    import ray

    options = {"logging_level": logging.ERROR, "log_to_driver": False, "configure_logging": True}
    if address != "local":
        try:
            with _without_greeting():
                ray.init(address=address, **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(
                f"address: no Ray cluster at {address} ({str(error).splitlines()[0]}); "
                "where it asks for a token, give RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, "
                "RAY_AUTH_TOKEN_PATH=FILE or the file ~/.ray/auth_token"
            ) from error
        return
    # Listing a Parquet file takes one whole CPU beside the actors: one core pretends to be two.
    cpus = max(2, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    try:
        with _without_greeting():
            ray.init(address="local", num_cpus=cpus, include_dashboard=False, **options)
    except Exception as error:  # Ray raises bare ones, such as when a busy machine starts it too slowly
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"Ray did not start on this machine: {said[0]}", exit_code=1) from error


@contextlib.contextmanager
def _without_greeting() -> Iterator[None]:
    """Ray's native code tells on stderr that RAY_BACKEND_LOG_LEVEL is set; what else it says is passed on."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            caught.seek(0)
            for line in caught:
                if b"RAY_BACKEND_LOG_LEVEL" not in line:
                    os.write(2, line)


def _quieten() -> None:
    """Ray's own progress bars and warnings would drown ours; set before ray.data is imported."""
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    # Workers that yield to everything else starve on a busy machine, and Ray starts ever more of them.
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray's native code writes to our stderr, past every logger, that actors may restart.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    for name in ("ray", "ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)


def quiet_data_context() -> None:
    """Settings of Ray Data for this run: bounded waiting, small blocks, no output of its own."""
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = NO_PROGRESS_S
    # Else what a worker raises comes wrapped, and loses its cause on the way to the driver.
    context.raise_original_map_exception = True
    context.target_max_block_size = 32 * 2**20
    # Its errors are tracebacks of what it raises as well.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    # Among others that a run of few images has not enough of them for all its actors.
    warnings.filterwarnings("ignore", module=r"ray\.data")


def in_blocks(dataset: Any, rows: int) -> Any:
    """The rows of a Ray Data set in blocks of so many, or fewer, one after the other.

    `Dataset.repartition` takes one whole CPU, cannot be told to take less, and holds it until its last block
    is taken. Where the actors leave just that one, nobody can take any: a long list waits for ever.
    """
    cut = dataset.repartition(target_num_rows_per_block=rows)
    cut._logical_plan.dag.ray_remote_args["num_cpus"] = TASK_CPUS
    return cut

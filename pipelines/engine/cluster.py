"""Start or join a Ray cluster without its output, and report what it has."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from segray.models.messages import first_line
from segray.pipelines.config.shared import GrowConfig
from segray.pipelines.engine import local_ray
from segray.pipelines.engine.ray_output import QUIET, quieten, without_greeting
from segray.pipelines.engine.reachable import is_on_loopback_alone, require_listener
from segray.pipelines.engine.waiting import Waiting
from segray.pipelines.errors import UserError

_log = logging.getLogger(__name__)

ACCELERATOR = "ray.io/accelerator-type"
"""Ray's label of a node with GPUs."""


@dataclass(frozen=True)
class Resources:
    """What the cluster has: CPUs, GPUs, nodes, and the CPUs of each node that has any.

    `accelerators`: the GPUs of the nodes with each label ray.io/accelerator-type.
    """

    cpus: float
    gpus: float
    nodes: int = 1
    node_cpus: tuple[float, ...] = ()
    accelerators: Mapping[str, float] = field(default_factory=dict)

    def on(self, accelerator: str | None) -> Resources:
        """The same with the GPUs of nodes with this accelerator alone; None: of all.

        Raises:
            UserError: there is no such node.
        """
        if accelerator is None:
            return self
        if accelerator not in self.accelerators:
            known = ", ".join(self.accelerators) or "none with such a label"
            raise UserError(
                f"no machine of the cluster has {ACCELERATOR}={accelerator} (there are: {known}); "
                "change the key accelerator or leave it out"
            )
        return replace(self, gpus=self.accelerators[accelerator])

    def count(self, accelerator: str | None) -> float:
        """GPUs of nodes with this accelerator; None: all."""
        return self.gpus if accelerator is None else self.accelerators.get(accelerator, 0.0)

    def room(self, cpus: float) -> int:
        """How many workers of so many CPUs fit; none is spread over two nodes."""
        return sum(int((node + 1e-6) // cpus) for node in self.node_cpus or (self.cpus,))


@contextlib.contextmanager
def session(
    address: str | None, grow: GrowConfig | None = None, accelerators: Collection[str] = ()
) -> Iterator[Resources]:
    """A connection to Ray. A local cluster ends with it; one that was asked to grow may shrink after it.

    Args:
        address: of the cluster; None: RAY_ADDRESS if set, or this machine.
        grow: what to ask for.
        accelerators: kinds that the GPUs asked for are to have, as many of each; none: any.

    Raises:
        UserError: no cluster at the address, or one without CPUs (2), or Ray does not start here (1).
    """
    with connected(address), _grown(grow or GrowConfig(), sorted(set(accelerators))):
        yield _workable()


def has_joined() -> bool:
    """Whether this process is connected to a cluster; where it is not, Ray, slow to import, stays out."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def is_requested(address: str | None, grow: GrowConfig) -> bool:
    """Whether the user names a cluster, wants one to grow, or has this process connected to one."""
    return bool(has_joined() or address or os.environ.get("RAY_ADDRESS") or grow.gpus or grow.cpus)


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[str]:
    """A connection to Ray, whatever the cluster has; yields the dashboard as HOST:PORT, or an empty text.

    Raises:
        UserError: no cluster at the address (2), or Ray does not start here (1).
    """
    import ray

    quieten()
    if ray.is_initialized():
        yield _dashboard()
        return
    where = address or os.environ.get("RAY_ADDRESS") or "local"
    with _local() if where == "local" else _joined(where):
        yield _dashboard()


def check_start(address: str | None) -> None:
    """Check what can be known before Ray is started or joined; cheap, so that it comes before anything loads.

    Raises:
        UserError: nobody listens at the address, or Ray's sockets have no folder here.
    """
    if has_joined():
        return
    if (address or os.environ.get("RAY_ADDRESS") or "local") == "local":
        local_ray.check_folder()
    else:
        require_listener(address)


@contextlib.contextmanager
def _local() -> Iterator[None]:
    with on_loopback(), local_ray.started():
        yield


@contextlib.contextmanager
def _joined(address: str) -> Iterator[None]:
    import ray

    _join(address)
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def on_loopback() -> Iterator[None]:
    """Within it, a Ray that starts on this machine listens on the loopback interface; one there is joined.

    `_node_ip_address="127.0.0.1"` does not do that: Ray resolves it to the machine's address in the network.
    """
    try:
        from ray._private import ray_constants
    except ImportError:  # the test with a real Ray tells that it listens elsewhere
        yield
        return
    # What Ray does on desktops; its switch in the environment is read only when Ray is imported.
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _dashboard() -> str:
    # No public call knows the address if this process was connected before. Ray Client has no such worker.
    try:
        from ray._private import worker
    except ImportError:
        return ""
    return str(getattr(worker.global_worker.node, "webui_url", None) or "")


def resources() -> Resources:
    """What the connected cluster has now."""
    import ray

    total = ray.cluster_resources()
    alive = [node for node in ray.nodes() if node["Alive"]]
    nodes = [node["Resources"] for node in alive]
    cpus = tuple(node["CPU"] for node in nodes if node.get("CPU"))
    accelerators: dict[str, float] = {}
    for node in alive:
        if kind := node.get("Labels", {}).get(ACCELERATOR):
            accelerators[kind] = accelerators.get(kind, 0.0) + node["Resources"].get("GPU", 0.0)
    return Resources(total.get("CPU", 0.0), total.get("GPU", 0.0), len(nodes), cpus, accelerators)


def _workable() -> Resources:
    available = resources()
    if available.cpus < 1:
        raise UserError(
            "the cluster has no CPU; if it can grow on request, ask for more: grow.gpus=8 or grow.cpus=16"
        )
    return available


@contextlib.contextmanager
def _grown(wanted: GrowConfig, accelerators: Sequence[str]) -> Iterator[None]:
    """Request machines and wait for them, up to a limit; afterwards they may be released."""
    if wanted.gpus is None and wanted.cpus is None:
        yield
        return
    from ray.autoscaler.sdk import request_resources

    gpus, cpus = _by_accelerator(wanted.gpus or 0, accelerators), wanted.cpus or 0
    requested = _requested(gpus, cpus)
    _log.info("waiting for %s", requested)
    bundles = [{"GPU": 1}] * sum(gpus.values()) + [{"CPU": 1}] * cpus
    labels = [{ACCELERATOR: kind} if kind else {} for kind, count in gpus.items() for _ in range(count)]
    labels += [{} for _ in range(cpus)]
    try:
        request_resources(bundles=bundles, bundle_label_selectors=labels)
        _wait_for(gpus, cpus, wanted.wait, requested)
        yield
    finally:
        # If the cluster is lost, there is nothing to release, and another error to report.
        with contextlib.suppress(Exception):
            request_resources(bundles=[])


def _by_accelerator(gpus: int, accelerators: Sequence[str]) -> dict[str | None, int]:
    """How many GPUs of each kind, of all as many as can be; None: of any kind."""
    kinds: Sequence[str | None] = accelerators or (None,)
    return {kind: len(range(i, gpus, len(kinds))) for i, kind in enumerate(kinds)}


def _wait_for(gpus: Mapping[str | None, int], cpus: int, wait: int, requested: str) -> None:
    deadline = time.monotonic() + wait
    while True:
        now = resources()
        there = {kind: now.count(kind) for kind in gpus}
        if now.cpus >= cpus and all(there[kind] >= count for kind, count in gpus.items()):
            return
        if time.monotonic() > deadline:
            _log.warning(
                "after %d s the cluster has %s, not %s; continuing with these",
                *(wait, _requested(there, now.cpus) or "nothing", requested),
            )
            return
        time.sleep(1)


def _requested(gpus: Mapping[str | None, float], cpus: float) -> str:
    counts = {**{f"{kind} GPUs" if kind else "GPUs": count for kind, count in gpus.items()}, "CPUs": cpus}
    return " and ".join(f"{count:g} {what}" for what, count in counts.items() if count)


def _join(address: str) -> None:
    import ray

    require_listener(address)
    # Ray takes localhost for this machine's address in the network, where such a cluster does not listen.
    network = on_loopback() if is_on_loopback_alone(address) else contextlib.nullcontext()
    try:
        with network, Waiting(f"the Ray cluster at {address} to answer"), without_greeting():
            ray.init(address=address, **QUIET)
    except Exception as error:  # a node that is slow to start is a bare Exception of Ray's
        raise UserError(
            f"address: no Ray cluster at {address} ({first_line(error)}); "
            "if it requires a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, "
            "RAY_AUTH_TOKEN_PATH=FILE or the file ~/.ray/auth_token"
        ) from error

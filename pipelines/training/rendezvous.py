"""Where the workers of a training run meet: on the loopback interface, if all are on one machine.

PyTorch's own store listens on all interfaces, and whoever reaches it may disturb the training.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import ray
import torch.distributed as dist
from ray.train.backend import Backend
from ray.train.torch import TorchConfig

if TYPE_CHECKING:
    from ray.train.backend import BackendConfig

_LOOPBACK = "127.0.0.1"
_INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
"""Environment variables that name the interface of PyTorch's two backends."""


@dataclass
class RendezvousConfig(TorchConfig):
    """PyTorch's process group, on the loopback interface where that is enough."""

    @property
    def backend_cls(self) -> type[Backend]:
        """What Ray Train starts and ends the process group with."""
        return _Rendezvous


class _Rendezvous(Backend):
    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Connect the workers."""
        if len(set(worker_group.execute(ray.util.get_node_ip_address))) > 1:
            _of_torch().on_start(worker_group, backend_config)
        else:
            join_here(worker_group, backend_config)

    def on_shutdown(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """As Ray Train's own."""
        _of_torch().on_shutdown(worker_group, backend_config)


def _of_torch() -> Backend:
    backend: Callable[[], Backend] = TorchConfig().backend_cls
    return backend()


def join_here(worker_group: Any, config: Any) -> None:
    """Connect the workers of one machine.

    Args:
        worker_group: Ray Train's.
        config: a `TorchConfig` whose backend is chosen.
    """
    workers = len(worker_group)
    port, descriptor = worker_group.execute_single(0, _listen)
    group = (workers, port, config.backend, config.timeout_s)
    calls = [
        worker_group.execute_single_async(rank, _join, rank, *group, None if rank else descriptor)
        for rank in range(workers)
    ]
    ray.get(calls)


def _listen() -> tuple[int, int]:
    """A port of the loopback interface, and the descriptor of the socket that has it."""
    server = socket.create_server((_LOOPBACK, 0))
    return server.getsockname()[1], server.detach()


def _join(
    rank: int, workers: int, port: int, backend: str, timeout_s: int, descriptor: int | None = None
) -> None:
    """Connect this process; rank 0 has the descriptor of the store's socket."""
    timeout = timedelta(seconds=timeout_s)
    for name in _INTERFACES:
        os.environ.setdefault(name, _interface())
    store = dist.TCPStore(  # type: ignore[attr-defined]  # documented, but its stub exports none of its names
        _LOOPBACK, port, workers, is_master=rank == 0, timeout=timeout, master_listen_fd=descriptor
    )
    dist.init_process_group(backend, store=store, rank=rank, world_size=workers, timeout=timeout)


def _interface() -> str:
    """The loopback interface's name: lo on Linux, lo0 elsewhere."""
    return next(name for _, name in socket.if_nameindex() if name.startswith("lo"))

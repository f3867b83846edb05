"""On which addresses the processes of this machine's Ray listen."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil


@dataclass(frozen=True)
class Listener:
    """A port that is open.

    Attributes:
        process: the name of its process.
        address: `::` and `0.0.0.0` stand for all interfaces.
        port: of TCP.
    """

    process: str
    address: str
    port: int

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches it."""
        address = ipaddress.ip_address(self.address)
        inner = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        return (inner or address).is_loopback

    def __str__(self) -> str:
        return f"{self.process} on {self.address} port {self.port}"


def listeners() -> list[Listener]:
    """The open ports of this process and of all that it has started, among them those of a local Ray.

    Call it after the import of Ray, which brings psutil.
    """
    import psutil

    this = psutil.Process()
    return [port for process in [this, *this.children(recursive=True)] for port in _ports(process)]


def _ports(process: psutil.Process) -> list[Listener]:
    import psutil

    try:
        name, connections = process.name(), process.net_connections("tcp")
    except psutil.Error:  # it has ended
        return []
    open_ports = [connection.laddr for connection in connections if connection.status == psutil.CONN_LISTEN]
    return [Listener(name, address.ip, address.port) for address in open_ports]

"""Whether anybody listens at a cluster's address: asked first, as Ray itself tries for many minutes."""

from __future__ import annotations

import os
import socket
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from segray.pipelines.errors import UserError

_PORTS = {"ray": 10001, "http": 80, "https": 443}
_TIMEOUT_S = 5.0
_LOCALHOST = {"localhost", "127.0.0.1", "::1"}


@dataclass(frozen=True)
class Place:
    """An address and where it comes from.

    Attributes:
        name: what the user can change, such as `RAY_ADDRESS=HOST:PORT`.
        host: a name or an IP address.
        port: of TCP.
    """

    name: str
    host: str
    port: int


def require_listener(address: str | None, variables: tuple[str, ...] = ("RAY_ADDRESS",)) -> None:
    """Check that a port is open at the address of a cluster or a job server.

    Args:
        address: from the configuration; None: from the first of the variables that is set.
        variables: names of environment variables.

    Raises:
        UserError: the host is unknown, or nobody listens there.
    """
    place = _place(address, variables)
    if place is None:
        return
    try:
        _connect(place)
    except OSError as error:
        raise UserError(f"{place.name}: {_reason(place, error)}; is the cluster up?{_hint(place)}") from None


def is_on_loopback_alone(address: str | None) -> bool:
    """Whether the cluster at a loopback address listens there alone, as a Ray that a run starts here does.

    Args:
        address: from the configuration; None: from `RAY_ADDRESS`.
    """
    place = _place(address, ("RAY_ADDRESS",))
    if place is None or place.host not in _LOCALHOST:
        return False
    try:
        socket.create_connection((_own_address(), place.port), _TIMEOUT_S).close()
    except OSError:
        return True
    return False


def _connect(place: Place) -> None:
    try:
        socket.create_connection((place.host, place.port), _TIMEOUT_S).close()
    except ConnectionRefusedError:
        # Ray takes localhost for this machine's address in the network.
        if place.host not in _LOCALHOST:
            raise
        socket.create_connection((_own_address(), place.port), _TIMEOUT_S).close()


def _own_address() -> str:
    """This machine's address in its network; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        return str(probe.getsockname()[0])


def _reason(place: Place, error: OSError) -> str:
    where = f"{place.host} port {place.port}"
    if isinstance(error, socket.gaierror):
        return f"there is no host {place.host}"
    if isinstance(error, TimeoutError):
        return f"nobody answers at {where} within {_TIMEOUT_S:g} s"
    return f"nobody listens there ({where}: {error.strerror or error})"


def _hint(place: Place) -> str:
    if place.name.startswith("RAY_"):
        return f" Without a cluster: unset {place.name.partition('=')[0]}"
    return ""


def _place(address: str | None, variables: tuple[str, ...]) -> Place | None:
    """Where to connect; None if there is no address, or none that is known to be a port of TCP."""
    name, chosen = "address", address
    variable = next((name for name in variables if os.environ.get(name)), None)
    # As Ray does: the environment decides what "auto" is.
    if variable and address in (None, "auto", os.environ[variable]):
        name, chosen = variable, os.environ[variable]
    if chosen == "auto":
        recorded = _recorded()
        return _parsed(f"{name}=auto ({recorded})", recorded) if recorded else None
    return _parsed(f"{name}={chosen}", chosen) if chosen else None


def _parsed(name: str, address: str) -> Place | None:
    scheme, separator, _ = address.partition("://")
    try:
        parts = urlsplit(address if separator else f"//{address}")
        port = parts.port or (_PORTS.get(scheme) if separator else None)
    except ValueError:
        return None
    if not parts.hostname or port is None or (separator and scheme not in _PORTS):
        return None
    return None if _through_proxy(scheme, parts.hostname) else Place(name, parts.hostname, port)


def _through_proxy(scheme: str, host: str) -> bool:
    return scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(host)


def _recorded() -> str:
    """The cluster that `ray start` on this machine wrote down, which `auto` means; empty if there is none."""
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"  # noqa: S108  as Ray looks
    try:
        return (Path(folder) / "ray" / "ray_current_cluster").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeError):
        return ""

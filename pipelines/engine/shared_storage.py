"""Check that all machines of a cluster see the same folder, by asking each of them."""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypedDict

from segray.pipelines.errors import UserError
from segray.pipelines.io import storage

_PATIENCE_S = 3.0
"""Network file systems may show a new file with a delay."""
ANSWER_S = 120.0
"""How long a node may take to answer."""


def require_shared(out: str | None, inputs: Sequence[str] = ()) -> None:
    """Refuse local paths that other machines of the cluster do not see as this one does.

    Every node is asked for a file that is written into `out` for the purpose, and for each input. Object
    stores are not asked. A cluster of one machine is not asked either, unless it is another machine.

    Args:
        out: a folder that is written to, or None.
        inputs: files, folders or globs that are read.

    Raises:
        UserError: names the path and the machines.
    """
    import ray

    if len(nodes()) < 2 and not ray.util.client.ray.is_connected():
        return
    for path in inputs:
        if storage.is_local(path):
            _require(path, str(fixed_part(path)), "")
    if out is not None and storage.is_local(out):
        with token_file(out) as (path, token):
            _require(out, path, token)


class Node(TypedDict):
    """The part of Ray's record of a node that is used here."""

    Alive: bool
    NodeID: str
    NodeManagerAddress: str


def nodes() -> list[Node]:
    """Ray's records of the nodes that are alive."""
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


@contextmanager
def token_file(folder: str) -> Iterator[tuple[str, str]]:
    """A file with a random token, in a folder or in its nearest parent that exists.

    Raises:
        UserError: it cannot be written.
    """
    home = storage.local_path(folder)
    while not home.is_dir() and home != home.parent:
        home = home.parent
    path, token = home / f".segray-{secrets.token_hex(8)}", secrets.token_hex(16)
    try:
        path.write_text(token, encoding="ascii")
    except OSError as error:
        raise storage.write_error(str(home), error) from error
    try:
        yield str(path), token
    finally:
        path.unlink(missing_ok=True)


def blind_nodes(path: str, token: str) -> list[str]:
    """Addresses of the nodes that do not see the file (with the token, unless that is empty)."""
    import ray

    asked = ask_nodes(sees, path, token)
    return sorted(address for address, answer in asked if not ray.get(answer, timeout=ANSWER_S))


def ask_nodes(question: Callable[..., object], *args: object) -> list[tuple[str, object]]:
    """Call a function on every node; returns (address, reference to the answer) pairs."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=2)(question)
    answers: list[tuple[str, object]] = []
    for node in nodes():
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        answers.append((node["NodeManagerAddress"], task.options(scheduling_strategy=there).remote(*args)))
    return answers


def sees(path: str, token: str) -> bool:
    """Whether this machine has the file, with the token in it unless that is empty."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            if Path(path).exists() if not token else Path(path).read_text(encoding="ascii") == token:
                return True
        except OSError:
            pass
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)


def fixed_part(path: str) -> Path:
    """The path up to the first part with a wildcard."""
    whole = storage.local_path(path)
    if whole.exists():
        return whole
    wild = next((i for i, part in enumerate(whole.parts) if any(c in part for c in "*?[{")), len(whole.parts))
    return Path(*whole.parts[:wild])


def _require(spec: str, path: str, token: str) -> None:
    blind = blind_nodes(path, token)
    if blind:
        where = ", ".join(blind[:3]) + (", ..." if len(blind) > 3 else "")
        raise UserError(
            f"{spec}: a local path, which {len(blind)} of {len(nodes())} nodes of the cluster do not see as "
            f"{socket.gethostname()} does ({where}); allowed: s3://..., gs://..., or a folder that all of "
            "them mount under this path"
        )

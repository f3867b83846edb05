"""`segray doctor`: check this machine, its cluster and its storage before a run."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import secrets
import shutil
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from segray.models.annotators.registry import Entry, label_entry, label_names, mask_entry, mask_names
from segray.pipelines.config.commands.doctor import DoctorConfig
from segray.pipelines.engine import auth_token, cluster, shared_storage
from segray.pipelines.engine.auth_token import use_token
from segray.pipelines.engine.dashboard import NoAnswerError, one_line, status_without_token
from segray.pipelines.engine.listening import listeners
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.printing import echo

_PACKAGE = "segray"
_SHOWN_PACKAGES = ("ray", "torch", "torchvision", "pyarrow", "segment-anything", "open_clip_torch", "timm")
_GIB = 2**30
_ACCEPTED, _REFUSED = 200, (401, 403)


@dataclass(frozen=True)
class Finding:
    """One line of the table.

    Attributes:
        ok: False if a run would fail, or would accept unauthenticated requests.
        what: the subject of the check, in one or two words.
        detail: the result, and how to repair it if it is wrong.
    """

    ok: bool
    what: str
    detail: str


def run(config: DoctorConfig) -> None:
    """Print the table.

    Raises:
        UserError: a check failed (2).
    """
    use_token()
    checks = []
    for finding in findings(config):
        checks.append(finding)
        echo(f"{'ok   ' if finding.ok else 'WRONG'}  {finding.what:<15} {finding.detail}")
    if wrong := [finding.what for finding in checks if not finding.ok]:
        raise UserError(f"{len(wrong)} of {len(checks)} checks failed: {', '.join(wrong)}")


def findings(config: DoctorConfig) -> Iterator[Finding]:
    """All checks, in order; those of the cluster are made on it."""
    yield from _machine()
    yield from _packages()
    yield from _models()
    yield _gpus()
    yield from _costs(config.measure)
    yield from _storage(config.out)
    yield _token()
    yield from _cluster(config)


def _machine() -> Iterator[Finding]:
    system = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    yield Finding(True, "machine", f"{socket.gethostname()}, {system}")
    yield Finding(sys.version_info >= (3, 11), "python", f"{platform.python_version()} {sys.executable}")


def _packages() -> Iterator[Finding]:
    """The packages that a run needs, and whether their versions fit."""
    from packaging.requirements import Requirement

    version = installed()
    yield Finding(True, _PACKAGE, version or "not installed: this is the code of a job")
    needed = [
        Requirement(text) for text in (importlib.metadata.requires(_PACKAGE) if version else None) or []
    ]
    for need in needed:
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(need.name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(False, need.name, f"not installed; needed: {need.specifier}")
            continue
        fits = need.specifier.contains(version, prereleases=True)
        if need.name in _SHOWN_PACKAGES or not fits:
            yield Finding(fits, need.name, version + ("" if fits else f"; needed: {need.specifier}"))


def _models() -> Iterator[Finding]:
    """What `sam.model` and `annotator` can be, with size and licence; a missing package is no fault."""
    yield from _entries("sam.model", mask_names(), mask_entry)
    yield from _entries("annotator", label_names(), label_entry)


def _entries(key: str, names: Iterable[str], find: Callable[[str], Entry]) -> Iterator[Finding]:
    for name in names:
        try:
            entry = find(name)
        except ValueError as error:
            yield Finding(False, key, one_line(error))
            continue
        text = f"{name}, {entry.parameters:g} M parameters, {entry.licence}"
        missing = entry.missing()
        yield Finding(True, key, text + (f"; needs {missing}" if missing else ""))


def _gpus() -> Finding:
    import torch

    if not torch.cuda.is_available():
        return Finding(True, "GPUs here", "none: everything runs on CPUs")
    cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    names = ", ".join(f"{card.name} {card.total_memory / _GIB:.0f} GiB" for card in cards)
    return Finding(True, "GPUs here", f"{len(cards)}: {names}; CUDA {torch.version.cuda}")


def _costs(names: Iterable[str]) -> Iterator[Finding]:
    """Seconds per image of models that annotate, on this machine."""
    from segray.pipelines.annotation.cost import measure_cost

    for name in names:
        try:
            cost = measure_cost(name)
        except ValueError as error:
            yield Finding(False, "cost", one_line(error))
            continue
        detail = f"{cost}, random weights" if cost else "not measured: it has no random weights"
        yield Finding(True, "cost", f"{name}, {detail}")


def _storage(out: str | None) -> Iterator[Finding]:
    """Write, read and delete a small file, like a run does."""
    if out is None:
        yield Finding(True, "storage", "not checked; out=DIR checks it")
        return
    try:
        detail = _write_and_read(out)
    except (UserError, OSError, ValueError) as error:
        yield Finding(False, "storage", f"{storage.display(out)}: {one_line(error)}")
        return
    yield Finding(True, "storage", f"{storage.display(out)} can be written{detail}")


def _write_and_read(out: str) -> str:
    if storage.is_local(out):
        with shared_storage.token_file(out) as (path, _):
            free = shutil.disk_usage(os.path.dirname(path)).free  # noqa: PTH120  the path is a string
        return f", {free / _GIB:.0f} GiB free"
    uri, token = _token_object(out)
    try:
        if storage.read_bytes(uri) != token:
            raise ValueError("it returns other data than was written")
    finally:
        storage.delete(uri)
    return ""


def _token_object(out: str) -> tuple[str, bytes]:
    uri, token = storage.join(out, f".segray-{secrets.token_hex(8)}"), secrets.token_hex(16).encode()
    storage.write_atomic(uri, token)
    return uri, token


def _token() -> Finding:
    """Whether other users of this machine can read or replace the token of its clusters."""
    if exposure := auth_token.exposure():
        return Finding(False, "token", f"{exposure.file} {exposure.reason}; {exposure.remedy}")
    file = auth_token.token_file()
    if file is None:
        return Finding(True, "token", "in RAY_AUTH_TOKEN")
    return Finding(True, "token", f"{file}, {'private' if file.is_file() else 'created by the first run'}")


def _cluster(config: DoctorConfig) -> Iterator[Finding]:
    local = not (config.address or os.environ.get("RAY_ADDRESS"))
    try:
        with cluster.connected(config.address) as dashboard:
            yield _resources(local)
            yield from _nodes(local)
            yield _authentication(local, dashboard)
            if local:
                yield _interfaces()
            yield from _shared(config.out)
    except UserError as error:
        yield Finding(False, "cluster", str(error))


def _resources(local: bool) -> Finding:
    import ray

    has, store = cluster.resources(), ray.cluster_resources().get("object_store_memory", 0)
    what = "Ray starts here" if local else f"{has.nodes} node{'s' if has.nodes > 1 else ''}"
    grows = "" if has.cpus >= 1 else "; nothing to run on yet: request machines with grow.gpus=N"
    amount = f"{has.cpus:g} CPUs, {has.gpus:g} GPUs, {store / _GIB:.1f} GiB object store"
    return Finding(True, "cluster", f"{what}: {amount}{grows}")


def _nodes(local: bool) -> Iterator[Finding]:
    """Whether every node has this version of segray; `segray submit` ships it, other ways do not."""
    if local:
        return
    here = installed()
    for address, version in _ask(installed):
        if version != here:
            there = f"segray {version or 'is not installed'}, here {here or 'neither'}"
            detail = f"{there}; segray submit brings its local"
            yield Finding(False, f"node {address}", detail)


def installed() -> str:
    """The version of segray on this node; empty where there is none."""
    try:
        return importlib.metadata.version(_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _ask(question: Callable[..., object], *args: object) -> list[tuple[str, object]]:
    """The answer of each node, by its address; the first line of an exception if it fails."""
    import ray

    answers: list[tuple[str, object]] = []
    for address, answer in shared_storage.ask_nodes(question, *args):
        try:
            answers.append((address, ray.get(answer, timeout=shared_storage.ANSWER_S)))
        except Exception as error:  # noqa: BLE001  the table shows whatever is wrong
            answers.append((address, one_line(error)))
    return answers


def _authentication(local: bool, dashboard: str) -> Finding:
    """Send a request without a token: only a refusal shows that the cluster requires one."""
    if local:
        return Finding(True, "authentication", "Ray on this machine, which ends with the run")
    try:
        status = status_without_token(dashboard)
    except NoAnswerError as problem:
        return _unknown_authentication(dashboard, str(problem))
    if status in _REFUSED:
        return Finding(True, "authentication", f"{dashboard} refuses requests without a token")
    if status is None:
        mode = os.environ.get("RAY_AUTH_MODE", "not set")
        return Finding(True, "authentication", f"{dashboard or 'the dashboard'} cannot be reached; {mode=}")
    if status != _ACCEPTED:
        return _unknown_authentication(dashboard, f"it answers with HTTP status {status}")
    return Finding(
        False,
        "authentication",
        f"{dashboard} accepts requests without a token; run `ray get-auth-token --generate`, and set "
        "RAY_AUTH_MODE=token on every node",
    )


def _unknown_authentication(dashboard: str, problem: str) -> Finding:
    what = f"{dashboard} does not answer as Ray's dashboard does ({problem})"
    return Finding(False, "authentication", f"{what}; whether it requires a token is not known")


def _interfaces() -> Finding:
    """Whether another machine can reach the Ray that was started here."""
    ports = listeners()
    if reachable := [port for port in ports if not port.is_local]:
        detail = (
            f"{len(reachable)} of {len(ports)} ports can be reached from the network, such as {reachable[0]}"
        )
        return Finding(False, "interfaces", f"{detail}; only the token protects them")
    return Finding(True, "interfaces", f"Ray's {len(ports)} ports listen on this machine alone")


def _shared(out: str | None) -> Iterator[Finding]:
    """Whether all nodes see the file that one of them writes to `out`."""
    if out is None or len(shared_storage.nodes()) < 2:
        return
    try:
        blind = _blind(out)
    except (UserError, OSError) as error:
        yield Finding(False, "shared", f"{storage.display(out)}: {one_line(error)}")
        return
    if blind:
        detail = f"not seen by {', '.join(blind)}; use object storage, or a folder that all of them mount"
        yield Finding(False, "shared", detail)
    else:
        yield Finding(True, "shared", f"all {len(shared_storage.nodes())} nodes see the files written there")


def _blind(out: str) -> list[str]:
    if storage.is_local(out):
        with shared_storage.token_file(out) as (path, token):
            return shared_storage.blind_nodes(path, token)
    uri, wanted = _token_object(out)
    try:
        return [node for node, data in _ask(storage.read_bytes, uri) if data != wanted]
    finally:
        storage.delete(uri)

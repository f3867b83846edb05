"""Start Ray on this machine: its folder, its cores, and further tries on a busy machine."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from segray.pipelines.engine.auth_token import keep_private
from segray.pipelines.engine.cpu import available_cores
from segray.pipelines.engine.ray_output import QUIET, without_greeting
from segray.pipelines.engine.waiting import Waiting
from segray.pipelines.errors import UserError
from segray.pipelines.printing import echo

if TYPE_CHECKING:
    import psutil

TRIES = 3
_SHORT = "/tmp"  # noqa: S108  where Ray itself keeps its sessions, and short
_SOCKET_BYTES = 107
"""The longest path of a socket on Linux; 103 on macOS, where Ray's folders have the same names."""
_BELOW = len("/ray/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store.1")
"""What Ray appends to the folder for temporary files."""
_LONGEST = _SOCKET_BYTES - _BELOW
_LONGEST_OF_PYTHON = _SOCKET_BYTES - len("/pymp-12345678/listener-12345678")
"""The same for the sockets of processes that hand over images: without them a run waits for ever."""
_PROCESSES = {"raylet", "gcs_server"}

_log = logging.getLogger(__name__)


def check_folder() -> None:
    """Check that Ray's sockets have a folder with a path that is short enough.

    Raises:
        UserError: neither the environment nor this machine has one.
    """
    name, folder = _chosen()
    if _fits(folder) or os.access(_SHORT, os.W_OK | os.X_OK):
        return
    size = len(os.fsencode(folder))
    raise UserError(
        f"{name}={folder}: too long for Ray's sockets ({size} bytes, allowed: {_LONGEST}), and {_SHORT} "
        "cannot be written; set RAY_TMPDIR to a short folder"
    )


def local_cpus() -> int:
    """CPUs of a cluster that is started on this machine."""
    # Listing a Parquet file takes one whole CPU beside the actors: a single core counts as two.
    return max(2, available_cores())


@contextmanager
def started() -> Iterator[None]:
    """A Ray on this machine, which ends with the block; on a busy machine it is started up to three times.

    Raises:
        UserError: it does not start (1), or has no folder for its sockets (2).
    """
    import ray

    with _folder() as options:
        _start(options)
        try:
            yield
        finally:
            ray.shutdown()


def _start(options: Mapping[str, str]) -> None:
    before = _processes()
    for number in range(1, TRIES + 1):
        try:
            keep_private()
            _init(options)
        except Exception as error:  # Ray raises bare ones, such as when a busy machine starts it too slowly
            _end_remains(before)
            if number == TRIES:
                raise UserError(_advice(error), exit_code=1) from error
            echo(f"Ray did not start: {_first_line(error)}; try {number + 1} of {TRIES}", err=True)
        else:
            return


def _init(options: Mapping[str, str]) -> None:
    import ray

    with Waiting("Ray to start on this machine"), without_greeting():
        ray.init(address="local", num_cpus=local_cpus(), include_dashboard=False, **QUIET, **options)


def _end_remains(before: set[psutil.Process]) -> None:
    """End the processes of a start that failed; Ray itself leaves them until this process ends."""
    import psutil
    import ray

    ray.shutdown()
    remains = _processes() - before
    for process in remains:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(list(remains), timeout=5)


def _processes() -> set[psutil.Process]:
    """Ray's own processes below this one."""
    import psutil

    processes = set()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            processes |= {process} if process.name() in _PROCESSES else set()
    return processes


def _advice(error: Exception) -> str:
    busy = f"{os.getloadavg()[0]:.0f} busy processes on {available_cores()} cores"
    return (
        f"Ray did not start on this machine in {TRIES} tries: {_first_line(error)} ({busy}); run the same "
        "command again when the machine is less busy, or join a running Ray: `ray start --head`, address=auto"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def _folder() -> Iterator[dict[str, str]]:
    """Options of `ray.init`: another folder for the sockets, if the usual one has too long a path."""
    name, folder = _chosen()
    temp = os.environ.get("TMPDIR", "")
    fits, python_fits = _fits(folder), len(os.fsencode(temp)) <= _LONGEST_OF_PYTHON
    if fits and python_fits:
        yield {}
        return
    check_folder()
    with tempfile.TemporaryDirectory(prefix="ray-", dir=_SHORT, ignore_cleanup_errors=True) as short:
        long = f"TMPDIR={temp}" if fits else f"{name}={folder}"
        _log.info("%s is too long for sockets, which are in %s", long, short)
        with nullcontext() if python_fits else _workers_temp(short):
            yield {} if fits else _options(short, folder)


def _options(short: str, folder: str) -> dict[str, str]:
    # What does not fit into memory stays where the user wants temporary files.
    spilled = {"object_spilling_directory": folder} if Path(folder).is_dir() else {}
    return {"_temp_dir": short, **spilled}


@contextmanager
def _workers_temp(folder: str) -> Iterator[None]:
    """The folder for temporary files of the processes that start within it, Ray's workers among them."""
    before = os.environ["TMPDIR"]
    # This process has chosen its own already, and keeps it.
    tempfile.gettempdir()
    os.environ["TMPDIR"] = folder
    try:
        yield
    finally:
        os.environ["TMPDIR"] = before


def _chosen() -> tuple[str, str]:
    """The folder for temporary files that Ray would use, and the variable that names it."""
    named = ((name, os.environ[name]) for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name))
    return next(named, ("TMPDIR", _SHORT))


def _fits(folder: str) -> bool:
    return len(os.fsencode(folder)) <= _LONGEST

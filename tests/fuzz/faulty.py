"""Readers that do what no reader may: what the harness itself must notice."""

from __future__ import annotations

import ctypes
import io
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import click


def _crash(folder: Path) -> None:
    ctypes.string_at(0)


def _raise(folder: Path) -> None:
    raise KeyError("a bug")


def _take_memory(folder: Path) -> None:
    bytearray(1_200_000_000)


def _take_a_second(folder: Path) -> None:
    end = time.process_time() + 1
    while time.process_time() < end:
        pass


def _take_all_time(folder: Path) -> None:
    while True:
        pass


def _write_outside(folder: Path) -> None:
    with suppress(OSError):
        (folder.parent / "home" / "x").write_text("x")


def _write_inside(folder: Path) -> None:
    (folder / "x").write_text("x")
    (folder / "x").rename(folder / "y")


def _connect(folder: Path) -> None:
    with socket.socket() as end, suppress(OSError):
        end.connect(("127.0.0.1", 9))


def _look_up(folder: Path) -> None:
    with suppress(OSError):
        socket.getaddrinfo("localhost", 9)


def _start_process(folder: Path) -> None:
    with suppress(OSError):
        subprocess.run(["true"], check=False)


def _read_secret(folder: Path) -> None:
    with suppress(OSError):
        (folder / ".." / "secret" / "secret.json").read_bytes()


def _print_escape(folder: Path) -> None:
    click.echo("class \x1b]0;x\x07")


def _unpickle(folder: Path) -> None:
    import pickle

    with suppress(OSError):
        pickle.load(io.BytesIO(b"cposix\nsystem\n."))


FAULTY: dict[str, Callable[[Path], None]] = {
    "crash": _crash,
    "raise": _raise,
    "take memory": _take_memory,
    "take a second": _take_a_second,
    "take all time": _take_all_time,
    "write outside": _write_outside,
    "write inside": _write_inside,
    "connect": _connect,
    "look up a name": _look_up,
    "start a process": _start_process,
    "read the secret": _read_secret,
    "print an escape": _print_escape,
    "unpickle": _unpickle,
}

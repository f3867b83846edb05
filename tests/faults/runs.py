"""Run `segray` on a few tiny pictures, in this process or beside it, and end it as badly as one likes."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segray.pipelines import cli
from segray.pipelines.commands import annotate
from segray.pipelines.config.commands.annotate import AnnotateConfig
from segray.pipelines.config.loading import load

REPOSITORY = Path(__file__).parents[2]
# Some names mean a fault to `tests.faults.stages`, and nothing to anything else.
DIES_ONCE = ("sam-dies-once.png", "clip-dies-once.png")
POISON = ("sam-dies.png", "sam-memory-alone.png", "clip-memory-alone.png", "sam-raises.png")
BATCH = "sam-memory-batch.png"
SCENES = tuple(f"scene{i:02}.png" for i in range(13))
NAMES = (*SCENES, *DIES_ONCE, *POISON, BATCH)
ROWS_PER_PART = 2
N_PARTS = len(NAMES) // ROWS_PER_PART
PATIENCE_S = 500.0
"""How long to wait for what must happen; only a hang comes near it."""

# Every prompt's masks are kept, so that there are segments however well or badly the weights are trained.
OPTIONS = (
    *("sam.points_per_side=2", "sam.pred_iou_thresh=0", "sam.stability_score_thresh=0"),
    *("sam.workers=1", "sam.batch_size=2", "clip.batch_size=2", f"rows_per_part={ROWS_PER_PART}"),
)
_TOKEN = "SEGRAY_TEST_RUN"
_AGENTS = "ray::DashboardAgent", "ray::RuntimeEnvAgent"


def draw_images(folder: Path, names: Sequence[str] = NAMES) -> Path:
    """Tiny pictures of a few colours, of different sizes, each determined by its name."""
    folder.mkdir(parents=True)
    for name in names:
        number = NAMES.index(name)
        rng = np.random.default_rng(number)
        image = np.full((40 + 8 * (number % 3), 64, 3), rng.integers(0, 256, 3), np.uint8)
        image[5:25, 8:28] = rng.integers(0, 256, 3)
        image[20:38, 36:60] = rng.integers(0, 256, 3)
        Image.fromarray(image).save(folder / name)
    return folder


def words(images: Path, out: Path, *more: str) -> list[str]:
    """The words behind `segray annotate`; of two for one key the last wins."""
    return [f"images={images}", f"out={out}", *OPTIONS, *more]


def annotate_here(images: Path, out: Path, *more: str) -> None:
    """`segray annotate` in this process, on the Ray that it is connected to."""
    annotate.run(load(AnnotateConfig, None, words(images, out, *more)))


def segray(*arguments: str) -> int:
    """The command line in this process: its exit status."""
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    return int(stop.value.code or 0)


def finished_parts(out: Path) -> list[str]:
    """Names of the parts that are committed."""
    return sorted(path.name for path in out.glob("labels/part-*.parquet"))


@dataclass(frozen=True)
class Finished:
    """A process that has ended: exit status (negative: the signal that ended it) and what it said."""

    code: int
    out: str
    err: str

    @property
    def complaints(self) -> list[str]:
        """The lines that the command line itself wrote to stderr."""
        return [line for line in self.err.splitlines() if line.startswith("segray: ")]


class Process:
    """A command in a process group of its own, as a terminal starts it.

    Its output goes to files: pipes would stay open as long as any process that it leaves behind.
    """

    def __init__(self, command: list[str], log: Path) -> None:
        self._token = secrets.token_hex(8)
        self._out, self._err = log.with_suffix(".out"), log.with_suffix(".err")
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen(
                command,
                stdout=out,
                stderr=err,
                stdin=subprocess.DEVNULL,
                cwd=REPOSITORY,
                env={**environment, "OMP_NUM_THREADS": "1", _TOKEN: self._token},
                process_group=0,
                preexec_fn=_heed_ctrl_c,
            )
        self.pid = self._process.pid

    def wait(self) -> Finished:
        """Until it ends by itself."""
        code = self._process.wait(PATIENCE_S)
        return Finished(code, self._out.read_text(), self._err.read_text())

    def kill(self) -> Finished:
        """SIGKILL to this one process, none of its children."""
        self._process.kill()
        return self.wait()

    def interrupt(self) -> None:
        """Ctrl-C: SIGINT to the whole process group."""
        os.killpg(self.pid, signal.SIGINT)

    def wait_for(self, condition: Callable[[], bool], *, or_end: bool = False) -> None:
        """Until the condition holds; the process must still run then, unless its end is as good."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            ended = self._process.poll() is not None
            if ended and or_end:
                return
            if ended or time.monotonic() > deadline:
                raise AssertionError(f"not what was waited for; it said:\n{self._err.read_text()}")
            time.sleep(0.02)

    def wait_for_workers(self) -> None:
        """Until no worker that this one has left behind is at work.

        Ray's agents look for their head for a minute, and a worker that was being started looks for its
        raylet for half a one; neither has anything to do.
        """
        deadline = time.monotonic() + PATIENCE_S
        while left := [pid for pid in self._descendants() if _at_work(_title(pid))]:
            assert time.monotonic() < deadline, f"still running: {left}"
            time.sleep(0.1)

    def _descendants(self) -> list[int]:
        mark = f"{_TOKEN}={self._token}".encode()
        return [pid for pid in _processes() if pid != self.pid and mark in _environment(pid)]

    def kill_worker(self, title: str) -> bool:
        """SIGKILL to a Ray worker of this run whose process title has these words, if there is one."""
        for pid in self._descendants():
            with suppress(OSError):
                if title in _title(pid):
                    os.kill(pid, signal.SIGKILL)
                    return True
        return False

    def clear(self) -> None:
        """End what is left of it, however the test went."""
        for pid in {self.pid, *self._descendants()}:
            if self._process.poll() is None or pid != self.pid:
                _end(pid)
        self._process.wait(PATIENCE_S)


def _heed_ctrl_c() -> None:
    """What a shell runs in the background inherits that SIGINT is ignored; so would its tests' processes."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _title(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text()
    return ""


def _at_work(title: str) -> bool:
    return title.startswith("ray::") and not title.startswith(_AGENTS)


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _end(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


@contextmanager
def started(arguments: list[str], log: Path, *, module: str = "segray.pipelines.cli") -> Iterator[Process]:
    """`segray VERB ...` as a process, or another module that is run like it."""
    process = Process([sys.executable, "-m", module, *arguments], log)
    try:
        yield process
    finally:
        process.clear()


@contextmanager
def tmpfs(folder: Path, kilobytes: int) -> Iterator[Callable[[str], None]]:
    """A file system of a given size at `folder`; yields a function that remounts it with other options."""
    folder.mkdir()
    size = f"size={kilobytes}k"
    tried = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)], capture_output=True, check=False
    )
    if tried.returncode:
        pytest.skip(f"cannot mount a small file system here: {tried.stderr.decode().strip()}")

    def remount(options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)

    try:
        yield remount
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)

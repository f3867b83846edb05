"""What the benchmarks share: their command line, their circumstances, the table and the JSON file."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any, TypeVar

import click
import torch
from PIL import Image

from segray.pipelines.errors import UserError
from segray.pipelines.io.storage import write_atomic
from segray.pipelines.scenes.picture_book import draw_scene
from tools.sam_task import TRAIN_SEED

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
MIB = 2**20
DEVICES = click.Choice(["cpu", "cuda"])


class Benchmark(click.Command):
    """A command that records its arguments, takes `--seeds 1 2 3`, and reports errors in one line."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See click."""
        ctx.meta["command"] = shlex.join(["python", "-m", f"benchmarks.{self.name}", *args])
        return super().parse_args(ctx, spread(args, "--seeds"))

    def invoke(self, ctx: click.Context) -> Any:
        """See click."""
        try:
            return super().invoke(ctx)
        except (UserError, ValueError) as error:
            raise click.ClickException(str(error)) from error


def spread(args: Sequence[str], option: str) -> list[str]:
    """`--seeds 1 2` as click takes it: `--seeds 1 --seeds 2`."""
    words: list[str] = []
    inside = False
    for word in args:
        inside = word == option or (inside and word.isdecimal())
        if inside and word != option and words[-2:-1] == [option]:
            words.append(option)
        words.append(word)
    return words


def fresh(ctx: click.Context, param: click.Parameter, seeds: int | tuple[int, ...]) -> Any:
    """Click callback: refuse the seed of the scenes that the built-in models were trained on."""
    if TRAIN_SEED in (seeds if isinstance(seeds, tuple) else (seeds,)):
        raise click.BadParameter(
            f"the built-in models were trained on scenes of seed {TRAIN_SEED}", ctx, param
        )
    return seeds


def available_cores() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def circumstances(seeds: Sequence[int]) -> dict[str, Any]:
    """Command, seeds, device, versions, commit and time: what a figure needs to be measured again."""
    context = click.get_current_context()
    return {
        "benchmark": context.command.name,
        "command": context.meta["command"],
        "seeds": list(seeds),
        "device": {
            "cpu": _cpu_model(),
            "cores": available_cores(),
            "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
            "load_average": round(os.getloadavg()[0], 2),
        },
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in ("torch", "ray")},
        },
        "git": _git(),
        "timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def write_result(out: Path | None, record: dict[str, Any]) -> Path:
    """The record as JSON in `out`, or in this folder's results/NAME.json; the path."""
    path = out or RESULTS / f"{record['benchmark']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(str(path), (json.dumps(record, indent=2, allow_nan=False) + "\n").encode())
    return path


def spread_of(values: Sequence[float]) -> dict[str, Any]:
    """Mean, sample standard deviation (null for one value) and the values themselves."""
    deviation = stdev(values) if len(values) > 1 else None
    return {"mean": fmean(values), "sd": deviation, "values": list(values)}


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned text: the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in (head, *rows)
    )


def timed(work: Callable[[], T], rounds: int) -> tuple[T, float]:
    """What it returns, and its median CPU seconds."""
    seconds = []
    for _ in range(rounds):
        start = time.process_time()
        result = work()
        seconds.append(time.process_time() - start)
    return result, median(seconds)


def clocked(work: Callable[[], T], device: str) -> tuple[T, float]:
    """What it returns, and its CPU seconds; on a GPU the seconds until the device is through."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    start = clock()
    result = work()
    if device != "cpu":
        torch.cuda.synchronize()
    return result, clock() - start


def a_device(ctx: click.Context, param: click.Parameter, device: str) -> str:
    """Click callback: refuse a GPU that is not there."""
    if device == "cuda" and not torch.cuda.is_available():
        raise click.BadParameter("no GPU that torch can use", ctx, param)
    return device


def draw_images(folder: Path, n: int, seed: int, size: int) -> list[Path]:
    """The first `n` scenes of a picture book as PNG files."""
    folder.mkdir(parents=True)
    paths = [folder / f"scene-{index:06d}.png" for index in range(n)]
    for index, path in enumerate(paths):
        Image.fromarray(draw_scene(seed, index, size).image).save(path)
    return paths


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    """Of an installed package: a machine for kernels needs no ray."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git() -> dict[str, Any]:
    """The commit, and whether files of the product differ from it; None outside of a repository."""
    commit = _run_git("rev-parse", "HEAD")
    changed = _run_git("status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "changed": bool(changed) if commit else None}


def _run_git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()

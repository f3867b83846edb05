"""Run `segray` on a few tiny images, in this process or beside it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segray.pipelines import cli
from segray.pipelines.commands import annotate
from segray.pipelines.config.commands.annotate import AnnotateConfig
from segray.pipelines.config.loading import load

# Some names mean a fault to `tests.faults.stages`, and nothing to anything else.
DIES_ONCE = ("sam-dies-once.png", "clip-dies-once.png")
POISON = ("sam-dies.png", "sam-memory-alone.png", "clip-memory-alone.png", "sam-raises.png")
BATCH = "sam-memory-batch.png"
SCENES = tuple(f"scene{i:02}.png" for i in range(13))
NAMES = (*SCENES, *DIES_ONCE, *POISON, BATCH)
ROWS_PER_PART = 2
N_PARTS = len(NAMES) // ROWS_PER_PART
# Every prompt's masks are kept, so that there are segments however well or badly the weights are trained.
OPTIONS = (
    *("classes=picture_book", "sam.model=builtin", "clip.model=builtin"),
    *("sam.points_per_side=2", "sam.pred_iou_thresh=0", "sam.stability_score_thresh=0"),
    *("sam.workers=1", "sam.batch_size=2", "clip.batch_size=2", f"rows_per_part={ROWS_PER_PART}"),
)


def draw_images(folder: Path, names: Sequence[str] = NAMES) -> Path:
    """Tiny images of a few colours, of different sizes, each determined by its name."""
    folder.mkdir(parents=True)
    for name in names:
        number = NAMES.index(name)
        rng = np.random.default_rng(number)
        image = np.full((40 + 8 * (number % 3), 64, 3), rng.integers(0, 256, 3), np.uint8)
        image[5:25, 8:28] = rng.integers(0, 256, 3)
        image[20:38, 36:60] = rng.integers(0, 256, 3)
        Image.fromarray(image).save(folder / name)
    return folder


def overrides(images: Path, out: Path, *more: str) -> list[str]:
    """The arguments of `segray annotate`; of two overrides of a key the last wins."""
    return [f"images={images}", f"out={out}", *OPTIONS, *more]


def annotate_here(images: Path, out: Path, *more: str) -> None:
    """`segray annotate` in this process, on the Ray that it is connected to."""
    annotate.run(load(AnnotateConfig, None, overrides(images, out, *more)))


def segray(*arguments: str) -> int:
    """The command line in this process: its exit status."""
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    return int(stop.value.code or 0)


def only_error(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that an error took; before it stands what the command understood, the classes."""
    *before, line = capsys.readouterr().err.splitlines()
    assert line.startswith("segray: ")
    assert all(other.startswith("classes") for other in before), before
    return line


def finished_parts(out: Path) -> list[str]:
    """Names of the parts that are committed."""
    return sorted(path.name for path in out.glob("labels/part-*.parquet"))


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

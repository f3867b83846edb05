"""What it saves that one actor holds SAM and CLIP: `segray annotate` that way and with an actor for each.

    python -m benchmarks.fused --images 96 --size 1024 --rounds 3

The whole command on one core, which stands for the one GPU that both models share: whatever carries images
and masks from one actor to the other takes its time from the models. `ratio` is the images/s of the one
actor over those of the two, of runs in turn, from a tenth of the images to nine tenths (starting and ending
are left out). Both ways label alike: the label sets are compared.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import click

from benchmarks.common import Benchmark, circumstances, draw_images, fresh, spread_of, table, write_result
from benchmarks.memory import watch
from benchmarks.scaling import rate_of
from segray.pipelines.annotation import probe
from segray.pipelines.annotation.probe import Pools
from segray.pipelines.cli import main as segray
from segray.pipelines.engine.pools import PoolPlan
from segray.pipelines.label_set.store import LabelStore

KINDS = ("two", "one")
_BATCH = 4
# What is defined in a program's main module travels as a copy to every task, so that it is none.
_PROGRAM = "import sys; from benchmarks.fused import run; run(sys.argv[1], sys.argv[2:])"


def pools_of(kind: str) -> Pools:
    """An actor for both models, or one for each, of the one thread that the core has."""
    plan = PoolPlan(workers=1, max_workers=1, num_cpus=0, num_gpus=0, threads=1, batch_size=_BATCH, calls=3)
    return Pools({"sam": plan, "clip": plan}, shared=kind == "one")


def run(kind: str, words: list[str]) -> None:
    """The command line on one core, with these pools in place of those that it would choose."""

    # Its workers inherit the core.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with mock.patch.object(probe, "choose", return_value=pools_of(kind)):
        segray(words)


def measure(images: Path, out: Path, kind: str, overrides: list[str]) -> float:
    """Images/s of a run."""
    words = ["annotate", f"images={images}", f"out={out}", "classes=picture_book", "rows_per_part=4"]
    words += ["sam.model=builtin", "clip.model=builtin", *overrides]
    return rate_of(watch([sys.executable, "-c", _PROGRAM, kind, *words], out, 0.02))


def labels_of(out: Path) -> list[dict[str, Any]]:
    """The label map of each image, as stored."""
    return LabelStore(str(out)).columns(["image_id", "label"]).sort_by("image_id").to_pylist()


def show(record: dict[str, Any]) -> str:
    """The record as a table."""
    rows = [[name, f"{record[name]['mean']:.3f}"] for name in KINDS]
    return f"{table(['actors', 'images/s'], rows)}\n\none over two: {record['ratio']['mean']:.3f}"


@click.command("fused", cls=Benchmark, help=__doc__)
@click.option("--images", default=96, show_default=True, type=click.IntRange(40), help="Scenes.")
@click.option("--size", default=1024, show_default=True, type=click.IntRange(64), help="Their side, pixels.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1), help="Runs of each kind.")
@click.option("--seed", default=11, show_default=True, callback=fresh, help="Of the scenes.")
@click.option("--out", default=None, type=Path, help="The JSON file; default: in benchmarks/results.")
@click.argument("overrides", nargs=-1)
def main(
    images: int, size: int, rounds: int, seed: int, out: Path | None, overrides: tuple[str, ...]
) -> None:
    """Measure, compare, print, record."""
    rates: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        draw_images(place / "images", images, seed, size)
        for number in range(rounds):
            for kind in KINDS:
                target = place / f"{kind}-{number}"
                rates[kind].append(measure(place / "images", target, kind, list(overrides)))
                click.echo(f"{kind}: {rates[kind][-1]:.3f} images/s", err=True)
        same = labels_of(place / "one-0") == labels_of(place / "two-0")
    if not same:
        raise ValueError("one actor and two label differently")
    ratios = [one / two for one, two in zip(rates["one"], rates["two"], strict=True)]
    record = {
        **circumstances([seed]),
        "images": images,
        "size": size,
        "overrides": list(overrides),
        **{kind: spread_of(rates[kind]) for kind in KINDS},
        "ratio": spread_of(ratios),
    }
    click.echo(show(record))
    click.echo(f"\n{write_result(out, record)}")


if __name__ == "__main__":
    main()

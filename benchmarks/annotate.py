"""What Ray costs: images per second of `segray annotate` against a bare loop over the same models and images.

    python -m benchmarks.annotate --images 480 --rounds 3

The bare loop is one process with torch on all cores: read, decode, SAM, GEM, pool, name, draw, encode PNG.
The pipeline does that and RLE, embeddings, checksums and Parquet parts. Each run is a fresh process; a round
takes all ways, every other round in reverse order. `ratio` is the median rate of the pipeline with one worker
a model over that of the bare loop, model loading and Ray's start excluded on both sides: the loop's clock
starts when its models are loaded, the pipeline's when its workers' are and SAM takes its first image, and
stops when the last part is written. Filling and emptying the pipeline takes seconds whatever the number of
images: few of them measure that, not throughput. WORDS are `key=value` of `segray annotate`, for all ways.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import click

from benchmarks.common import (
    Benchmark,
    available_cores,
    circumstances,
    draw_images,
    fresh,
    table,
    write_result,
)
from benchmarks.throughput import Timing, bare_loop, in_fresh_process, pipeline
from segray.pipelines.config.commands.annotate import AnnotateConfig
from segray.pipelines.config.loading import load

BARE, ONE, AUTO = "bare loop", "one worker a model", "default workers"
_NEEDED = ("out=none", "classes=picture_book")
_ONE_WORKER = ("sam.workers=1", "clip.workers=1")


def ways(
    paths: Sequence[Path], overrides: Sequence[str], threads: int, with_default: bool
) -> dict[str, Callable[[], Timing]]:
    """What is to be timed, by name."""

    def config(*more: str) -> AnnotateConfig:
        return load(AnnotateConfig, None, [*_NEEDED, *overrides, *more, f"images={paths[0].parent}"])

    runs: dict[str, Callable[[], Timing]] = {
        BARE: partial(in_fresh_process, bare_loop, config(), list(paths), threads),
        ONE: partial(in_fresh_process, pipeline, config(*_ONE_WORKER)),
    }
    if with_default:
        runs[AUTO] = partial(in_fresh_process, pipeline, config())
    return runs


def run_rounds(todo: dict[str, Callable[[], Timing]], rounds: int) -> dict[str, list[Timing]]:
    """Each way once a round, every other round backwards, so that a drifting machine favours none."""
    taken: dict[str, list[Timing]] = {name: [] for name in todo}
    for number in range(rounds):
        for name in list(todo)[:: -1 if number % 2 else 1]:
            timing = todo[name]()
            taken[name].append(timing)
            click.echo(f"round {number + 1}  {name:<18}  {timing.rate:.3f} images/s", err=True)
    return taken


def summary(taken: dict[str, list[Timing]]) -> dict[str, Any]:
    """Medians over the rounds, and the pipeline's ratios to the bare loop."""
    rate = {name: median(t.rate for t in timings) for name, timings in taken.items()}
    wall = {name: median(t.wall_rate for t in timings) for name, timings in taken.items()}
    truth = taken[BARE][0].labels
    return {
        "ratio": rate[ONE] / rate[BARE],
        "ratio_wall": wall[ONE] / wall[BARE],
        "ratio_default": rate[AUTO] / rate[BARE] if AUTO in rate else None,
        "ratio_default_wall": wall[AUTO] / wall[BARE] if AUTO in wall else None,
        "ratio_by_round": [
            timing.rate / bare.rate for timing, bare in zip(taken[ONE], taken[BARE], strict=True)
        ],
        "ways": {
            name: {
                "images_per_second": rate[name],
                "images_per_second_wall": wall[name],
                "seconds": [t.seconds for t in timings],
                "seconds_wall": [t.wall_seconds for t in timings],
                "images_labelled": [t.images for t in timings],
                "labels_equal_to_bare_loop": [same_labels(t.labels, truth) for t in timings],
            }
            for name, timings in taken.items()
        },
    }


def same_labels(labels: dict[str, str], truth: dict[str, str]) -> float:
    """Share of the images with the very same label map."""
    return sum(labels.get(name) == digest for name, digest in truth.items()) / len(truth)


def show(record: dict[str, Any]) -> str:
    """The record as a table."""
    bare = record["ways"][BARE]
    rows = [
        [
            name,
            f"{way['images_per_second']:.3f}",
            f"{way['images_per_second'] / bare['images_per_second']:.3f}",
            f"{way['images_per_second_wall']:.3f}",
            f"{way['images_per_second_wall'] / bare['images_per_second_wall']:.3f}",
            f"{100 * min(way['labels_equal_to_bare_loop']):.0f} %",
        ]
        for name, way in record["ways"].items()
    ]
    return table(["", "images/s", "ratio", "with set-up", "ratio", "same labels"], rows)


@click.command("annotate", cls=Benchmark, help=__doc__)
@click.option("--images", default=480, show_default=True, type=click.IntRange(1))
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1))
@click.option("--size", default=256, show_default=True, type=click.IntRange(32), help="Side in pixels.")
@click.option("--seed", default=11, show_default=True, callback=fresh, type=int)
@click.option(
    "--threads", default=available_cores, type=click.IntRange(1), help="Of the bare loop; default: all."
)
@click.option("--default/--no-default", "with_default", default=True, help="Also time the default workers.")
@click.option(
    "--out", default=None, type=Path, help="The JSON file; default: benchmarks/results/annotate.json."
)
@click.argument("overrides", nargs=-1)
def main(
    images: int,
    rounds: int,
    size: int,
    seed: int,
    threads: int,
    with_default: bool,
    out: Path | None,
    overrides: tuple[str, ...],
) -> None:
    """Measure, print, record."""
    record = circumstances([seed])
    with tempfile.TemporaryDirectory() as folder:
        paths = draw_images(Path(folder) / "images", images, seed, size)
        taken = run_rounds(ways(paths, overrides, threads, with_default), rounds)
    record |= {
        "images": images,
        "rounds": rounds,
        "size": size,
        "threads": threads,
        "config": list(overrides),
    }
    record |= summary(taken)
    click.echo(f"\n{images} images of {size} px, medians of {rounds} rounds\n")
    click.echo(show(record))
    click.echo(f"\n{write_result(out, record)}")


if __name__ == "__main__":
    main()

"""What the engine itself costs, without models: overhead at 1 to 16 actors, and many tiny rows.

    python -m benchmarks.scaling --actors 1,2,4,8,16 --rows 100000,1000000

A stand-in sleeps in SAM's place, a fixed time an image (`benchmarks.stand_in`): as many actors as one likes
work at once on few cores, and whatever is missing to their full rate is the engine. `efficiency` is the rate
over actors / latency, from a tenth of the images to nine tenths: filling and emptying are left out. The
rows are one image of 16 px under many ids, with no sleep: rows per second, and the driver's memory (RSS).
"""

from __future__ import annotations

import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import click

from benchmarks.common import MIB, Benchmark, circumstances, draw_images, table, write_result
from benchmarks.memory import Sample, thin, watch
from segray.pipelines.engine import cluster, ledger
from segray.pipelines.io.manifest import ImageRef, write_manifest

SIZE = 16
_STEADY = 0.1, 0.9
# What is defined in a program's main module travels as a copy to every task, so that it is none.
_PROGRAM = "import sys; from benchmarks.stand_in import run; run(sys.argv[1:])"


def engine(folder: Path, rows: int, seconds: float, interval: float, overrides: list[str]) -> list[Sample]:
    """One run of so many rows with models that sleep so long; samples of its progress and memory."""
    folder.mkdir(parents=True)
    (image,) = draw_images(folder / "image", 1, 0, SIZE)
    manifest, out = folder / "images.parquet", folder / "labels"
    write_manifest((ImageRef(f"{i:09}.png", str(image)) for i in range(rows)), str(manifest))
    arguments = [f"images={manifest}", f"out={out}", "classes=picture_book", *overrides]
    return watch([sys.executable, "-c", _PROGRAM, str(seconds), "annotate", *arguments], out, interval)


def rate_of(samples: list[Sample]) -> float:
    """Rows a second from a tenth of them to nine tenths, as parts come: so much is under way at both moments.

    Raises:
        ValueError: there were no two samples with different numbers of rows in between.
    """
    parts = [now for before, now in pairwise(samples) if now.rows > before.rows]
    total = parts[-1].rows if parts else 0
    steady = [part for part in parts if _STEADY[0] * total <= part.rows <= _STEADY[1] * total]
    if len(steady) < 2:
        raise ValueError("the run was over between two samples; take more rows")
    first, last = steady[0], steady[-1]
    return (last.rows - first.rows) / (last.seconds - first.seconds)


def overhead(folder: Path, actors: int, latency: float, per_actor: int) -> dict[str, Any]:
    """The rate of some actors, and what of it is lost."""
    overrides = [f"sam.workers={actors}", "clip.workers=1", "sam.batch_size=4", "rows_per_part=16"]
    samples = engine(folder, actors * per_actor, latency, 0.02, overrides)
    rate = rate_of(samples)
    return {
        "actors": actors,
        "images_per_second": rate,
        "efficiency": rate * latency / actors,
        "overhead_ms_per_image": 1000 * (actors / rate - latency),
    }


def many_rows(folder: Path, rows: int) -> dict[str, Any]:
    """Rows a second without models, and the driver's memory over the run."""
    overrides = ["sam.workers=1", "clip.workers=1", "sam.batch_size=64", "clip.batch_size=64"]
    samples = engine(folder, rows, 0, 0.5, overrides)
    labels = list((folder / "labels").rglob("part-*.parquet"))
    return {
        "rows": rows,
        "seconds": samples[-1].seconds,
        "rows_per_second": rate_of(samples),
        "rss_mib_peak": max(s.rss for s in samples) / MIB,
        "rss_mib_before_first_part": max(s.rss for s in samples if not s.rows) / MIB,
        "manifest_bytes_per_row": (folder / "labels" / "manifest.parquet").stat().st_size / rows,
        "part_bytes_per_row": sum(path.stat().st_size for path in labels) / rows,
        "parts": len(labels) // 2,
        "curve": [[round(s.seconds, 1), s.rows, round(s.rss / MIB, 1)] for s in thin(samples, 100)],
    }


def ledger_rate(callers: int, calls: int) -> float:
    """Calls a second of the one ledger of a run, asked by several workers at once as stages ask it."""
    import ray

    with cluster.session(None), ledger.started() as run_ledger:
        task = ray.remote(num_cpus=0)(_call)
        ray.get([task.remote(run_ledger, caller, 10) for caller in range(callers)])
        began = time.perf_counter()
        ray.get([task.remote(run_ledger, caller, calls) for caller in range(callers)])
        return 2 * callers * calls / (time.perf_counter() - began)


def _call(run_ledger: ledger.RemoteLedger, caller: int, calls: int) -> None:
    for number in range(calls):
        ids = [f"{caller}-{number}-{k}" for k in range(4)]
        run_ledger.begin("sam", ids)
        run_ledger.end("sam", ids, 0.1)
    run_ledger.tally()


def show(record: dict[str, Any]) -> str:
    """The record as two tables."""
    actors = [
        [
            str(row["actors"]),
            f"{row['images_per_second']:.2f}",
            f"{row['efficiency']:.3f}",
            f"{row['overhead_ms_per_image']:.1f}",
        ]
        for row in record["actors"]
    ]
    rows = [
        [
            *(f"{row['rows']:,}", f"{row['rows_per_second']:.0f}", f"{row['seconds']:.0f}"),
            *(f"{row['rss_mib_peak']:.0f}", f"{row['manifest_bytes_per_row']:.1f}"),
        ]
        for row in record["rows"]
    ]
    return "\n\n".join(
        (
            table(["actors", "images/s", "efficiency", "overhead, ms an image"], actors),
            f"the ledger answers {record['ledger_calls_per_second']:.0f} calls per second",
            table(["rows", "rows/s", "seconds", "driver, MiB", "manifest, bytes per row"], rows),
        )
    )


def _numbers(ctx: click.Context, param: click.Parameter, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",") if part]
    except ValueError as error:
        raise click.BadParameter(f"{text} is no list of numbers such as 1,2,4", ctx, param) from error


@click.command("scaling", cls=Benchmark, help=__doc__)
@click.option("--actors", default="1,2,4,8,16", show_default=True, callback=_numbers)
@click.option("--latency", default=0.25, show_default=True, help="Seconds that SAM's stand-in sleeps.")
@click.option("--per-actor", default=120, show_default=True, type=click.IntRange(4), help="Images an actor.")
@click.option("--rows", default="100000,1000000", show_default=True, callback=_numbers)
@click.option("--out", default=None, type=Path, help="The JSON file; default: in benchmarks/results.")
def main(actors: list[int], latency: float, per_actor: int, rows: list[int], out: Path | None) -> None:
    """Measure, print, record."""
    record = circumstances([]) | {"latency": latency, "per_actor": per_actor, "actors": [], "rows": []}
    with tempfile.TemporaryDirectory() as folder:
        for count in actors:
            record["actors"].append(overhead(Path(folder) / f"actors-{count}", count, latency, per_actor))
            click.echo(f"{count} actors: efficiency {record['actors'][-1]['efficiency']:.3f}", err=True)
        record["ledger_calls_per_second"] = ledger_rate(callers=4, calls=1000)
        for count in rows:
            record["rows"].append(many_rows(Path(folder) / f"rows-{count}", count))
            click.echo(f"{count} rows: {record['rows'][-1]['rows_per_second']:.0f} a second", err=True)
    click.echo(show(record))
    click.echo(f"\n{write_result(out, record)}")


if __name__ == "__main__":
    main()

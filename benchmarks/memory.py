"""Whether the driver's memory grows with the images: many tiny ones through `segray annotate`.

    python -m benchmarks.memory --images 2000

Samples the resident memory (RSS) of the command's own process, workers not included, while it runs; `ratio`
is the greatest once all rows are written over that when a tenth of them was.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pyarrow.parquet as pq

from benchmarks.common import MIB, ROOT, Benchmark, circumstances, draw_images, fresh, table, write_result

EARLY = 0.1


@dataclass(frozen=True)
class Sample:
    """Seconds since the start, RSS in bytes, rows in finished parts."""

    seconds: float
    rss: int
    rows: int


class PartCounter:
    """Rows in the finished parts of a label set, each part's footer read once."""

    def __init__(self, out: Path) -> None:
        self._folder = out / "labels"
        self._rows: dict[str, int] = {}

    def rows(self) -> int:
        """How many there are now."""
        for path in self._folder.glob("part-*.parquet"):
            if path.name not in self._rows:
                self._rows[path.name] = pq.read_metadata(path).num_rows
        return sum(self._rows.values())


def rss_of(pid: int) -> int:
    """Resident bytes of a running process; 0 once it has ended.

    Raises:
        ValueError: the system has neither /proc nor `ps`.
    """
    status = Path(f"/proc/{pid}/status")
    if Path("/proc/self/status").exists():
        try:
            lines = status.read_text(encoding="ascii", errors="replace").splitlines()
        except OSError:
            return 0
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:")), 0)
    try:
        answer = subprocess.run(
            ["ps", "-o", "rss=", "-p", str(pid)], check=False, capture_output=True, text=True
        )
    except OSError as error:
        raise ValueError("cannot tell the memory of a process: no /proc and no ps") from error
    return int(answer.stdout.strip() or 0) * 1024


def watch(command: list[str], out: Path, interval: float) -> list[Sample]:
    """Run the command to its end and sample its memory.

    Raises:
        ValueError: it failed; with the end of what it said.
    """
    counter, samples = PartCounter(out), []
    with tempfile.TemporaryFile("w+") as output:
        began = time.monotonic()
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
        try:
            while process.poll() is None:
                samples.append(Sample(time.monotonic() - began, rss_of(process.pid), counter.rows()))
                time.sleep(interval)
        finally:
            process.terminate()
            process.wait()
        if process.returncode:
            output.seek(0)
            raise ValueError(
                f"annotate ended with status {process.returncode}: {output.read()[-2000:].strip()}"
            )
    return [sample for sample in samples if sample.rss]


def summary(samples: list[Sample], images: int) -> dict[str, Any]:
    """The memory early, at the end, and most; in MiB.

    Raises:
        ValueError: no sample lies between the last part and the command's end: the interval is too long.
    """
    early = next((s for s in samples if s.rows >= EARLY * images), None)
    late = [s for s in samples if s.rows >= images]
    if early is None or not late:
        raise ValueError("the command ended unseen after its last part; take a shorter --interval")
    end = max(s.rss for s in late)
    return {
        "ratio": end / early.rss,
        "rss_mib_at_10_percent": early.rss / MIB,
        "rss_mib_at_end": end / MIB,
        "rss_mib_peak": max(s.rss for s in samples) / MIB,
        "rows_at_10_percent": early.rows,
        "rows": late[-1].rows,
        "seconds": samples[-1].seconds,
        "curve": [[round(s.seconds, 1), s.rows, round(s.rss / MIB, 1)] for s in thin(samples, 100)],
    }


def thin(samples: list[Sample], most: int) -> list[Sample]:
    """Evenly chosen samples, the last one included."""
    step = -(-len(samples) // most)
    return samples[::-1][::step][::-1]


def show(record: dict[str, Any]) -> str:
    """The record as a table."""
    rows = [
        [f"{record['rows_at_10_percent']} rows written", f"{record['rss_mib_at_10_percent']:.1f}"],
        [f"{record['rows']} rows written, to the end", f"{record['rss_mib_at_end']:.1f}"],
        ["peak", f"{record['rss_mib_peak']:.1f}"],
        ["ratio, end to 10 %", f"{record['ratio']:.3f}"],
    ]
    return table(["driver", "RSS, MiB"], rows)


@click.command("memory", cls=Benchmark, help=__doc__)
@click.option("--images", default=2000, show_default=True, type=click.IntRange(1))
@click.option("--size", default=64, show_default=True, type=click.IntRange(32), help="Side in pixels.")
@click.option("--points-per-side", default=2, show_default=True, type=click.IntRange(1))
@click.option("--seed", default=11, show_default=True, callback=fresh, type=int)
@click.option("--interval", default=0.1, show_default=True, help="Seconds between samples.")
@click.option(
    "--out", default=None, type=Path, help="The JSON file; default: benchmarks/results/memory.json."
)
def main(images: int, size: int, points_per_side: int, seed: int, interval: float, out: Path | None) -> None:
    """Measure, print, record."""
    record = circumstances([seed])
    with tempfile.TemporaryDirectory() as folder:
        source, labels = Path(folder) / "images", Path(folder) / "labels"
        draw_images(source, images, seed, size)
        overrides = [f"images={source}", f"out={labels}", f"sam.points_per_side={points_per_side}"]
        overrides.append("classes=picture_book")
        samples = watch(
            [sys.executable, "-m", "segray.pipelines.cli", "annotate", *overrides], labels, interval
        )
    record |= {"images": images, "size": size, "points_per_side": points_per_side, "interval": interval}
    record |= summary(samples, images)
    click.echo(f"\n{images} images of {size} px, {record['seconds']:.0f} s\n")
    click.echo(show(record))
    click.echo(f"\n{write_result(out, record)}")


if __name__ == "__main__":
    main()

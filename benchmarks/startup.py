"""Start-up: `segray annotate`, `predict` and `train` of a few images against plain scripts that do the same.

    python -m benchmarks.startup --images 1 --images 16

Each command is a process of its own, from nothing. `wall` is seconds to its end, `first` to the first label
on disk, `cpu` the CPU seconds of all processes that it starts, Ray's included (`benchmarks.processes`). The
plain script of annotate loads the same models and labels the same images with the published mask generator
(`benchmarks.plain`), that of predict loads the network and writes masks. `train` takes one step on two
images, validates one, and writes a checkpoint; so does its plain script (`benchmarks.plain_train`). Rounds
alternate; the median counts. The ratios are of wall and of CPU, segray over the plain script; 2.5 at most is
the aim for one image, and for train.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median
from typing import TypedDict

import click

from benchmarks.common import Benchmark, circumstances, draw_images, fresh, table, write_result
from benchmarks.processes import Usage, run
from segray.pipelines.commands import picture_book
from segray.pipelines.config.commands.picture_book import PictureBookConfig

AIM = 2.5
_SEGRAY = (sys.executable, "-m", "segray.pipelines.cli")
_PREDICT = (
    "import sys; from pathlib import Path; import numpy as np; from PIL import Image\n"
    "from segray.pipelines.training.trained import load_network, predict_label\n"
    "network, _ = load_network(sys.argv[1]); out = Path(sys.argv[3]); out.mkdir()\n"
    "for path in sorted(Path(sys.argv[2]).iterdir()):\n"
    "    label = predict_label(network, np.array(Image.open(path).convert('RGB')))\n"
    "    Image.fromarray(label).save(out / path.name)\n"
)
_ONE_STEP = (
    "data.kind=picture_book",
    "data.labelled=2",
    "method=supervised",
    "network.name=builtin",
    "augment.crop=128",
    "train.batch=2",
    "train.epochs=1",
    "train.optimiser=adamw",
    "train.lr=0.0005",
    "train.loaders=0",
    "trackers=",
)

Figures = dict[str, float | int | None]


class Record(TypedDict):
    """A command and its plain script: medians and rounds by name, and the ratios of wall and CPU."""

    images: int
    ways: dict[str, Figures]
    rounds: dict[str, list[dict[str, float | int | None]]]
    ratios: dict[str, float]


def annotate(images: Path, work: Path, overrides: Sequence[str]) -> dict[str, Usage]:
    """One run of each way over a folder of images."""
    plain, out = work / "plain", work / "labels"
    script = [sys.executable, "-m", "benchmarks.plain", str(images), str(plain), *overrides]
    command = [*_SEGRAY, "annotate", f"images={images}", f"out={out}", *overrides]
    return {
        "plain script": run(script, lambda: any(plain.glob("*.png"))),
        "segray annotate": run(command, lambda: any(out.glob("labels/part-*.parquet"))),
    }


def predict(images: Path, work: Path, checkpoint: Path) -> dict[str, Usage]:
    """The same of prediction."""
    plain, out = work / "plain", work / "masks"
    script = [sys.executable, "-c", _PREDICT, str(checkpoint), str(images), str(plain)]
    command = [*_SEGRAY, "predict", f"checkpoint={checkpoint}", f"images={images}", f"out={out}"]
    return {
        "plain predict": run(script, lambda: any(plain.glob("*.png"))),
        "segray predict": run([*command, "overlays=false"], lambda: any(out.glob("masks/*.png"))),
    }


def train(book: Path, work: Path) -> dict[str, Usage]:
    """The same of a training run of one step."""
    plain, out = work / "plain", work / "run"
    script = [sys.executable, "-m", "benchmarks.plain_train", str(book), str(plain)]
    command = [*_SEGRAY, "train", f"out={out}", f"data.root={book}", *_ONE_STEP]
    return {
        "plain train": run(script, lambda: any(plain.glob("*.pt"))),
        "segray train": run(command, lambda: any(out.glob("checkpoints/*/state.json"))),
    }


def untrained(folder: Path) -> Path:
    """The checkpoint of an untrained network of the built-in architecture."""
    import torch

    from segray.models.segmenters.registry import build_segmenter
    from segray.pipelines.training.checkpoints import save_checkpoint

    network = build_segmenter("builtin", 10, pretrained=False)
    classes = ["background", *(f"class {number}" for number in range(1, 10))]
    state = {"step": 1, "total": 1, "history": [], "classes": classes, "network": "builtin", "window": None}
    folder.mkdir()
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    save_checkpoint(folder, network, None, optimiser, {**state, "config": {}})
    return folder


def middle(rounds: Sequence[Usage]) -> Figures:
    """The median of each figure."""
    firsts = [usage.first for usage in rounds if usage.first is not None]
    return {
        "wall": median(usage.wall for usage in rounds),
        "first": median(firsts) if firsts else None,
        "cpu": median(usage.cpu for usage in rounds),
        "processes": max(usage.processes for usage in rounds),
    }


def measure(once: Callable[[Path], dict[str, Usage]], work: Path, images: int, rounds: int) -> Record:
    """All rounds of a command and its plain script: medians, rounds and ratios.

    Args:
        once: runs both, the plain script first, in a folder of their own.
        work: a folder for theirs.
        images: how many they take.
        rounds: how often.
    """
    usages: dict[str, list[Usage]] = {}
    for number in range(rounds):
        folder = work / str(number)
        folder.mkdir(parents=True)
        for name, usage in once(folder).items():
            usages.setdefault(name, []).append(usage)
            click.echo(f"{name:<16}{usage.wall:6.1f} s  {usage.cpu:6.1f} CPU s", err=True)
    medians = {name: middle(values) for name, values in usages.items()}
    plain, ours = medians.values()
    return {
        "images": images,
        "ways": medians,
        "rounds": {name: [asdict(usage) for usage in values] for name, values in usages.items()},
        "ratios": _ratios(ours, plain),
    }


def _ratios(ours: Figures, plain: Figures) -> dict[str, float]:
    return {name: (ours[name] or 0.0) / (plain[name] or 1.0) for name in ("wall", "cpu")}


def show(records: Sequence[Record]) -> str:
    """All measurements as a table."""
    rows = [
        [
            name,
            str(record["images"]),
            *("-" if way[key] is None else f"{way[key]:.1f}" for key in ("first", "wall", "cpu")),
            str(way["processes"]),
            *(f"{record['ratios'][key]:.2f}" if name.startswith("segray") else "" for key in ("wall", "cpu")),
        ]
        for record in records
        for name, way in record["ways"].items()
    ]
    head = ["", "images", "first, s", "wall, s", "CPU, s", "processes", "of wall", "of CPU"]
    return table(head, rows)


@click.command("startup", cls=Benchmark, help=__doc__)
@click.option("--images", default=(1, 16), show_default=True, multiple=True, type=click.IntRange(1))
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1))
@click.option("--size", default=192, show_default=True, type=click.IntRange(32), help="Side in pixels.")
@click.option("--seed", default=11, show_default=True, callback=fresh, type=int)
@click.option("--out", type=click.Path(path_type=Path), help="JSON file.")
@click.argument("overrides", nargs=-1)
def main(
    images: tuple[int, ...], rounds: int, size: int, seed: int, out: Path | None, overrides: tuple[str, ...]
) -> None:
    """Measure, print, record."""
    models = ("classes=picture_book", *overrides)
    runs: list[Record] = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        checkpoint = untrained(work / "checkpoint")
        for count in images:
            source = work / f"images-{count}"
            draw_images(source, count, seed, size)
            for name, once in (
                ("annotate", partial(annotate, source, overrides=models)),
                ("predict", partial(predict, source, checkpoint=checkpoint)),
            ):
                runs.append(measure(once, work / f"{name}-{count}", count, rounds))
        picture_book.run(PictureBookConfig(out=str(work / "book"), n=3, val=1 / 3, size=size, seed=seed))
        runs.append(measure(partial(train, work / "book"), work / "train", 2, rounds))
    click.echo(f"\n{show(runs)}\n")
    click.echo(f"{write_result(out, circumstances([seed]) | {'aim': AIM, 'size': size, 'runs': runs})}")


if __name__ == "__main__":
    main()

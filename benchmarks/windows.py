"""Images whole, or in windows of the training's crop: mIoU of the same networks on the held-out images.

    python -m benchmarks.windows --work DIR --labels 8 --seeds 0 1 2

The networks are those of the finished runs of `benchmarks.methods` in --work, each as its last epoch left it;
the images are the same for all.
"""

from __future__ import annotations

import re
from pathlib import Path

import click
import torch

from benchmarks.common import Benchmark, circumstances, spread_of, table, write_result
from segray.models.segmenters.inference import Window, window_of
from segray.pipelines.commands.demo import RECIPE
from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.config.loading import load
from segray.pipelines.training.data.datasets import LabelledImages
from segray.pipelines.training.data.training_data import open_data
from segray.pipelines.training.session import LocalSession, newest_first
from segray.pipelines.training.trained import load_network
from segray.pipelines.training.validate import validate


def finished(work: Path, labels: int, seeds: tuple[int, ...]) -> dict[str, list[Path]]:
    """The folders of the finished runs, by method, in the order of the seeds.

    Raises:
        ValueError: there is none, or a method has a seed twice or not at all.
    """
    found: dict[str, dict[int, Path]] = {}
    for history in sorted(work.glob("runs/*/history.json")):
        name = re.fullmatch(rf"(\w+)-{labels}-(\d+)-[0-9a-f]{{8}}", history.parent.name)
        if name is None or int(name[2]) not in seeds:
            continue
        runs = found.setdefault(name[1], {})
        if int(name[2]) in runs:
            raise ValueError(f"{work}: {name[1]} has two runs of seed {name[2]}")
        runs[int(name[2])] = history.parent
    for method, runs in found.items():
        if missing := sorted(set(seeds) - set(runs)):
            raise ValueError(f"{work}: {method} has no finished run of seed {missing[0]}")
    if not found:
        raise ValueError(f"{work}: no finished run of `benchmarks.methods` with {labels} labels")
    return {method: [runs[seed] for seed in seeds] for method, runs in found.items()}


def miou(run: Path, images: LabelledImages, classes: int, window: Window) -> float:
    """The mIoU of a run's last network."""
    network, _ = load_network(newest_first(str(run))[0])
    metrics = validate(
        network, images, None, classes=classes, tau=1.0, window=window, session=LocalSession(str(run))
    )
    return metrics["miou"] or 0.0


@click.command(cls=Benchmark, name="windows", help=__doc__)
@click.option("--work", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--labels", default=8, show_default=True, help="Labelled images of the runs.")
@click.option("--seeds", multiple=True, default=(0, 1, 2), type=int)
@click.option("--out", type=click.Path(path_type=Path), help="JSON file.")
def main(work: Path, labels: int, seeds: tuple[int, ...], out: Path | None) -> None:
    """Predict all and print the table."""
    torch.set_num_threads(1)
    runs = finished(work, labels, seeds)
    config = load(
        TrainConfig, None, [*RECIPE, "method=supervised", "out=x", f"data.root={work / 'picture-book'}"]
    )
    data = open_data(config.data, config.seed)
    images, count = LabelledImages(data.validation), len(data.space.classes)
    crop = config.augment.crop
    ways = {"whole": window_of(0, crop), "windows": window_of(crop, crop)}
    results = {
        method: {name: spread_of([miou(run, images, count, way) for run in of]) for name, way in ways.items()}
        for method, of in runs.items()
    }
    rows = [
        [method, *(f"{100 * by[way]['mean']:.1f} +- {100 * (by[way]['sd'] or 0):.1f}" for way in ways)]
        for method, by in results.items()
    ]
    click.echo(table(["mIoU, %", *ways], rows))
    record = {**circumstances(seeds), "labels": labels, "crop": crop, "miou": results}
    click.echo(f"wrote {write_result(out, record)}")


if __name__ == "__main__":
    main()

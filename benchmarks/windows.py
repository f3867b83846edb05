"""Images whole, or in windows of the training's crop: mIoU of the same networks on the held-out images.

    python -m benchmarks.windows --work DIR --methods supervised,segray --labels 8 --seeds 0 1 2

The networks are those of the finished runs of `benchmarks.methods` in --work, each as its last epoch left it;
the images are the same for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
import torch

from benchmarks.common import Benchmark, circumstances, spread_of, table, write_result
from segray.pipelines.commands.demo import RECIPE
from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.config.loading import load
from segray.pipelines.training.data.datasets import LabelledImages
from segray.pipelines.training.data.training_data import open_data
from segray.pipelines.training.session import LocalSession, newest_first
from segray.pipelines.training.trained import chosen_window, load_network
from segray.pipelines.training.validate import validate


def finished(work: Path, method: str, labels: int, seeds: Sequence[int]) -> list[Path]:
    """The folders of a method's finished runs, in the order of the seeds.

    Raises:
        ValueError: a seed has none, or several, of different settings.
    """
    found = []
    for seed in seeds:
        runs = sorted(path.parent for path in work.glob(f"runs/{method}-{labels}-{seed}-*/history.json"))
        if len(runs) != 1:
            raise ValueError(f"{work}: {len(runs)} finished runs of {method}, seed {seed} (allowed: one)")
        found += runs
    return found


def miou(run: Path, images: LabelledImages, classes: int, *, whole: bool) -> float:
    """The mIoU of a run's last network, on whole images or as the run validated."""
    network, state = load_network(newest_first(str(run))[0])
    window = chosen_window(state, 0 if whole else None)
    metrics = validate(
        network, images, None, classes=classes, tau=1.0, window=window, session=LocalSession(str(run))
    )
    return metrics["miou"] or 0.0


@click.command(cls=Benchmark, name="windows", help=__doc__)
@click.option("--work", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--methods", required=True, help="Comma list.")
@click.option("--labels", default=8, show_default=True, help="Labelled images of the runs.")
@click.option("--seeds", multiple=True, default=(0, 1, 2), type=int)
@click.option("--out", type=click.Path(path_type=Path), help="JSON file.")
def main(work: Path, methods: str, labels: int, seeds: tuple[int, ...], out: Path | None) -> None:
    """Predict all and print the table."""
    torch.set_num_threads(1)
    runs = {method: finished(work, method, labels, seeds) for method in methods.split(",")}
    config = load(
        TrainConfig, None, [*RECIPE, "method=supervised", "out=x", f"data.root={work / 'picture-book'}"]
    )
    data = open_data(config.data, config.seed)
    images, count = LabelledImages(data.validation), len(data.space.classes)
    ways = {"whole": True, "windows": False}
    results = {
        method: {
            way: spread_of([miou(r, images, count, whole=whole) for r in of]) for way, whole in ways.items()
        }
        for method, of in runs.items()
    }
    rows = [
        [method, *(f"{100 * by[way]['mean']:.1f} +- {100 * (by[way]['sd'] or 0):.1f}" for way in ways)]
        for method, by in results.items()
    ]
    click.echo(table(["mIoU, %", *ways], rows))
    record = {**circumstances(seeds), "labels": labels, "miou": results}
    click.echo(f"wrote {write_result(out, record)}")


if __name__ == "__main__":
    main()

"""Methods compared with few labels: mIoU on held-out scenes, mean and deviation over seeds.

    python -m benchmarks.methods --work DIR --labels 8 --seeds 0 1 2

All methods share network, images, splits, augmentation and number of steps; a seed determines the labelled
images, the order and the augmentation. Zero-shot labels come from one run of `segray annotate` with the
built-in models. The mIoU is that of the last epoch: nothing is selected on the held-out scenes. OVERRIDES are
`key=value` of `segray train`, and `METHOD:key=value` for one method only. Finished runs in DIR are not
repeated.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click

from benchmarks.common import ROOT, Benchmark, circumstances, spread, spread_of, table, write_result
from segray.models.semi.methods import METHODS
from segray.pipelines.commands.demo import RECIPE
from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.config.loading import config_hash, identity, load
from segray.pipelines.training.history import HistoryEntry


class _Methods(Benchmark):
    """`--labels 8 32` is a list too."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See click."""
        return super().parse_args(ctx, spread(args, "--labels"))


def prepare(work: Path, scenes: int, seed: int) -> tuple[Path, Path]:
    """Draw the picture book and annotate it, unless that was done before: (data set, label set)."""
    book, labels = work / "picture-book", work / "labels"
    if not (book / "class_names.txt").exists():
        _segray("picture-book", f"out={book}", f"n={scenes}", f"seed={seed}")
    _segray("annotate", f"images={book}/images", "classes=picture_book", f"out={labels}")
    return book, labels


def _segray(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "segray.pipelines.cli", *arguments], check=True, cwd=ROOT)


def train_once(overrides: Sequence[str], folder: Path) -> list[HistoryEntry]:
    """The history of a training run in a separate process with one thread."""
    history = folder / "history.json"
    if not history.exists():
        folder.mkdir(parents=True, exist_ok=True)
        code = "from benchmarks.methods import train_here; import sys; train_here(sys.argv[1:])"
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with (folder / "log.txt").open("w") as log:
            command = [sys.executable, "-c", code, f"out={folder}", *overrides]
            subprocess.run(command, check=True, cwd=ROOT, stdout=log, stderr=log, env=environment)
    return json.loads(history.read_text())


def train_here(overrides: Sequence[str]) -> None:
    """Train in this process, without Ray, and write history.json."""
    import logging

    from segray.pipelines.training.calibrated import calibrate_labels
    from segray.pipelines.training.data.training_data import open_data
    from segray.pipelines.training.loop import Trainer
    from segray.pipelines.training.session import LocalSession

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = load(TrainConfig, None, overrides)
    folder = Path(config.out)
    data = open_data(config.data, config.seed)
    if config.data.calibrate:
        calibrate_labels(config, data)
    trainer = Trainer(config, data, LocalSession(str(folder)), None)
    history = trainer.run()
    temporary = folder / "history.tmp"
    temporary.write_text(json.dumps(history))
    temporary.replace(folder / "history.json")


def runs(
    methods: Sequence[str], labels: Sequence[int], seeds: Sequence[int], overrides: Sequence[str]
) -> Iterator[tuple[str, int, int, list[str]]]:
    """(method, labelled images, seed, overrides) of each run."""
    for count in labels:
        for seed in seeds:
            for method in methods:
                shared = [text for text in overrides if ":" not in text.partition("=")[0]]
                special = [text.partition(":")[2] for text in overrides if text.startswith(f"{method}:")]
                yield (
                    method,
                    count,
                    seed,
                    [f"method={method}", f"data.labelled={count}", f"seed={seed}", *shared, *special],
                )


@click.command(cls=_Methods, name="methods", help=__doc__)
@click.option("--work", required=True, type=click.Path(path_type=Path), help="Folder for data and runs.")
@click.option("--scenes", default=360, show_default=True, help="Scenes; a fifth of them is held out.")
@click.option("--book-seed", default=0, show_default=True, help="Seed of the scenes.")
@click.option("--methods", "names", default=",".join(METHODS), show_default=True, help="Comma list.")
@click.option("--labels", multiple=True, default=(8,), type=int, help="Labelled images.")
@click.option("--seeds", multiple=True, default=(0, 1, 2), type=int)
@click.option("--epochs", default=12, show_default=True, help="Passes over the unlabelled images.")
@click.option("--jobs", default=1, show_default=True, help="Parallel runs, with one thread each.")
@click.option("--out", type=click.Path(path_type=Path), help="JSON file.")
@click.argument("overrides", nargs=-1)
def main(
    work: Path,
    scenes: int,
    book_seed: int,
    names: str,
    labels: tuple[int, ...],
    seeds: tuple[int, ...],
    epochs: int,
    jobs: int,
    out: Path | None,
    overrides: tuple[str, ...],
) -> None:
    """Run all and print the table."""
    book, label_set = prepare(work.resolve(), scenes, book_seed)
    shared = [*RECIPE, "trackers=", f"data.root={book}", f"data.labels={label_set}", f"train.epochs={epochs}"]
    shared += [f"train.validate_every={max(1, epochs // 4)}", *overrides]
    methods = names.split(",")
    pending = list(runs(methods, labels, seeds, shared))
    with ThreadPoolExecutor(jobs) as pool:
        histories = list(pool.map(lambda run: train_once(run[3], _folder(work.resolve(), run)), pending))
    results: dict[str, dict[str, list[float]]] = {m: {str(n): [] for n in labels} for m in methods}
    zero_shot = histories[0][-1].get("zero_shot_miou") or 0.0
    for (method, count, _, _), history in zip(pending, histories, strict=True):
        results[method][str(count)].append(history[-1]["miou"] or 0.0)
    show(results, zero_shot, labels)
    config = load(TrainConfig, None, ["out=x", *pending[0][3]])
    record = {
        **circumstances(seeds),
        "scenes": scenes,
        "zero_shot_miou": zero_shot,
        "recipe": {k: v for k, v in identity(config).items() if not k.startswith("data.")},
        "overrides": list(overrides),
        "steps": histories[0][-1]["step"],
        "miou": {m: {n: spread_of(v) for n, v in by.items()} for m, by in results.items()},
    }
    click.echo(f"wrote {write_result(out, record)}")


def _folder(work: Path, run: tuple[str, int, int, list[str]]) -> Path:
    method, count, seed, overrides = run
    config = load(TrainConfig, None, ["out=x", *overrides])
    return work / "runs" / f"{method}-{count}-{seed}-{config_hash(config)[:8]}"


def show(results: dict[str, dict[str, list[float]]], zero_shot: float, labels: Sequence[int]) -> None:
    """Print mean and standard deviation of each method for each number of labels."""
    rows = [["zero-shot labels", *[f"{zero_shot:.1%}" for _ in labels]]]
    for method, by_count in results.items():
        cells = [spread_of(by_count[str(n)]) for n in labels]
        rows.append([method, *[f"{c['mean']:.1%} +- {c['sd'] or 0:.1%}" for c in cells]])
    click.echo(table(["mIoU", *[f"{n} labels" for n in labels]], rows))


if __name__ == "__main__":
    main()

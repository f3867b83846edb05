"""Methods compared with few labels: mIoU on held-out images, mean and deviation over seeds.

    python -m benchmarks.methods --work DIR --labels 8 --seeds 0 1 2
    python -m benchmarks.methods --work DIR --data FOLDER [--label-set DIR] --labels 8 --seeds 0 1 2

All methods share network, images, splits, augmentation and number of steps; a seed determines the labelled
images, the order and the augmentation. Without --data they learn the picture book, and zero-shot labels come
from one run of `segray annotate` with the built-in models; with it, a folder of photographs and masks. The
mIoU is that of the last epoch, and with --choose-seeds also that of the epoch that the mean over other runs
chose: their seeds differ, and a fifth of the training masks takes the place of the held-out images, which
choose nothing. With --annotate the labelled images of each run teach its own label set (`calibrate.masks`).
OVERRIDES are `key=value` of `segray train`, and `METHOD:key=value` for one method only.
Finished runs in --work are not repeated: several of these programs may share it, each with runs of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean
from typing import Any

import click

from benchmarks.common import ROOT, Benchmark, circumstances, spread, spread_of, table, write_result
from segray.models.semi.methods import METHODS
from segray.pipelines.commands.demo import RECIPE
from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.config.loading import config_hash, identity, load
from segray.pipelines.label_set.store import LabelStore
from segray.pipelines.training.data.splits import write_split
from segray.pipelines.training.data.training_data import open_data
from segray.pipelines.training.history import HistoryEntry

PHOTOGRAPHS = (
    "data.kind=folder",
    "network.name=efficientnet_lite0",
    "pseudo.ema=0.99",
    "augment.crop=224",
    "train.batch=4",
    "train.optimiser=adamw",
    "train.lr=0.0002",
    "train.weight_decay=0.01",
)
"""Training of a folder of photographs that takes minutes on a CPU."""
_CHOICE = "1/5"
"""Share of the training masks on which a number of epochs is chosen."""

Run = tuple[str, int, int, list[str]]
"""Method, labelled images, seed, overrides."""
Table = dict[str, dict[str, list[float]]]
"""By method and number of labels, the mIoU of each seed."""


class _Methods(Benchmark):
    """`--labels 8 32` and `--choose-seeds 10 11` are lists too."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See click."""
        return super().parse_args(ctx, spread(spread(args, "--labels"), "--choose-seeds"))


def prepare(work: Path, scenes: int, seed: int) -> tuple[Path, Path]:
    """Draw the picture book and annotate it, unless that was done before: (data set, label set)."""
    book, labels = draw(work, scenes, seed), work / "labels"
    if LabelStore(str(labels)).run() is None:
        _segray("annotate", f"images={book}/images", "classes=picture_book", f"out={labels}")
    return book, labels


def draw(work: Path, scenes: int, seed: int) -> Path:
    """Draw the picture book, unless that was done before."""
    book = work / "picture-book"
    if not (book / "class_names.txt").exists():
        _segray("picture-book", f"out={book}", f"n={scenes}", f"seed={seed}")
    return book


def taught_labels(work: Path, run: Run, overrides: Sequence[str]) -> Path:
    """The label set that the labelled images of a run teach, made unless that was done before.

    Args:
        work: folder of the picture book and of the label sets.
        run: its split and seed count.
        overrides: of `segray annotate`.
    """
    _, count, seed, of_run = run
    data = load(TrainConfig, None, ["out=x", *of_run]).data
    words = [*overrides, *(text for text in of_run if text.startswith("data."))]
    features = hashlib.sha256(" ".join(words).encode()).hexdigest()[:8]
    labels = work / "taught" / f"{count}-{seed}-{features}"
    if LabelStore(str(labels)).run() is None:
        split = labels.with_suffix(".txt")
        split.parent.mkdir(parents=True, exist_ok=True)
        write_split(str(split), open_data(data, seed).labelled)
        book = work / "picture-book"
        masks = [f"calibrate.masks={book}/masks", f"calibrate.split={split}"]
        _segray(
            "annotate", f"images={book}/images", "classes=picture_book", f"out={labels}", *masks, *overrides
        )
    return labels


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
) -> Iterator[Run]:
    """All runs."""
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


def usable(names: str | None, label_set: Path | None, data: Path | None) -> list[str]:
    """The methods of a comma list; None: all that the data allows.

    Raises:
        click.UsageError: an unknown one, or one that needs zero-shot labels of a folder without any.
    """
    without = [name for name, method in METHODS.items() if method.pseudo != "enhanced"]
    allowed = without if data is not None and label_set is None else list(METHODS)
    chosen = allowed if names is None else names.split(",")
    for name in chosen:
        if name not in METHODS:
            raise click.UsageError(f"--methods: {name!r} is none of {', '.join(METHODS)}")
        if name not in allowed:
            raise click.UsageError(f"--methods: {name} needs --label-set (without: {', '.join(without)})")
    return chosen


def chosen_epochs(histories: Sequence[tuple[Run, list[HistoryEntry]]]) -> dict[tuple[str, int], int]:
    """For each method and number of labels the index of the validation with the best mean mIoU."""
    by_run: dict[tuple[str, int], list[list[float]]] = {}
    for (method, count, _, _), history in histories:
        by_run.setdefault((method, count), []).append([entry["miou"] or 0.0 for entry in history])
    sums = {key: [sum(at) for at in zip(*curves, strict=True)] for key, curves in by_run.items()}
    return {key: of_key.index(max(of_key)) for key, of_key in sums.items()}


def gathered(
    histories: Sequence[tuple[Run, list[HistoryEntry]]], chosen: dict[tuple[str, int], int]
) -> Table:
    """The mIoU of each seed at the chosen validation, or at the last one."""
    results: Table = {}
    for (method, count, _, _), history in histories:
        entry = history[chosen.get((method, count), -1)]
        results.setdefault(method, {}).setdefault(str(count), []).append(entry["miou"] or 0.0)
    return results


@click.command(cls=_Methods, name="methods", help=__doc__)
@click.option("--work", required=True, type=click.Path(path_type=Path), help="Folder for data and runs.")
@click.option(
    "--data", type=click.Path(exists=True, path_type=Path), help="Images and masks, as `data.root`."
)
@click.option("--label-set", type=click.Path(exists=True, path_type=Path), help="Zero-shot labels of --data.")
@click.option("--scenes", default=360, show_default=True, help="Scenes; a fifth of them is held out.")
@click.option("--book-seed", default=0, show_default=True, help="Seed of the scenes.")
@click.option("--methods", "names", help="Comma list; all that the data allows.")
@click.option("--labels", multiple=True, default=(8,), type=int, help="Labelled images.")
@click.option("--seeds", multiple=True, default=(0, 1, 2), type=int)
@click.option("--choose-seeds", multiple=True, type=int, help="Seeds of the runs that choose the epoch.")
@click.option("--epochs", default=12, show_default=True, help="Passes over the unlabelled images.")
@click.option("--jobs", default=1, show_default=True, help="Parallel runs, with one thread each.")
@click.option(
    "--annotate", help="Overrides of `segray annotate` for label sets that the masks of each run teach."
)
@click.option("--out", type=click.Path(path_type=Path), help="JSON file.")
@click.argument("overrides", nargs=-1)
def main(
    work: Path,
    data: Path | None,
    label_set: Path | None,
    scenes: int,
    book_seed: int,
    names: str | None,
    labels: tuple[int, ...],
    seeds: tuple[int, ...],
    choose_seeds: tuple[int, ...],
    epochs: int,
    jobs: int,
    annotate: str | None,
    out: Path | None,
    overrides: tuple[str, ...],
) -> None:
    """Run all and print the table."""
    if set(seeds) & set(choose_seeds):
        raise click.UsageError("--choose-seeds: other seeds than --seeds")
    if annotate is not None and data is not None:
        raise click.UsageError("--annotate: for the picture book, not with --data")
    methods, work = usable(names, label_set, data), work.resolve()
    recipe = PHOTOGRAPHS if data else RECIPE
    if annotate is not None:
        root, zero_shot = draw(work, scenes, book_seed), None
    else:
        root, zero_shot = (data.resolve(), label_set) if data else prepare(work, scenes, book_seed)
    shared = [*recipe, "trackers=", f"data.root={root}", f"train.epochs={epochs}"]
    shared += [f"data.labels={zero_shot.resolve()}"] if zero_shot else []
    shared += [f"train.validate_every={max(1, epochs // (12 if choose_seeds else 4))}", *overrides]
    pending = list(runs(methods, labels, seeds, shared))
    choosing = list(runs(methods, labels, choose_seeds, [*shared, f"data.validation={_CHOICE}"]))
    if annotate is not None:
        pending, choosing = (
            [(*run[:3], [*run[3], f"data.labels={taught_labels(work, run, annotate.split())}"]) for run in of]
            for of in (pending, choosing)
        )
    histories = _train(pending, work, jobs)
    chosen = chosen_epochs(_train(choosing, work, jobs))
    tables = {"last epoch": gathered(histories, {})}
    if chosen:
        tables["chosen epoch"] = gathered(histories, chosen)
    by_run = [history[-1].get("zero_shot_miou") for _, history in histories]
    of_labels = mean(known) if (known := [value for value in by_run if value is not None]) else None
    for name, results in tables.items():
        show(name, results, of_labels, labels)
    (first, history), *_ = histories
    record = {
        **circumstances(seeds),
        "choose_seeds": list(choose_seeds),
        "scenes": None if data else scenes,
        "zero_shot_miou": of_labels,
        "recipe": {k: v for k, v in identity(_config(first)).items() if not k.startswith("data.")},
        "annotate": annotate,
        "zero_shot_miou_by_run": by_run if annotate else None,
        "overrides": list(overrides),
        "steps": history[-1]["step"],
        "chosen_steps": {f"{m}-{n}": history[at]["step"] for (m, n), at in chosen.items()},
        "miou": _spreads(tables["last epoch"]),
        "miou_chosen": _spreads(tables.get("chosen epoch", {})),
    }
    click.echo(f"wrote {write_result(out, record)}")


def _train(pending: list[Run], work: Path, jobs: int) -> list[tuple[Run, list[HistoryEntry]]]:
    with ThreadPoolExecutor(jobs) as pool:
        histories = list(pool.map(lambda run: train_once(run[3], _folder(work, run)), pending))
    return list(zip(pending, histories, strict=True))


def _spreads(results: Table) -> dict[str, dict[str, dict[str, Any]]]:
    return {m: {n: spread_of(v) for n, v in by.items()} for m, by in results.items()}


def _config(run: Run) -> TrainConfig:
    return load(TrainConfig, None, ["out=x", *run[3]])


def _folder(work: Path, run: Run) -> Path:
    method, count, seed, _ = run
    return work / "runs" / f"{method}-{count}-{seed}-{config_hash(_config(run))[:8]}"


def show(name: str, results: Table, zero_shot: float | None, labels: Sequence[int]) -> None:
    """Print mean and standard deviation of each method for each number of labels."""
    rows = [["zero-shot labels", *[f"{zero_shot:.1%}" for _ in labels]]] if zero_shot else []
    for method, by_count in results.items():
        cells = [spread_of(by_count[str(n)]) for n in labels]
        rows.append([method, *[f"{c['mean']:.1%} +- {c['sd'] or 0:.1%}" for c in cells]])
    click.echo(table([f"mIoU, {name}", *[f"{n} labels" for n in labels]], rows))


if __name__ == "__main__":
    main()

"""Start-up: `segray annotate` and `segray predict` of a few images against plain scripts that do the same.

    python -m benchmarks.startup --images 1 --images 16

Each command is a process of its own, from nothing. `wall` is seconds to its end, `first` to the first label
on disk, `cpu` the CPU seconds of all processes that it starts, Ray's included (`benchmarks.processes`). The
plain script of annotate loads the same models and labels the same images with the published mask generator
(`benchmarks.plain`), that of predict loads the network and writes masks. Rounds alternate; the median counts.
The ratios are of wall and of CPU, segray over the plain script; 2.5 at most is the aim for one image.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median

import click

from benchmarks.common import Benchmark, circumstances, draw_images, fresh, table, write_result
from benchmarks.processes import Usage, run

AIM = 2.5
_SEGRAY = (sys.executable, "-m", "segray.pipelines.cli")
_PREDICT = (
    "import sys; from pathlib import Path; import numpy as np; from PIL import Image\n"
    "from segray.pipelines.training.trained import load_network, predict_label\n"
    "network, _ = load_network(sys.argv[1]); out = Path(sys.argv[3]); out.mkdir()\n"
    "for path in sorted(Path(sys.argv[2]).iterdir()):\n"
    "    label = predict_label(network, np.array(Image.open(path).convert('RGB')), None)\n"
    "    Image.fromarray(label).save(out / path.name)\n"
)


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


def middle(rounds: Sequence[Usage]) -> dict[str, float | int | None]:
    """The median of each figure."""
    firsts = [usage.first for usage in rounds if usage.first is not None]
    return {
        "wall": median(usage.wall for usage in rounds),
        "first": median(firsts) if firsts else None,
        "cpu": median(usage.cpu for usage in rounds),
        "processes": max(usage.processes for usage in rounds),
    }


def measure(
    images: Path, work: Path, checkpoint: Path, overrides: Sequence[str], rounds: int
) -> dict[str, object]:
    """All ways over one folder of images: medians, rounds and ratios."""
    usages: dict[str, list[Usage]] = {}
    for number in range(rounds):
        folder = work / str(number)
        folder.mkdir(parents=True)
        ways = annotate(images, folder, overrides)
        shutil.rmtree(folder / "plain")
        ways |= predict(images, folder, checkpoint)
        for name, usage in ways.items():
            usages.setdefault(name, []).append(usage)
            click.echo(f"{name:<16}{usage.wall:6.1f} s  {usage.cpu:6.1f} CPU s", err=True)
    medians = {name: middle(values) for name, values in usages.items()}
    return {
        "images": len(list(images.iterdir())),
        "ways": medians,
        "rounds": {name: [asdict(usage) for usage in values] for name, values in usages.items()},
        "ratios": {
            "annotate": _ratios(medians["segray annotate"], medians["plain script"]),
            "predict": _ratios(medians["segray predict"], medians["plain predict"]),
        },
    }


def _ratios(ours: dict[str, float | int | None], plain: dict[str, float | int | None]) -> dict[str, float]:
    return {name: (ours[name] or 0.0) / (plain[name] or 1.0) for name in ("wall", "cpu")}


def show(record: dict[str, object]) -> str:
    """A measurement as a table."""
    ways, ratios = record["ways"], record["ratios"]
    assert isinstance(ways, dict)
    assert isinstance(ratios, dict)
    rows = [
        [
            name,
            *("-" if way[key] is None else f"{way[key]:.1f}" for key in ("first", "wall", "cpu")),
            str(way["processes"]),
        ]
        for name, way in ways.items()
    ]
    lines = [f"{record['images']} images", table(["", "first, s", "wall, s", "CPU, s", "processes"], rows)]
    lines += [f"{name}: {r['wall']:.2f} of wall, {r['cpu']:.2f} of CPU" for name, r in ratios.items()]
    return "\n".join(lines)


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
    record = circumstances([seed]) | {"aim": AIM, "size": size, "runs": []}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        checkpoint = untrained(work / "checkpoint")
        for count in images:
            draw_images(work / f"images-{count}", count, seed, size)
            result = measure(work / f"images-{count}", work / f"{count}", checkpoint, models, rounds)
            record["runs"].append(result)
            click.echo(f"\n{show(result)}\n")
    click.echo(f"{write_result(out, record)}")


if __name__ == "__main__":
    main()

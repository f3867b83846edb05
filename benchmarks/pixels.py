"""Labels without SAM that a few masks teach: mIoU on fresh scenes, beside the labels as they were.

    python -m benchmarks.pixels --work DIR --scenes 100 --seeds 31 32 33 34 35

`segray annotate sam.model=none` labels `--scenes` scenes of each seed with the built-in CLIP, in this
process: as it is, with `clip.refine=10`, and with `calibrate.masks` of the first 8 or 32 scenes, which are
not scored.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image

from benchmarks.common import Benchmark, circumstances, fresh, spread_of, table, write_result
from segray.models.label_space import IGNORE_INDEX
from segray.models.metrics import Confusion, confusion_matrix, mean_iou
from segray.pipelines.annotation.in_process import Stages
from segray.pipelines.annotation.prepared import Prepared
from segray.pipelines.calibration.pixels import REFINE_STEPS
from segray.pipelines.commands.annotate import masked_images, prepare, space_of
from segray.pipelines.config.commands.annotate import AnnotateConfig
from segray.pipelines.config.loading import load
from segray.pipelines.io.label_png import decode_label_png
from segray.pipelines.io.sources import list_images
from segray.pipelines.scenes.picture_book import draw_scene

FEATURES = {"gem": "GEM", "clip": "CLIP's tokens"}
MASKS = (8, 32)
WAYS = ("plain", "refined", *(f"taught by {count}" for count in MASKS))


def draw(folder: Path, number: int, scenes: int, size: int) -> None:
    """Scenes, the masks of those that teach, for each of `MASKS`, and of those that are scored."""
    for index in range(max(MASKS) + scenes):
        scene = draw_scene(number, index, size)
        _save(folder / "images", index, scene.image)
        for count in (count for count in MASKS if index < count):
            _save(folder / f"masks-{count}", index, scene.mask)
        if index >= max(MASKS):
            _save(folder / "truth", index, scene.mask)


def _save(folder: Path, index: int, pixels: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / f"{index:06}.png")


def runs(folder: Path, features: str) -> Iterator[tuple[str, Prepared]]:
    """Each way of labelling, prepared."""

    def config_of(*words: str) -> AnnotateConfig:
        places = [f"images={folder / 'images'}", f"out={folder / 'labels'}", "classes=picture_book"]
        return load(AnnotateConfig, None, [*places, "sam.model=none", f"clip.features={features}", *words])

    plain = config_of()
    space = space_of(plain)
    yield "plain", prepare(plain, space, load=True)
    yield "refined", prepare(config_of(f"clip.refine={REFINE_STEPS}"), space, load=True)
    for count in MASKS:
        config = config_of(f"calibrate.masks={folder / f'masks-{count}'}")
        masked = masked_images(config, space)
        yield f"taught by {count}", prepare(config, space, load=True, masked=masked)


def score(prepared: Prepared, folder: Path) -> Confusion:
    """Pixels of the scenes by true class and label."""
    n_classes = len(prepared.space.classes)
    total = np.zeros((n_classes, n_classes), np.int64)
    listed, truths = list_images(prepared.config.images), folder / "truth"
    scored = [ref for ref in listed if (truths / ref.image_id).exists()]
    for row in Stages(prepared).label(scored):
        truth = np.array(Image.open(truths / row["image_id"]))
        total += confusion_matrix(
            truth, decode_label_png(bytes(row["label"]), truth.shape, IGNORE_INDEX), n_classes
        )
    return total


def summary(by_way: dict[str, list[float]]) -> dict[str, Any]:
    """Of each way its mIoU, and of each taught one its gain over both others, seed by seed."""
    gains = {
        f"{way} over {other}": [a - b for a, b in zip(by_way[way], by_way[other], strict=True)]
        for way in WAYS[2:]
        for other in WAYS[:2]
    }
    return {
        "miou": {way: spread_of(values) for way, values in by_way.items()},
        "gain": {name: {**spread_of(values), "worst": min(values)} for name, values in gains.items()},
    }


def show(rows: dict[str, Any]) -> str:
    """The record as a table."""

    def cell(spread: dict[str, Any]) -> str:
        return f"{100 * spread['mean']:.1f} +- {100 * (spread['sd'] or 0):.1f}"

    lines = []
    for features, row in rows.items():
        lines += [[f"{FEATURES[features]}, {way}", cell(of), ""] for way, of in row["miou"].items()]
        for name, gain in row["gain"].items():
            lines.append([f"  {name}", cell(gain), f"{100 * gain['worst']:.1f}"])
    return table(["mIoU", "mean", "worst"], lines)


@click.command("pixels", cls=Benchmark, help=__doc__)
@click.option("--work", required=True, type=click.Path(path_type=Path), help="Folder for the scenes.")
@click.option("--scenes", default=100, show_default=True, type=click.IntRange(1), help="Scored, per seed.")
@click.option("--seeds", default=(31, 32, 33), show_default=True, multiple=True, callback=fresh, type=int)
@click.option("--size", default=256, show_default=True, type=click.IntRange(32), help="Side in pixels.")
@click.option("--out", type=click.Path(path_type=Path), help="JSON file.")
def main(work: Path, scenes: int, seeds: tuple[int, ...], size: int, out: Path | None) -> None:
    """Measure, print, record."""
    found: dict[str, dict[str, list[float]]] = {name: {way: [] for way in WAYS} for name in FEATURES}
    for number in seeds:
        folder = work.resolve() / f"{number}-{scenes}-{size}"
        if len(list((folder / "truth").glob("*"))) < scenes:
            draw(folder, number, scenes, size)
        for features in FEATURES:
            for way, prepared in runs(folder, features):
                found[features][way].append(mean_iou(score(prepared, folder)))
                click.echo(f"seed {number}, {features}, {way}: {found[features][way][-1]:.1%}")
    rows = {features: summary(by_way) for features, by_way in found.items()}
    record = {**circumstances(seeds), "scenes": scenes, "size": size, "rows": rows}
    click.echo(show(rows))
    click.echo(f"wrote {write_result(out, record)}")


if __name__ == "__main__":
    main()

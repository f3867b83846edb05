"""Labels end to end: `segray annotate` against the plain way, same images, same weights.

    python -m benchmarks.end_to_end --images 24
    python -m benchmarks.end_to_end --model vit_b --images 8 --loop-images 2

The plain way is one process and a loop: PIL, `SamAutomaticMaskGenerator`, GEM, features upsampled to the
image's size and averaged under each mask (Eq. 1), names (Eq. 2), a PNG per label map. It runs with torch
on one core and on all, as many threads may be slower than one, and the faster run counts. segray is the whole
command on a Ray of its own, with its default workers. `ratio` is of images per second, set-up excluded: from
models loaded to the last file written; 5 is the aim, on a CPU. `same_pixels` is the share of the pixels with
the same label, 99.5 % the aim. `ratio_with_setup` is of whole processes: imports, loading, Ray.

`builtin` is the built-in models as they are. `vit_b` has the size of what users run, SAM ViT-B and CLIP
ViT-B-16 on images of 500 x 375. Drawn: both models' weights, and on both sides SAM's predicted IoU and
low-resolution logits, which replace those that the whole decoder has computed (`benchmarks.real_size`).
Everything else is real, from the image file to the label set. As an image takes the plain loop minutes, it
runs on all cores only, where it is the faster, and on as few as `--loop-images` says: a loop takes one
image after the other, so that the others would take as long. segray's workers fill and empty, which few
images measure more than work. `same_pixels` is of those that both have labelled.
"""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import click
import numpy as np
import torch
from PIL import Image

from benchmarks import real_size
from benchmarks.common import (
    RESULTS,
    Benchmark,
    available_cores,
    circumstances,
    draw_images,
    fresh,
    table,
    write_result,
)
from benchmarks.masks import DrawnOutputs
from benchmarks.plain import PlainWay
from benchmarks.throughput import clocked_ledger, in_fresh_process, on_cluster
from segray.models.label_map import LabelMap
from segray.pipelines.config.commands.annotate import AnnotateConfig
from segray.pipelines.config.loading import load
from segray.pipelines.io.label_png import decode_gray_png
from segray.pipelines.label_set.store import LabelStore

SEGRAY = "segray annotate"
_NAMES = {"builtin": "end_to_end.json", "vit_b": "end_to_end-vit-b.json"}


def plain_loop(
    config: AnnotateConfig, paths: Sequence[Path], out: Path, threads: int, drawn: int | None = None
) -> float:
    """A label PNG of each image in the new folder `out`; seconds, from the models loaded.

    Args:
        config: of the command, which the models and options are taken from.
        paths: of the images.
        out: the folder.
        threads: of torch.
        drawn: the seed of what replaces SAM's outputs; None: nothing does.
    """
    torch.set_num_threads(threads)
    way = PlainWay(config)
    out.mkdir()
    outputs = contextlib.nullcontext() if drawn is None else DrawnOutputs(drawn).instead_of(way.sam)
    began = time.perf_counter()
    with outputs:
        for path in paths:
            with Image.open(path) as image:
                pixels = np.array(image.convert("RGB"))
            Image.fromarray(way.label(pixels)).save(out / path.name)
    return time.perf_counter() - began


def command(config: AnnotateConfig, clock: Path, drawn: int | None = None) -> float:
    """`segray annotate`; seconds, from all workers loaded and SAM's first image to the last part written."""
    from segray.pipelines.commands import annotate
    from segray.pipelines.engine import ledger

    output = io.StringIO()
    outputs = contextlib.nullcontext() if drawn is None else real_size.drawn_outputs(drawn)
    clocked = mock.patch.object(ledger, "started", partial(clocked_ledger, clock))
    with (
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(output),
        clocked,
        outputs,
        on_cluster(),
    ):
        annotate.run(config)
    first, last = json.loads(clock.read_text(encoding="ascii"))
    return float(last - first)


def stored_labels(root: str) -> dict[str, LabelMap]:
    """The label maps of a label set by image_id."""
    rows = LabelStore(root).rows(["image_id", "label", "status"])
    return {row["image_id"]: decode_gray_png(row["label"]["bytes"]) for row in rows if row["status"] == "ok"}


def label_files(folder: Path, paths: Sequence[Path]) -> dict[str, LabelMap]:
    """The plain way's label maps by image_id."""
    return {path.name: decode_gray_png((folder / path.name).read_bytes()) for path in paths}


def same_pixels(labels: Mapping[str, LabelMap], truth: Mapping[str, LabelMap]) -> float:
    """Share of all pixels of `truth` with the same label; those of a missing image differ."""
    equal = sum(int((labels[name] == label).sum()) for name, label in truth.items() if name in labels)
    return equal / sum(label.size for label in truth.values())


def measure(
    paths: Sequence[Path],
    work: Path,
    overrides: Sequence[str] = (),
    *,
    loop_images: int | None = None,
    drawn: int | None = None,
    one_core: bool = True,
) -> dict[str, Any]:
    """Each way in a fresh process.

    Args:
        paths: of the images, all in one folder.
        work: a folder for what the ways write.
        overrides: of the configuration.
        loop_images: how many of them the plain loop labels; None: all.
        drawn: the seed of what replaces SAM's outputs; None: nothing does.
        one_core: run the plain loop on one core too.
    """
    places = [f"images={paths[0].parent}", f"out={work / 'labels'}"]
    config = load(AnnotateConfig, None, [*places, "classes=picture_book", *overrides])
    threads = {1, available_cores()} if one_core else {available_cores()}
    some = paths[:loop_images]
    folders = {n: work / f"plain-{n}" for n in sorted(threads)}
    todo: dict[str, Callable[[], float]] = {
        f"plain loop, threads: {n}": partial(plain_loop, config, some, f, n, drawn=drawn)
        for n, f in folders.items()
    }
    todo[SEGRAY] = partial(command, config, work / "clock.json", drawn)
    ways: dict[str, dict[str, float]] = {}
    for name, run in todo.items():
        began = time.perf_counter()
        seconds, images = in_fresh_process(run), len(paths if name == SEGRAY else some)
        setup = time.perf_counter() - began - seconds
        ways[name] = {
            "images": images,
            "seconds": seconds,
            "images_per_second": images / seconds,
            "images_per_second_with_setup": len(paths) / (seconds * len(paths) / images + setup),
        }
        click.echo(f"{name:<24}{images / seconds:.3f} images/s", err=True)
    labels = stored_labels(config.out)
    return {
        "ratio": _ratio(ways, "images_per_second"),
        "ratio_with_setup": _ratio(ways, "images_per_second_with_setup"),
        "same_pixels": min(same_pixels(labels, label_files(f, some)) for f in folders.values()),
        "label_ids": sorted({int(k) for label in labels.values() for k in np.unique(label)}),
        "ways": ways,
    }


def _ratio(ways: Mapping[str, Mapping[str, float]], which: str) -> float:
    return ways[SEGRAY][which] / max(way[which] for name, way in ways.items() if name != SEGRAY)


@click.command("end_to_end", cls=Benchmark, help=__doc__)
@click.option("--model", default="builtin", show_default=True, type=click.Choice(list(_NAMES)))
@click.option("--images", default=24, show_default=True, type=click.IntRange(1))
@click.option(
    "--loop-images", type=click.IntRange(1), help="How many of them the plain loop labels; default: all."
)
@click.option(
    "--size",
    default=256,
    show_default=True,
    type=click.IntRange(32),
    help="Side of builtin's images in pixels.",
)
@click.option("--seed", default=11, show_default=True, callback=fresh, type=int)
@click.option("--out", type=click.Path(path_type=Path), help="JSON file.")
def main(model: str, images: int, loop_images: int | None, size: int, seed: int, out: Path | None) -> None:
    """Measure, print, record."""
    real = model == "vit_b"
    width, height = (real_size.WIDTH, real_size.HEIGHT) if real else (size, size)
    shape = {"model": model, "images": images, "width": width, "height": height}
    record = circumstances([seed]) | shape
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        if real:
            paths = real_size.draw_pictures(work / "images", images, seed)
            overrides = real_size.random_models(work, seed)
            record |= measure(paths, work, overrides, loop_images=loop_images, drawn=seed, one_core=False)
        else:
            record |= measure(draw_images(work / "images", images, seed, size), work, loop_images=loop_images)
    _tell(record)
    click.echo(f"{write_result(out or RESULTS / _NAMES[model], record)}")


def _tell(record: dict[str, Any]) -> None:
    images, shape = record["images"], f"{record['width']} x {record['height']}"
    rows = [
        [name, *(f"{way[key]:.3f}" for key in ("images_per_second", "images_per_second_with_setup"))]
        for name, way in record["ways"].items()
    ]
    click.echo(f"\n{record['model']}, {images} images of {shape}, {available_cores()} cores\n")
    click.echo(table(["", "images/s", "with set-up"], rows))
    click.echo(f"\nratio {record['ratio']:.2f}, with set-up {record['ratio_with_setup']:.2f}")
    click.echo(f"same label on {100 * record['same_pixels']:.2f} % of the pixels")


if __name__ == "__main__":
    main()

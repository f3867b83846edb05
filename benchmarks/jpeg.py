"""`image.reduce_jpeg`: unpacking a large JPEG whole against no larger than the models look at it, one thread.

    python -m benchmarks.jpeg --images 8

Scenes of the picture book, enlarged to a camera's 12 megapixels, with a camera's noise. `ratio` is the whole
image's CPU seconds over the reduced one's, from bytes to pixels, for what SAM ViT-B and CLIP ViT-B/16 see
(1,024 and 448 px). `same_labels` is the share of pixels that the built-in models (192 and 160 px) label alike
both ways, at full size; `object_iou` that of the pixels with a class.
"""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
from PIL import Image

from benchmarks.common import Benchmark, circumstances, fresh, table, timed, write_result
from benchmarks.labeller import Labeller
from segray.models.builtin.arch import CLIP_ARCH, SAM_ARCH
from segray.pipelines.config.commands.annotate import AnnotateConfig
from segray.pipelines.io.images import ImageOptions, decode_image
from segray.pipelines.scenes.picture_book import draw_scene

REAL = (1024, 448)
BUILT_IN = (SAM_ARCH["img_size"], CLIP_ARCH["vision_cfg"]["image_size"])


def photograph(seed: int, index: int, height: int, width: int) -> bytes:
    """A scene as a camera would keep it: large, noisy, JPEG of quality 90."""
    scene = Image.fromarray(draw_scene(seed, index).image).resize((width, height), Image.Resampling.BICUBIC)
    noise = np.random.default_rng([seed, index]).normal(0, 4, (height, width, 3))
    pixels = (np.asarray(scene) + noise).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def compare(labeller: Labeller, data: bytes, rounds: int) -> dict[str, Any]:
    """One image: unpacked both ways, and labelled both ways."""
    plain = ImageOptions()
    whole, slow = timed(lambda: decode_image(data, plain), rounds)
    for_real = replace(plain, jpeg_size=REAL)
    reduced, fast = timed(lambda: decode_image(data, for_real), rounds)
    size = (whole.height, whole.width)
    label, _ = labeller.label_segments(whole.pixels)
    small = decode_image(data, replace(plain, jpeg_size=BUILT_IN))
    other, _ = labeller.label_segments(small.pixels, size)
    return {
        "bytes": len(data),
        "whole_seconds": slow,
        "reduced_seconds": fast,
        "reduced": reduced.reduced,
        "reduced_for_labels": small.reduced,
        "same_labels": float((label == other).mean()),
        "object_iou": float(((label > 0) & (label == other)).sum() / ((label > 0) | (other > 0)).sum()),
    }


@click.command("jpeg", cls=Benchmark, help=__doc__)
@click.option("--images", default=8, show_default=True, type=click.IntRange(1), help="How many.")
@click.option("--height", default=3000, show_default=True, type=click.IntRange(256), help="Of an image.")
@click.option("--width", default=4000, show_default=True, type=click.IntRange(256), help="Of an image.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1), help="Of unpacking.")
@click.option("--seed", default=11, show_default=True, callback=fresh, type=int)
@click.option("--out", type=click.Path(path_type=Path), help="JSON file.")
def main(images: int, height: int, width: int, rounds: int, seed: int, out: Path | None) -> None:
    """Measure, print, record."""
    labeller = Labeller(AnnotateConfig(images="none", out="none", classes="picture_book"), threads=1)
    compared = [compare(labeller, photograph(seed, i, height, width), rounds) for i in range(images)]
    whole, reduced = (median(record[f"{way}_seconds"] for record in compared) for way in ("whole", "reduced"))
    record = circumstances([seed]) | {
        "height": height,
        "width": width,
        "images": compared,
        "ratio": whole / reduced,
        "same_labels": float(np.mean([record["same_labels"] for record in compared])),
        "object_iou": float(np.mean([record["object_iou"] for record in compared])),
    }
    rows = [
        ["whole", "1", f"{1000 * whole:.0f} ms", "1"],
        ["reduced", f"1/{compared[0]['reduced']}", f"{1000 * reduced:.0f} ms", f"{whole / reduced:.1f}"],
    ]
    click.echo(table(["unpacked", "side", "CPU", "ratio"], rows))
    share = f"1/{compared[0]['reduced_for_labels']}"
    click.echo(f"\n{record['same_labels']:.2%} of the pixels have the same label at {share}")
    click.echo(f"wrote {write_result(out, record)}")


if __name__ == "__main__":
    main()

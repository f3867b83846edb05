"""Memory and time of one large image in tiles, built-in models on one core, without Ray.

    python -m benchmarks.tiles --work work --sides 1024 2048 4096

A mosaic of picture-book scenes is read, segmented, classified and encoded as `segray annotate` does it with
`image.tile`. `peak_mib` is the process's peak above what it took after a small image, with the models loaded;
`per_megapixel` is that for a million pixels. Sides must ascend, as a peak never falls.
"""

from __future__ import annotations

import resource
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from PIL import Image

from benchmarks.common import MIB, Benchmark, circumstances, fresh, spread, table, write_result
from segray.pipelines.annotation.in_process import Stages
from segray.pipelines.commands.annotate import prepare, space_of
from segray.pipelines.config.commands.annotate import AnnotateConfig
from segray.pipelines.config.loading import load
from segray.pipelines.io.sources import list_images
from segray.pipelines.scenes.picture_book import draw_scene

_SCENE, _KINDS = 512, 16
_SHOWN = ("megapixels", "segments", "seconds", "peak_mib", "per_megapixel")


class Sides(Benchmark):
    """As `Benchmark`, with `--sides 1024 2048`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See click."""
        return super().parse_args(ctx, spread(args, "--sides"))


def mosaic(seed: int, side: int) -> Image.Image:
    """A square of scenes."""
    scenes = [draw_scene(seed, index, _SCENE).image for index in range(_KINDS)]
    count = -(-side // _SCENE)
    rows = [np.concatenate([scenes[(i * 5 + j) % _KINDS] for j in range(count)], 1) for i in range(count)]
    return Image.fromarray(np.concatenate(rows)[:side, :side])


def peak() -> int:
    """Bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measured(stages: Stages, folder: Path, seed: int, side: int, before: int) -> dict[str, Any]:
    """One image of this side through all stages."""
    folder.mkdir(parents=True, exist_ok=True)
    mosaic(seed, side).save(folder / "mosaic.png", compress_level=1)
    began = time.perf_counter()
    (row,) = stages.label(list(list_images(str(folder))))
    seconds = time.perf_counter() - began
    if row["status"] != "ok":
        raise ValueError(row["error"])
    mib = (peak() - before) / MIB
    return {
        "side": side,
        "megapixels": side * side / 1e6,
        "segments": len(row["segments"] or ()),
        "seconds": seconds,
        "peak_mib": mib,
        "per_megapixel": mib / (side * side / 1e6),
    }


@click.command("tiles", cls=Sides, help=__doc__)
@click.option("--work", required=True, type=click.Path(path_type=Path), help="Folder for the images.")
@click.option("--sides", multiple=True, default=(1024, 2048), show_default=True, type=click.IntRange(min=64))
@click.option("--tile", default=512, show_default=True, type=click.IntRange(min=64))
@click.option("--seeds", "seed", default=11, show_default=True, callback=fresh, help="Seed of the scenes.")
@click.option("--out", default=None, type=click.Path(path_type=Path), help="Where the record goes.")
def main(work: Path, sides: tuple[int, ...], tile: int, seed: int, out: Path | None) -> None:
    """See the module."""
    torch.set_num_threads(1)
    words = [f"images={work}", f"out={work / 'labels'}", "classes=picture_book", f"image.tile={tile}"]
    config: AnnotateConfig = load(AnnotateConfig, None, words)
    stages = Stages(prepare(config, space_of(config), load=True))
    measured(stages, work / "first", seed, tile, 0)
    before = peak()
    rows = [measured(stages, work / str(side), seed, side, before) for side in sorted(sides)]
    lines = [[str(row["side"]), *(f"{row[name]:.4g}" for name in _SHOWN)] for row in rows]
    click.echo(table(["side", *_SHOWN], lines))
    click.echo(f"\n{write_result(out, {**circumstances([seed]), 'tile': tile, 'rows': rows})}")


if __name__ == "__main__":
    main()

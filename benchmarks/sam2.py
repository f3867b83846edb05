"""SAM 2.1 "segment everything": segray's generator against Meta's `SAM2AutomaticMaskGenerator`, one thread.

    python -m benchmarks.sam2
    python -m benchmarks.sam2 --width 1920 --height 1080

Needs the package `sam2` (CONTRIBUTING.md, "SAM 2 parity"). Networks of the released size with random weights,
the same on both sides, whose own masks would all be alike: the whole encoder and decoder are computed, then
their outputs are replaced by drawn ones, as in `benchmarks.masks`. Both generators have their default
settings but for `--points` per side. `ratio` is upstream's CPU seconds over segray's, of one run.
"""

from __future__ import annotations

import importlib
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import numpy as np
import torch
from transformers import Sam2Config, Sam2Model

from benchmarks.common import RESULTS, Benchmark, circumstances, clocked, fresh, table, write_result
from benchmarks.masks import DrawnOutputs, figures, generated
from segray.models.annotators.sam2 import ARCH
from segray.models.sam.generator import MaskGenerator
from segray.models.sam2.model import PromptedSam2
from segray.models.sam2.original import transformers_state
from segray.pipelines.engine.cpu import reuse_freed_memory
from segray.pipelines.errors import UserError
from segray.pipelines.scenes.picture_book import draw_scene

_CONFIGS = {"tiny": "t", "small": "s", "base_plus": "b+", "large": "l"}


def peer(size: str) -> tuple[Any, Any]:
    """Meta's model with random weights, and the class of its generator.

    Raises:
        UserError: the package is not installed.
    """
    try:
        build = importlib.import_module("sam2.build_sam").build_sam2
        generator = importlib.import_module("sam2.automatic_mask_generator").SAM2AutomaticMaskGenerator
    except ImportError as error:
        raise UserError(f"{error}; CONTRIBUTING.md, SAM 2 parity, says how to install it") from error
    return build(f"configs/sam2.1/sam2.1_hiera_{_CONFIGS[size]}.yaml", None, device="cpu"), generator


def same_network(model: Any, size: str) -> Any:
    """transformers' network with the weights of Meta's model."""
    network = Sam2Model(Sam2Config(**ARCH[f"sam2.1_hiera_{size}"]))
    missing, _ = network.load_state_dict(transformers_state(model.state_dict()), strict=False)
    if missing:
        raise UserError(f"the models differ: {missing[0]}")
    return network.eval()


def compare(size: str, shape: tuple[int, int], points: int, seed: int) -> dict[str, Any]:
    """Both generators on one image."""
    torch.manual_seed(seed)
    model, generator = peer(size)
    network = same_network(model, size)
    options: dict[str, Any] = {"points_per_side": points, "pred_iou_thresh": 0.8}
    height, width = shape
    image = np.ascontiguousarray(draw_scene(seed, 0, max(shape)).image[:height, :width])
    drawn = DrawnOutputs(seed, prompts=points**2)
    head = network.mask_decoder.iou_prediction_head
    with drawn.instead_of(SimpleNamespace(mask_decoder=model.sam_mask_decoder), head):
        slow = [clocked(partial(generator(model, **options).generate, image), "cpu")]
        ours = MaskGenerator(PromptedSam2(network), **options)
        return {
            "upstream_masks": [len(records) for records, _ in slow],
            "upstream_seconds": [seconds for _, seconds in slow],
            **figures(*generated(ours, [image], "cpu"), slow, shape),
        }


@click.command("sam2", cls=Benchmark, help=__doc__)
@click.option("--size", default="tiny", show_default=True, type=click.Choice(list(_CONFIGS)))
@click.option("--width", default=500, show_default=True, type=click.IntRange(32))
@click.option("--height", default=375, show_default=True, type=click.IntRange(32))
@click.option("--points", default=32, show_default=True, type=click.IntRange(1))
@click.option("--seed", default=11, show_default=True, callback=fresh, type=int)
@click.option("--out", default=None, type=Path, help="Default: benchmarks/results/sam2-SIZE-HEIGHT.json.")
def main(size: str, width: int, height: int, points: int, seed: int, out: Path | None) -> None:
    """Measure, print, record."""
    torch.set_num_threads(1)
    reuse_freed_memory()
    record = circumstances([seed]) | {"model": f"sam2.1_hiera_{size}", "width": width, "height": height}
    record |= {"points_per_side": points} | compare(size, (height, width), points, seed)
    rows = [
        ["SAM2AutomaticMaskGenerator", f"{record['upstream_seconds'][0]:.1f}", ""],
        ["segray", f"{record['segray_seconds']:.1f}", f"{record['ratio']:.2f}"],
    ]
    click.echo(table(["", "CPU s an image", "ratio"], rows))
    masks = record["upstream_masks"][0]
    click.echo(f"\nratio {record['ratio']:.2f}, {record['identical_masks']} of {masks} masks identical")
    name = f"sam2-{size.replace('_', '-')}-{height}.json"
    click.echo(f"{write_result(out or RESULTS / name, record)}")


if __name__ == "__main__":
    main()

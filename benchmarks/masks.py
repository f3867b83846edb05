"""Segment everything: segray's mask generator against `SamAutomaticMaskGenerator`, same weights, one thread.

    python -m benchmarks.masks --model vit_b --width 500 --height 375
    python -m benchmarks.masks --model builtin --images 12
    python -m benchmarks.masks --model vit_b --width 500 --height 375 --images 32 --device cuda

`vit_b` has the official size and random weights, whose own masks would all be alike: on both sides the whole
decoder is computed, then its outputs are replaced by drawn ones, three nested blobs a prompt, so that
filters, suppression and resampling have what a trained model gives them. `builtin` is the built-in model
as it is. Both generators have their default settings (the built-in model's thresholds for that one), in one
process that keeps the memory it frees, as segray's workers do. `ratio` is upstream's CPU seconds over
segray's.

On a GPU upstream computes in fp32, one image after the other, and segray takes all of them in one call,
once to warm up and once for the clock, in every precision of `--precision`. What precision does to masks only
`builtin` shows. `changed_counts` is the share of images with another number of masks than upstream's.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any
from unittest import mock

import click
import numpy as np
import torch
from numpy.typing import NDArray
from segment_anything import SamAutomaticMaskGenerator, build_sam_vit_b
from torch import Tensor

from benchmarks.common import (
    DEVICES,
    RESULTS,
    Benchmark,
    a_device,
    circumstances,
    clocked,
    fresh,
    table,
    write_result,
)
from segray.models.masks import Segment, full_mask
from segray.models.precision import DTYPES, Precision
from segray.models.sam.decoder import MaskDecoder
from segray.models.sam.device_masks import DeviceMasks
from segray.models.sam.generator import SAM_MODELS, MaskGenerator, build_sam
from segray.models.sam.geometry import Rgb
from segray.pipelines.engine.cpu import reuse_freed_memory
from segray.pipelines.scenes.picture_book import draw_scene

_PROMPTS, _SAMPLES = 1024, 256


class DrawnOutputs:
    """Predicted IoU [1024, 4] and logits [1024, 3, 256, 256] of 32 x 32 prompts, the same for both.

    Args:
        seed: of the blobs.
        device: of the values.
        prompts: another number of prompts, a square.
    """

    def __init__(self, seed: int, device: str = "cpu", prompts: int | None = None) -> None:
        self._prompts = prompts or _PROMPTS
        rng = np.random.default_rng(seed)
        centres, radii = rng.uniform(0, 1, (40, 2)), rng.uniform(0.04, 0.35, (40, 2))
        side = round(self._prompts**0.5)
        y, x = np.mgrid[:_SAMPLES, :_SAMPLES].astype(np.float32) / _SAMPLES
        self.logits = torch.empty(self._prompts, 3, _SAMPLES, _SAMPLES)
        quality = rng.normal(0.05, 0.08, len(centres))
        self.iou = torch.zeros(self._prompts, 4)
        for prompt in range(self._prompts):
            place = np.array([prompt // side + 0.5, prompt % side + 0.5]) / side
            thing = int((((place - centres) / radii) ** 2).sum(1).argmin())
            (cy, cx), (ry, rx) = centres[thing], radii[thing] * rng.uniform(0.95, 1.05, 2)
            form = 1 - ((y - cy) / ry) ** 2 - ((x - cx) / rx) ** 2
            wave = 0.15 * np.sin(20 * np.arctan2(y - cy, x - cx) / 4 + thing)
            for level, grown in enumerate((-0.4, 0.0, 0.5)):
                self.logits[prompt, level] = torch.from_numpy(24 * (form + wave + grown))
                self.iou[prompt, 1 + level] = 0.83 + quality[thing] + rng.normal(0, 0.06)
        self.logits, self.iou = self.logits.to(device), self.iou.to(device)
        # Each thread has an image of its own.
        self._next = threading.local()

    def _take(self, what: str, values: Tensor, count: int) -> Tensor:
        """The next `count`; a grid's last prompt again where it has no more."""
        start = getattr(self._next, what, 0)
        setattr(self._next, what, (start + count) * (start + count < self._prompts))
        part = values[start : start + count]
        missing = count - len(part)
        return torch.cat([part, part[-1:].expand(missing, *part.shape[1:])]) if missing else part

    @contextmanager
    def instead_of(self, sam: Any, own_head: Any = None) -> Iterator[None]:
        """Both generators compute all and get these.

        Args:
            sam: upstream's model, with a `mask_decoder`.
            own_head: that predicts IoU for segray, where it is not upstream's.
        """

        def iou_hook(_: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:  # noqa: ARG001
            # What is compiled cannot count its calls: `ahead` draws for it.
            return None if torch.compiler.is_compiling() else self._take("iou", self.iou, len(output))

        def decoder_hook(_: Any, inputs: Any, output: tuple[Tensor, ...]) -> tuple[Tensor, ...]:  # noqa: ARG001
            return self._take("logits", self.logits, len(output[0])), *output[1:]

        original = MaskDecoder.__call__
        own_init: Any = DeviceMasks.__init__

        def decode(decoder: MaskDecoder, image: Any, points: Tensor, threshold: float, rows: int) -> Any:
            _, iou, prompts = original(decoder, image, points, threshold, rows)
            keep = self._take("own iou", self.iou, len(points))[:, 1:] > threshold
            return self._take("logits", self.logits, len(points))[keep], iou, prompts

        def init(masks: DeviceMasks, *args: Any) -> None:
            *first, all_masks, all_rows = args

            def ahead(image: Any, prompts: Tensor, rows: int) -> tuple[Tensor, Tensor]:
                all_masks(image, prompts, rows)
                logits = self._take("logits", self.logits, len(prompts))[:, :, : 4 * rows]
                return logits, self._take("own iou", self.iou, len(prompts))[:, 1:]

            own_init(masks, *first, ahead, all_rows)

        hooks = [
            sam.mask_decoder.iou_prediction_head.register_forward_hook(iou_hook),
            sam.mask_decoder.register_forward_hook(decoder_hook),
            *([own_head.register_forward_hook(iou_hook)] if own_head else []),
        ]
        try:
            with (
                mock.patch.object(MaskDecoder, "__call__", decode),
                mock.patch.object(DeviceMasks, "__init__", init),
            ):
                yield
        finally:
            for hook in hooks:
                hook.remove()


def matched_iou(
    segments: list[Segment], records: list[dict[str, Any]], shape: tuple[int, int]
) -> list[float]:
    """For each of upstream's masks the IoU with segray's best."""
    ours = [full_mask(segment, *shape) for segment in segments]

    def best(mask: NDArray[np.bool_]) -> float:
        return max(((mask & other).sum() / (mask | other).sum() for other in ours), default=0.0)

    return [float(best(record["segmentation"])) for record in records]


@dataclass(frozen=True)
class Run:
    """What is measured: see the options."""

    model: str
    shape: tuple[int, int]
    images: int
    seed: int
    device: str
    precisions: tuple[Precision, ...]
    compiled: bool


def compare(run: Run) -> dict[str, Any]:
    """Both generators on the same images."""
    options: dict[str, Any] = {}
    if run.model == "vit_b":
        torch.manual_seed(run.seed)
        sam: Any = build_sam_vit_b().eval().to(run.device)
        drawn: AbstractContextManager[None] = DrawnOutputs(run.seed, run.device).instead_of(sam)
    else:
        sam, entry = build_sam(run.model)[0].to(run.device), SAM_MODELS[run.model]
        names = ("points_per_side", "pred_iou_thresh", "stability_score_thresh")
        options = {name: getattr(entry, name) for name in names}
        drawn = nullcontext()
    height, width = run.shape
    images = [
        np.ascontiguousarray(draw_scene(run.seed, k, max(run.shape)).image[:height, :width])
        for k in range(run.images)
    ]
    upstream = SamAutomaticMaskGenerator(sam, **options)
    with drawn:
        if run.device != "cpu":
            upstream.generate(images[0])
        peer = [clocked(partial(upstream.generate, image), run.device) for image in images]
        ways = {}
        for precision in run.precisions:
            generator = MaskGenerator(sam, **options, precision=precision, compiled=run.compiled)
            ways[precision] = figures(*generated(generator, images, run.device), peer, run.shape)
            click.echo(f"{precision}: ratio {ways[precision]['ratio']:.2f}", err=True)
    return {
        "upstream_masks": [len(records) for records, _ in peer],
        "upstream_seconds": [seconds for _, seconds in peer],
        **ways[run.precisions[0]],
        "precisions": ways,
    }


def generated(generator: MaskGenerator, images: list[Rgb], device: str) -> tuple[list[list[Segment]], float]:
    """segray's segments and seconds; on a GPU of the second call, with all images at once."""
    if device != "cpu":
        generator.generate(images)
        return clocked(partial(generator.generate, images), device)
    runs = [clocked(partial(generator.generate, [image]), device) for image in images]
    return [segments[0] for segments, _ in runs], sum(seconds for _, seconds in runs)


def figures(
    generated: list[list[Segment]], seconds: float, peer: list[tuple[Any, float]], shape: tuple[int, int]
) -> dict[str, Any]:
    """Of one precision, beside upstream's records and seconds of each image."""
    pairs = list(zip(generated, (records for records, _ in peer), strict=True))
    matched = [iou for segments, records in pairs for iou in matched_iou(segments, records, shape)]
    return {
        "ratio": sum(slow for _, slow in peer) / seconds,
        "images_per_second": len(generated) / seconds,
        "mean_matched_iou": fmean(matched) if matched else None,
        "identical_masks": sum(iou == 1 for iou in matched),
        "changed_counts": fmean(len(segments) != len(records) for segments, records in pairs),
        "segray_masks": [len(segments) for segments in generated],
        "segray_seconds": seconds,
    }


@click.command("masks", cls=Benchmark, help=__doc__)
@click.option("--model", default="builtin", type=click.Choice(["builtin", "vit_b"]))
@click.option("--width", default=256, show_default=True, type=click.IntRange(32))
@click.option("--height", default=256, show_default=True, type=click.IntRange(32))
@click.option("--images", default=1, show_default=True, type=click.IntRange(1))
@click.option("--device", default="cpu", show_default=True, type=DEVICES, callback=a_device)
@click.option(
    "--precision", multiple=True, type=click.Choice(list(DTYPES)), help="Default: fp32, on a GPU all."
)
@click.option("--compile", "compiled", is_flag=True, help="As sam.compile=true.")
@click.option("--seed", default=11, show_default=True, callback=fresh, type=int)
@click.option("--out", default=None, type=Path, help="Default: benchmarks/results/masks-MODEL-HEIGHT.json.")
def main(
    model: str,
    width: int,
    height: int,
    images: int,
    device: str,
    precision: tuple[Precision, ...],
    compiled: bool,
    seed: int,
    out: Path | None,
) -> None:
    """Measure, print, record."""
    torch.set_num_threads(1)
    reuse_freed_memory()
    precisions = precision or (("fp32",) if device == "cpu" else tuple(DTYPES))
    run = Run(model, (height, width), images, seed, device, precisions, compiled)
    record = circumstances([seed]) | {"model": model, "width": width, "height": height, "images": images}
    record |= {"on": device, "compiled": compiled} | compare(run)
    masks, unit = sum(record["upstream_masks"]), "CPU s" if device == "cpu" else "s"
    head = ["", f"{unit} an image", "ratio", "masks", "identical", "matched IoU", "other count"]
    rows = [
        ["SamAutomaticMaskGenerator", f"{fmean(record['upstream_seconds']):.3f}", "", str(masks), "", "", ""]
    ]
    rows += [_row(name, way) for name, way in record["precisions"].items()]
    click.echo(f"\n{model}, {width} x {height}, {device}\n")
    click.echo(table(head, rows))
    click.echo(f"\nratio {record['ratio']:.2f}, {record['identical_masks']} of {masks} masks identical")
    click.echo(f"{write_result(out or _default(model, height, device), record)}")


def _row(name: str, way: dict[str, Any]) -> list[str]:
    iou = way["mean_matched_iou"]
    seconds, masks = f"{1 / way['images_per_second']:.3f}", str(sum(way["segray_masks"]))
    agreement = [str(way["identical_masks"]), "" if iou is None else f"{iou:.4f}"]
    return [
        f"segray, {name}",
        seconds,
        f"{way['ratio']:.2f}",
        masks,
        *agreement,
        f"{way['changed_counts']:.0%}",
    ]


def _default(model: str, height: int, device: str) -> Path:
    return RESULTS / f"masks-{model.replace('_', '-')}-{height}{'' if device == 'cpu' else '-gpu'}.json"


if __name__ == "__main__":
    main()

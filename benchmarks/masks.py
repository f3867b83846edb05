"""Segment everything: segray's mask generator against `SamAutomaticMaskGenerator`, same weights, one thread.

    python -m benchmarks.masks --model vit_b --width 500 --height 375
    python -m benchmarks.masks --model picture_book --images 12

`vit_b` has the official size and random weights, whose own masks would all be alike: on both sides the whole
decoder is computed, then its outputs are replaced by drawn ones, three nested blobs a prompt, so that
filters, suppression and resampling have what a trained model gives them. `picture_book` is the built-in model
as it is. Both generators have their default settings (the built-in model's thresholds for that one). `ratio`
is upstream's CPU seconds over segray's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
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

from benchmarks.common import RESULTS, Benchmark, circumstances, fresh, table, write_result
from models.masks import Segment, full_mask
from models.sam import SAM_MODELS, MaskGenerator, build_sam
from models.sam_decoder import MaskDecoder
from pipelines.picture_book import draw_scene

_PROMPTS, _SAMPLES = 1024, 256


class DrawnOutputs:
    """Predicted IoU [1024, 4] and logits [1024, 3, 256, 256] of 32 x 32 prompts, the same for both."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        centres, radii = rng.uniform(0, 1, (40, 2)), rng.uniform(0.04, 0.35, (40, 2))
        side = round(_PROMPTS**0.5)
        y, x = np.mgrid[:_SAMPLES, :_SAMPLES].astype(np.float32) / _SAMPLES
        self.logits = torch.empty(_PROMPTS, 3, _SAMPLES, _SAMPLES)
        quality = rng.normal(0.05, 0.08, len(centres))
        self.iou = torch.zeros(_PROMPTS, 4)
        for prompt in range(_PROMPTS):
            place = np.array([prompt // side + 0.5, prompt % side + 0.5]) / side
            thing = int((((place - centres) / radii) ** 2).sum(1).argmin())
            (cy, cx), (ry, rx) = centres[thing], radii[thing] * rng.uniform(0.95, 1.05, 2)
            form = 1 - ((y - cy) / ry) ** 2 - ((x - cx) / rx) ** 2
            wave = 0.15 * np.sin(20 * np.arctan2(y - cy, x - cx) / 4 + thing)
            for level, grown in enumerate((-0.4, 0.0, 0.5)):
                self.logits[prompt, level] = torch.from_numpy(24 * (form + wave + grown))
                self.iou[prompt, 1 + level] = 0.83 + quality[thing] + rng.normal(0, 0.06)
        self._next = {"iou": 0, "logits": 0}

    def _take(self, what: str, count: int) -> slice:
        start = self._next[what]
        self._next[what] = (start + count) % _PROMPTS
        return slice(start, start + count)

    @contextmanager
    def instead_of(self, sam: Any) -> Iterator[None]:
        """Both generators compute all and get these."""

        def iou_hook(_: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:  # noqa: ARG001
            return self.iou[self._take("iou", len(output))]

        def decoder_hook(_: Any, inputs: Any, output: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:  # noqa: ARG001
            return self.logits[self._take("logits", len(output[0]))], output[1]

        own = MaskDecoder.__call__

        def decode(decoder: MaskDecoder, picture: Any, points: Tensor, threshold: float, rows: int) -> Any:
            _, iou, prompts = own(decoder, picture, points, threshold, rows)
            part = self._take("logits", len(points))
            keep = self.iou[part, 1:] > threshold
            return self.logits[part][keep], iou, prompts

        hooks = [
            sam.mask_decoder.iou_prediction_head.register_forward_hook(iou_hook),
            sam.mask_decoder.register_forward_hook(decoder_hook),
        ]
        try:
            with mock.patch.object(MaskDecoder, "__call__", decode):
                yield
        finally:
            for hook in hooks:
                hook.remove()


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What it returns, and its CPU seconds."""
    start = time.process_time()
    found = work()
    return found, time.process_time() - start


def matched_iou(
    segments: list[Segment], records: list[dict[str, Any]], shape: tuple[int, int]
) -> list[float]:
    """For each of upstream's masks the IoU with segray's best."""
    ours = [full_mask(segment, *shape) for segment in segments]

    def best(mask: NDArray[np.bool_]) -> float:
        return max(((mask & own).sum() / (mask | own).sum() for own in ours), default=0.0)

    return [float(best(record["segmentation"])) for record in records]


def compare(model: str, shape: tuple[int, int], images: int, seed: int) -> dict[str, Any]:
    """Both generators on the same pictures."""
    options: dict[str, Any] = {}
    if model == "vit_b":
        torch.manual_seed(seed)
        sam: Any = build_sam_vit_b().eval()
        drawn: AbstractContextManager[None] = DrawnOutputs(seed).instead_of(sam)
    else:
        sam, entry = build_sam(model)[0], SAM_MODELS[model]
        names = ("points_per_side", "pred_iou_thresh", "stability_score_thresh")
        options = {name: getattr(entry, name) for name in names}
        drawn = nullcontext()
    upstream, own = SamAutomaticMaskGenerator(sam, **options), MaskGenerator(sam, **options)
    pictures = [
        np.ascontiguousarray(draw_scene(seed, k, max(shape)).image[: shape[0], : shape[1]])
        for k in range(images)
    ]
    rows = []
    with drawn:
        for picture in pictures:
            records, slow = timed(partial(upstream.generate, picture))
            (segments,), fast = timed(partial(own.generate, [picture]))
            rows.append((slow, fast, len(records), len(segments), matched_iou(segments, records, shape)))
            click.echo(f"{slow:8.2f} s  {fast:8.2f} s  {len(records)} and {len(segments)} masks", err=True)
    matched = [iou for row in rows for iou in row[4]]
    return {
        "ratio": sum(row[0] for row in rows) / sum(row[1] for row in rows),
        "mean_matched_iou": fmean(matched) if matched else None,
        "identical_masks": sum(iou == 1 for iou in matched),
        "upstream_masks": [row[2] for row in rows],
        "segray_masks": [row[3] for row in rows],
        "upstream_seconds": [row[0] for row in rows],
        "segray_seconds": [row[1] for row in rows],
    }


@click.command("masks", cls=Benchmark, help=__doc__)
@click.option("--model", default="picture_book", type=click.Choice(["picture_book", "vit_b"]))
@click.option("--width", default=256, show_default=True, type=click.IntRange(32))
@click.option("--height", default=256, show_default=True, type=click.IntRange(32))
@click.option("--images", default=1, show_default=True, type=click.IntRange(1))
@click.option("--seed", default=11, show_default=True, callback=fresh, type=int)
@click.option("--out", default=None, type=Path, help="Default: benchmarks/results/masks-MODEL-HEIGHT.json.")
def main(model: str, width: int, height: int, images: int, seed: int, out: Path | None) -> None:
    """Measure, print, record."""
    torch.set_num_threads(1)
    record = circumstances([seed]) | {"model": model, "width": width, "height": height, "images": images}
    record |= compare(model, (height, width), images, seed)
    count = sum(record["upstream_masks"])
    head = ["", "CPU s an image", "masks"]
    rows = [
        [name, f"{fmean(record[f'{key}_seconds']):.2f}", str(sum(record[f"{key}_masks"]))]
        for name, key in (("SamAutomaticMaskGenerator", "upstream"), ("segray", "segray"))
    ]
    click.echo(f"\n{model}, {width} x {height}, one thread\n")
    click.echo(table(head, rows))
    click.echo(f"\nratio {record['ratio']:.2f}, {record['identical_masks']} of {count} masks identical")
    click.echo(f"{write_result(out or _default(model, height), record)}")


def _default(model: str, height: int) -> Path:
    return RESULTS / f"masks-{model.replace('_', '-')}-{height}.json"


if __name__ == "__main__":
    main()

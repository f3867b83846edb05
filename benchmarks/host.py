"""What a GPU leaves to the CPU in `segray annotate`: milliseconds of each step of an image, one thread.

    python -m benchmarks.host
    python -m benchmarks.host --width 1920 --height 1080 --rate 45

SAM's masks are the drawn outputs of `benchmarks.masks`, measured as a GPU measures them; classes and
embeddings are random. Each step is the code that a worker runs: `read` is a JPEG file to pixels, `resize`
what SAM sees, `filter` thresholds and suppression on the table that a GPU hands back, `cut` its bits to
segments, `encode` segments to the columns of a label set. The drawn masks are 16 things; a greater
`--box-nms` keeps more of them, as a photograph has. `cores` is what `--rate` images per second need of all.
"""

from __future__ import annotations

import io
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from PIL import Image

from benchmarks.common import Benchmark, circumstances, fresh, table, timed, write_result
from benchmarks.masks import DrawnOutputs
from segray.models.class_scores import classify_scores
from segray.models.sam.decoder import confident
from segray.models.sam.device_masks import MaskCrops, Measured, View, filter_masks
from segray.models.sam.geometry import frame, point_grid, resized, rows_needed
from segray.models.sam.postprocess import Thresholds
from segray.models.sam.statistics import measure
from segray.models.transfer import DeviceToHostCopy
from segray.pipelines.annotation.stages.encode import encode_segments
from segray.pipelines.annotation.stages.read import read_row
from segray.pipelines.engine.rows import Row
from segray.pipelines.io.images import ImageOptions
from segray.pipelines.scenes.picture_book import draw_scene

_SIDE, _TOKENS, _POINTS, _CLASSES, _CHANNELS = 1024, 64, 32, 20, 512
LIMITS = Thresholds(0.0, 1.0, 0.95, 0.7, 0.88)
"""The defaults of `SamAutomaticMaskGenerator`."""


def measured_masks(shape: tuple[int, int], seed: int) -> Measured:
    """The masks of 32 x 32 prompts on an image [H, W], with the table of their statistics."""
    f, window = frame(*shape, _SIDE), (0, 0, shape[1], shape[0])
    drawn = DrawnOutputs(seed, prompts=_POINTS**2)
    logits = drawn.logits[:, :, : 4 * rows_needed(f, _TOKENS)].flatten(0, 1)
    scores = drawn.iou[:, 1:].flatten()
    keep = confident(scores, LIMITS.predicted_iou)
    statistics = torch.full((len(logits), 6), -1, dtype=torch.int32)
    all_of = torch.ones(int(keep.sum()), dtype=torch.bool)
    statistics[keep] = measure(logits[keep], all_of, f, 4 * _TOKENS, LIMITS.cut, LIMITS.stability_offset)
    rows = torch.cat([statistics, scores.view(torch.int32)[:, None]], 1)
    points = point_grid(_POINTS) * [[f.width, f.height]]
    view = View(torch.empty(0), f, window, shape, points)
    return Measured(view, points, logits, DeviceToHostCopy(rows), last=True)


def steps(shape: tuple[int, int], box_nms: float, seed: int, rounds: int) -> dict[str, Any]:
    """Median CPU seconds of each step, and how many segments there are."""
    limits, seconds = replace(LIMITS, box_nms=box_nms), dict[str, float]()
    image = np.ascontiguousarray(draw_scene(seed, 0, max(shape)).image[: shape[0], : shape[1]])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image.jpg"
        data = io.BytesIO()
        Image.fromarray(image).save(data, "jpeg", quality=90)
        path.write_bytes(data.getvalue())
        listed: Row = {"image_id": path.name, "uri": str(path), "problem": None, "status": "ok"}
        row, seconds["read"] = timed(lambda: read_row(listed, ImageOptions(), embed_images=False), rounds)
    _, seconds["resize"] = timed(lambda: resized(image, shape, _SIDE), rounds)
    chunk = measured_masks(shape, seed)
    # A GPU keeps the logits: what the CPU does with them is to say which.
    without = replace(chunk, logits=chunk.logits[:, :1, :1].contiguous())
    _, seconds["filter"] = timed(lambda: filter_masks(without, limits).best(box_nms), rounds)
    kept = filter_masks(chunk, limits).best(box_nms)
    segments, seconds["cut"] = timed(MaskCrops(kept, chunk.view, 4 * _TOKENS, limits.cut).segments, rounds)
    rng = np.random.default_rng(seed)
    scores = rng.uniform(0, 1, (len(segments), _CLASSES)).astype(np.float32)
    classes = classify_scores(scores, range(_CLASSES), 0.0)
    embeddings = rng.normal(size=(len(segments), _CHANNELS)).astype(np.float16).tobytes()
    _, seconds["encode"] = timed(lambda: encode_segments(row, segments, classes, embeddings, 255), rounds)
    return {"segments": len(segments), "seconds": seconds}


@click.command("host", cls=Benchmark, help=__doc__)
@click.option("--width", default=500, show_default=True, type=click.IntRange(32))
@click.option("--height", default=375, show_default=True, type=click.IntRange(32))
@click.option("--rate", default=71.0, show_default=True, help="Images per second of a GPU.")
@click.option("--box-nms", default=0.7, show_default=True, help="Of suppression, 0 to 1.")
@click.option("--rounds", default=20, show_default=True, type=click.IntRange(1))
@click.option("--seed", default=11, show_default=True, callback=fresh, type=int)
@click.option("--out", default=None, type=click.Path(path_type=Path), help="JSON file.")
def main(
    width: int, height: int, rate: float, box_nms: float, rounds: int, seed: int, out: Path | None
) -> None:
    """Measure, print, record."""
    torch.set_num_threads(1)
    settings = {"width": width, "height": height, "rate": rate, "box_nms": box_nms, "rounds": rounds}
    record = circumstances([seed]) | settings | steps((height, width), box_nms, seed, rounds)
    total = sum(record["seconds"].values())
    record["cores"] = total * rate
    body = [[name, f"{1000 * seconds:.2f}"] for name, seconds in record["seconds"].items()]
    click.echo(f"{width} x {height}, {record['segments']} segments\n")
    click.echo(table(["", "CPU ms an image"], [*body, ["all", f"{1000 * total:.2f}"]]))
    click.echo(f"\n{rate:g} images/s need {record['cores']:.2f} cores; wrote {write_result(out, record)}")


if __name__ == "__main__":
    main()

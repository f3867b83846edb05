"""What a GPU does, in one program of at most 150 seconds: the most important parts first.

    python -m benchmarks.gpu
    python -m benchmarks.gpu --seconds 60 --seed 3

`kernels`: do segray's kernels agree with the eager path, and how far is each from fp32. `parts`: the
encoder per image and the decoder per 1,024 prompts; `sam2_parts`: those of SAM 2.1, whose encoder has no
kernels. `vit_b_375` and so on: everything mode, with the random
weights and drawn outputs of `benchmarks.masks`, so that times are real and masks are not; `ratio` is the
seconds per image of `SamAutomaticMaskGenerator` in fp32 over segray's. `masks`: the built-in model, whose
masks are real, against upstream's in fp32. `gem`: as `benchmarks.gem`. `training`: as `benchmarks.train`.
`annotate` and `train`: the commands through Ray, where ray is installed. The record is written after each
part, so that a run that is cut short still counts; parts for which no time is left are listed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any

import click
import numpy as np
import torch
from segment_anything import SamAutomaticMaskGenerator, sam_model_registry
from torch import Tensor

from benchmarks import gem, masks, train
from benchmarks.common import Benchmark, circumstances, clocked, fresh, write_result
from segray.models.annotators.sam2 import ARCH
from segray.models.precision import Precision
from segray.models.sam.decoder import MaskDecoder
from segray.models.sam.fused.check import disagreement, rms
from segray.models.sam.fused.config import FusedConfig, configuration
from segray.models.sam.fused.selection import FusedSam
from segray.models.sam.generator import MaskGenerator
from segray.models.sam.geometry import Rgb, rows_needed
from segray.models.sam.prompted import PromptedModel, PromptedSam
from segray.models.sam2.model import PromptedSam2
from segray.pipelines.scenes.picture_book import draw_scene

_PROMPTS, _BATCH, _ROWS, _ROUNDS = 1024, 4, 48, 5

Part = Callable[[], dict[str, Any]]


def official(model: str, seed: int) -> Any:
    """A SAM of a released size with random weights, on the GPU, relative positions included."""
    torch.manual_seed(seed)
    sam = sam_model_registry[model]().eval()
    with torch.no_grad():
        for block in sam.image_encoder.blocks:
            block.attn.rel_pos_h.normal_(0, 0.1)
            block.attn.rel_pos_w.normal_(0, 0.1)
        sam.image_encoder.pos_embed.normal_(0, 0.3)
    return sam.cuda()


def kernels(seed: int) -> dict[str, Any]:
    """Errors of the eager path and of the kernels, both fp16, as a fraction of fp32's root mean square."""
    model = PromptedSam(official("vit_b", seed))
    fused = model.kernels(torch.float16, 0.0, _config())
    problem = disagreement(model, fused, torch.float16)
    images = torch.randn(1, 3, 1024, 1024, device="cuda")
    truth, eager = model.encoder(torch.float32)(images), model.encoder(torch.float16)(images)
    points = torch.rand(64, 2, dtype=torch.float64, device="cuda") * 1024
    results = {"embedding": (truth, eager, fused.encode(images))}
    decoder = fused.decoder
    ways = [_all_masks(way, truth[0], points) for way in (model.decoder(torch.float32), decoder.eager)]
    ours = decoder.decode(decoder.image_tokens(truth[0]), decoder.prompts(points), _ROWS, 0.0)
    results |= {name: (ways[0][k], ways[1][k], ours[k]) for k, name in enumerate(("logits", "predicted_iou"))}
    errors = {
        name: {"eager": rms(e - t) / rms(t), "kernels": rms(k - t) / rms(t)}
        for name, (t, e, k) in results.items()
    }
    return {"agree": problem is None, "problem": problem, "errors": errors, "config": asdict(_config())}


def parts(seed: int) -> dict[str, Any]:
    """Milliseconds of ViT-B's encoder per image and of its decoder per 1,024 prompts, kernels and eager."""
    model = PromptedSam(official("vit_b", seed))
    fused, eager = model.kernels(torch.float16, 0.0, _config()), model.encoder(torch.float16)
    images = torch.randn(_BATCH, 3, 1024, 1024, device="cuda")
    encoders = {"kernels": fused.encode, "eager_fp16": eager}
    times = {name: milliseconds(partial(encode, images)) / _BATCH for name, encode in encoders.items()}
    return {"encoder_ms": times, "decoder_ms": decoding(model, fused, images)}


def sam2_parts(seed: int) -> dict[str, Any]:
    """Of SAM 2.1 tiny, whose encoder has no kernels; and whether its decoder's agree with the eager path."""
    from transformers import Sam2Config, Sam2Model

    torch.manual_seed(seed)
    model = PromptedSam2(Sam2Model(Sam2Config(**ARCH["sam2.1_hiera_tiny"])).eval().cuda())
    fused = model.kernels(torch.float16, 0.0, _config())
    images = torch.randn(_BATCH, 3, 1024, 1024, device="cuda")
    return {
        "problem": disagreement(model, fused, torch.float16),
        "encoder_ms": milliseconds(lambda: fused.encode(images)) / _BATCH,
        "decoder_ms": decoding(model, fused, images),
    }


def decoding(model: PromptedModel, fused: FusedSam, images: Tensor) -> dict[str, float]:
    """Milliseconds per 1,024 prompts on an image of 500 x 375: kernels, and the eager path in both types."""
    embedding, frame = fused.encode(images)[0].clone(), model.frame(375, 500)
    points = torch.rand(_PROMPTS, 2, dtype=torch.float64, device="cuda") * frame.side
    ways = {
        "kernels": (fused.decoder, fused.prompts),
        "eager_fp16": (fused.decoder.eager, 256),
        "eager_fp32": (model.decoder(torch.float32), 256),
    }

    def timed(decoder: Any, count: int) -> float:
        image, prompts = decoder.image_tokens(embedding), decoder.prompts(points).split(count)
        rows = rows_needed(frame, decoder.grid[0])
        return milliseconds(lambda: [decoder.all_masks(image, part, rows) for part in prompts])

    return {name: timed(*way) for name, way in ways.items()}


def everything(
    model: str,
    shape: tuple[int, int],
    images: int,
    precisions: Sequence[Precision],
    seed: int,
) -> dict[str, Any]:
    """Images per second of everything mode, and upstream's seconds for one image."""
    sam = official(model, seed)
    height, width = shape
    drawn = [draw_scene(seed, k, max(shape)).image[:height, :width] for k in range(4)]
    inputs: list[Rgb] = [np.ascontiguousarray(image) for image in drawn]
    with masks.DrawnOutputs(seed, "cuda").instead_of(sam):
        upstream = SamAutomaticMaskGenerator(sam)
        upstream.generate(inputs[0])
        peer = fmean(clocked(partial(upstream.generate, image), "cuda")[1] for image in inputs[:2])
        ways = {name: _rate(MaskGenerator(sam, precision=name), inputs, images, peer) for name in precisions}
    return {"upstream_seconds": peer, "images": images, "ways": ways}


def real_masks(seed: int) -> dict[str, Any]:
    """The built-in model in fp32 and fp16 beside upstream in fp32."""
    run = masks.Run("builtin", (256, 256), 32, seed, "cuda", ("fp32", "fp16"), False)
    compared = masks.compare(run)
    keys = ("ratio", "images_per_second", "mean_matched_iou", "identical_masks", "changed_counts")
    ways = {name: {key: way[key] for key in keys} for name, way in compared["precisions"].items()}
    return {"upstream_masks": sum(compared["upstream_masks"]), "ways": ways}


def gem_features(seed: int) -> dict[str, Any]:
    """ViT-B/16 at 448 px."""
    import open_clip

    torch.manual_seed(seed)
    model = open_clip.create_model("ViT-B-16", pretrained=None, pretrained_image=False)
    return gem.measure(model.visual.eval().cuda(), torch.randn(16, 3, 448, 448, device="cuda"), 5)


def training(network: str, channels_last: bool) -> dict[str, Any]:
    """A training step at 321 px, 8 + 8 images; the plain loop has 8 reader processes for each stream."""
    run = train.Run(network, crop=321, batch=8, loaders=8, device="cuda", steps=6)
    step = partial(run.segray, readers=0)
    ways = {name: partial(step, name) for name in train.PRECISIONS}
    ways |= {"auto_ungraphed": partial(step, "auto", graphed=False)}
    if channels_last:
        words = {f"auto_channels_last_{word}": f"train.channels_last={word}" for word in ("true", "false")}
        ways |= {name: partial(step, "auto", word) for name, word in words.items()}
    with torch.inference_mode(False), torch.enable_grad():
        return train.on_gpu(run, ways)


def annotate_by_ray(seed: int, images: int) -> dict[str, Any]:
    """`segray annotate` with ViT-B through Ray, and the bare generator on as many images at once."""
    from benchmarks.gpu_pipeline import annotate

    bare = everything("vit_b", (375, 500), 48, ("fp16",), seed)["ways"]["fp16"]["images_per_second"]
    figures = annotate(partial(official, "vit_b", seed), images)
    return figures | {"bare": bare, "ratio": figures["images_per_second"] / bare}


def train_by_ray() -> dict[str, Any]:
    """`segray train` with SegFormer-B4 through Ray."""
    from benchmarks.gpu_pipeline import train as train_through_ray

    with torch.inference_mode(False), torch.enable_grad():
        return train_through_ray("segformer_b4", 321, 400, 4)


def milliseconds(work: Callable[[], Any]) -> float:
    """The median of some rounds between two events on the device."""
    work()
    times = []
    for _ in range(_ROUNDS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return median(times)


def _rate(generator: MaskGenerator, inputs: list[Rgb], images: int, peer: float) -> dict[str, float]:
    every = (inputs * images)[:images]
    generator.generate(every[:8])
    torch.cuda.reset_peak_memory_stats()
    segments, seconds = clocked(partial(generator.generate, every), "cuda")
    return {
        "images_per_second": images / seconds,
        "ratio": peer * images / seconds,
        "masks": fmean(map(len, segments)),
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
    }


def _all_masks(decoder: MaskDecoder, embedding: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    return decoder.all_masks(decoder.image_tokens(embedding), decoder.prompts(points), _ROWS)


def _config() -> FusedConfig:
    return configuration(torch.cuda.get_device_name())


def plan(seed: int) -> dict[str, Part]:
    """All parts, the most important first."""

    def run(model: str, shape: tuple[int, int], images: int, *precisions: Precision) -> Part:
        return partial(everything, model, shape, images, precisions, seed)

    return {
        "kernels": partial(kernels, seed),
        "parts": partial(parts, seed),
        "vit_b_375": run("vit_b", (375, 500), 48, "fp16", "fp32"),
        "masks": partial(real_masks, seed),
        "training": partial(training, "segformer_b4", channels_last=True),
        "annotate": partial(annotate_by_ray, seed, 1600),
        "train": train_by_ray,
        "training_deeplab": partial(training, "deeplabv3plus_r50", channels_last=True),
        "training_builtin": partial(training, "builtin", channels_last=False),
        "vit_b_1080": run("vit_b", (1080, 1920), 24, "fp16"),
        "gem": partial(gem_features, seed),
        "sam2_parts": partial(sam2_parts, seed),
        "vit_l_375": run("vit_l", (375, 500), 24, "fp16"),
        "vit_h_375": run("vit_h", (375, 500), 24, "fp16"),
    }


@click.command("gpu", cls=Benchmark, help=__doc__)
@click.option("--seconds", default=150.0, show_default=True, help="Start no part after so many.")
@click.option("--part", "chosen", multiple=True, help="Only these parts.")
@click.option("--seed", default=11, show_default=True, callback=fresh, type=int)
@click.option("--out", default=None, type=click.Path(path_type=Path), help="JSON file.")
def main(seconds: float, chosen: tuple[str, ...], seed: int, out: Path | None) -> None:
    """Measure and record, part by part."""
    if not torch.cuda.is_available():
        raise click.UsageError("no GPU that torch can use")
    record: dict[str, Any] = circumstances([seed]) | {"skipped": [], "failed": {}}
    began = time.monotonic()
    for name, part in plan(seed).items():
        if chosen and name not in chosen:
            continue
        if time.monotonic() - began > seconds:
            record["skipped"].append(name)
            continue
        _run(name, part, record)
        write_result(out, record)
        torch.cuda.empty_cache()
    click.echo(f"wrote {write_result(out, record)}")


def _run(name: str, part: Part, record: dict[str, Any]) -> None:
    """One part, into the record; a failure is recorded too, so that the next part has its turn."""
    start = time.monotonic()
    try:
        with torch.inference_mode():
            record[name] = part()
    except Exception as error:  # noqa: BLE001 - whatever goes wrong on a GPU, the other parts count
        record["failed"][name] = f"{type(error).__name__}: {error}"[:500]
    click.echo(f"{name}: {time.monotonic() - start:.1f} s, {record.get(name) or record['failed'].get(name)}")


if __name__ == "__main__":
    main()

"""GEM features: segray's against the published forward written out plainly, same weights, same threads.

    python -m benchmarks.gem --model ViT-B-16 --images 4
    python -m benchmarks.gem --model ViT-B-16 --images 16 --device cuda

The peer does what `gem_torch` 1.0.1 does: every attention of both streams as two products and a softmax
between them, one after the other, and the feed-forward layer of the last block, whose output nothing reads.
Weights are random, as time does not depend on them. `ratio` is the peer's seconds over segray's, one image at
a time; `ratio_batched` has both take all images at once, `ratio_bf16` and
`ratio_fp16` segray in reduced precision too, on a GPU alone.
CPU seconds of one thread, in a process that keeps the memory it frees, as segray's workers do; on a GPU,
seconds between two waits for the device.

`gflop` counts the products of matrices that each needs for an image, `gflop_per_s` is what the first product
of a feed-forward layer reaches, and `best_ratio` the peer's seconds over those that segray's products alone
would take at that speed, about the most that `ratio` can be.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import click
import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.common import (
    DEVICES,
    Benchmark,
    a_device,
    circumstances,
    clocked,
    fresh,
    table,
    write_result,
)
from benchmarks.floor import count
from segray.models.clip.gem import embed, gem_tokens
from segray.models.precision import DTYPES, Precision, rounded
from segray.pipelines.engine.cpu import reuse_freed_memory

_DEPTH = 7
_REDUCED: tuple[Precision, ...] = ("bf16", "fp16")


def plain_gem(visual: Any, images: Tensor) -> Tensor:
    """GEM's tokens [B, 1 + h * w, D], depth 7, one iteration, adaptive temperature."""
    blocks = visual.transformer.resblocks
    x = embed(visual, images)
    for block in blocks[: 1 - _DEPTH]:
        x = block(x)
    gem = x
    for block in blocks[1 - _DEPTH :]:
        y = block.ln_1(x)
        original, self_self = _attend(block.attn, y)
        x = x + block.ls_1(original)
        x = x + block.ls_2(block.mlp(block.ln_2(x)))
        gem = gem + block.ls_1(self_self)
    return visual.ln_post(gem) @ visual.proj


def _attend(attention: Any, y: Tensor) -> tuple[Tensor, Tensor]:
    """The attention of the original stream and that of GEM's."""
    projected = F.linear(y, attention.in_proj_weight, attention.in_proj_bias)
    q, k, v = projected.unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    width = q.shape[-1]
    original = (q @ k.transpose(-2, -1) / math.sqrt(width)).softmax(-1) @ v
    factor = y.norm(dim=-1).mean(-1)[:, None, None, None] / math.sqrt(width)
    outputs = []
    for start in (v, k, q):
        s = F.normalize(start, dim=-1)
        s = (s @ s.transpose(-2, -1) * factor).softmax(-1) @ s
        s = F.normalize(s, dim=-1)
        outputs.append((s @ s.transpose(-2, -1) * factor).softmax(-1) @ v)
    mean = torch.stack(outputs).mean(0)
    return _joined(attention, original), _joined(attention, mean)


def _joined(attention: Any, heads: Tensor) -> Tensor:
    return attention.out_proj(heads.transpose(1, 2).flatten(2))


def measure(visual: Any, images: Tensor, rounds: int) -> dict[str, Any]:
    """Median seconds per image of the ways, taken in turns, and how far apart the tokens are."""
    device = images.device.type
    singles = images.split(1)
    ways: dict[str, Callable[[], Tensor]] = {
        "plain": lambda: torch.cat([plain_gem(visual, image) for image in singles]),
        "segray": lambda: torch.cat([gem_tokens(visual, image) for image in singles]),
        "plain_batched": lambda: plain_gem(visual, images),
        "segray_batched": lambda: gem_tokens(visual, images),
    }
    if device != "cpu":
        for precision in _REDUCED:
            ways[f"segray_{precision}"] = partial(_in_float32, rounded(visual, DTYPES[precision]), images)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    with torch.inference_mode():
        tokens = {name: work() for name, work in ways.items()}
        for _ in range(rounds):
            for name, work in ways.items():
                seconds[name].append(clocked(work, device)[1] / len(images))
    exact = ("segray", "plain_batched", "segray_batched")
    apart = max(float((tokens[name] - tokens["plain"]).abs().max()) for name in exact)
    by_way = {name: median(values) for name, values in seconds.items()}
    return {
        "seconds_per_image": by_way,
        "ratio": by_way["plain"] / by_way["segray"],
        "ratio_batched": by_way["plain_batched"] / by_way["segray_batched"],
        **_rounded_figures(tokens, by_way),
        "max_abs_difference": apart,
        "token_deviation": float(tokens["plain"].std()),
    }


@torch.inference_mode()
def bound(visual: Any, image: Tensor, plain_seconds: float) -> dict[str, Any]:
    """GFLOP of one image in products of matrices, GFLOP/s of a large one, and the ratio that they allow."""
    layer, tokens = visual.transformer.resblocks[0].mlp.c_fc, embed(visual, image)
    fastest = min(clocked(lambda: layer(tokens), image.device.type)[1] for _ in range(10))
    speed = 2 * tokens.shape[1] * layer.weight.numel() / fastest / 1e9
    # Without values no kernel is fused, so that every product is seen.
    hollow, pixels = deepcopy(visual).to("meta"), image.to("meta")
    ways = {"plain": plain_gem, "segray": gem_tokens}
    gflop = {name: 1000 * count(partial(way, hollow, pixels))[0] for name, way in ways.items()}
    return {
        "gflop": gflop,
        "gflop_per_s": speed,
        "best_ratio": plain_seconds * speed / gflop["segray"],
    }


def _in_float32(visual: Any, images: Tensor) -> Tensor:
    return gem_tokens(visual, images).float()


def _rounded_figures(tokens: dict[str, Tensor], seconds: dict[str, float]) -> dict[str, float]:
    """Of reduced precision, where it was measured."""
    figures = {}
    for name in _REDUCED:
        if f"segray_{name}" in tokens:
            cosines = F.cosine_similarity(tokens[f"segray_{name}"], tokens["plain"], dim=-1)
            figures[f"ratio_{name}"] = seconds["plain_batched"] / seconds[f"segray_{name}"]
            figures[f"mean_cosine_{name}"] = float(cosines.mean())
    return figures


@click.command("gem", cls=Benchmark, help=__doc__)
@click.option("--model", default="ViT-B-16", show_default=True, help="A name of open_clip.")
@click.option("--size", default=448, show_default=True, type=click.IntRange(32), help="Side of the input.")
@click.option("--images", default=4, show_default=True, type=click.IntRange(1))
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1))
@click.option("--device", default="cpu", show_default=True, type=DEVICES, callback=a_device)
@click.option("--seed", default=11, show_default=True, callback=fresh, type=int)
@click.option("--out", type=click.Path(path_type=Path), help="JSON file.")
def main(model: str, size: int, images: int, rounds: int, device: str, seed: int, out: Path | None) -> None:
    """Measure, print, record."""
    reuse_freed_memory()
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    visual = open_clip.create_model(model, pretrained=None, pretrained_image=False).visual.eval().to(device)
    inputs = torch.randn(images, 3, size, size, device=device)
    figures = measure(visual, inputs, rounds)
    figures |= bound(visual, inputs[:1], figures["seconds_per_image"]["plain"])
    rows = [[name, f"{seconds:.3f}"] for name, seconds in figures["seconds_per_image"].items()]
    click.echo(f"{model}, {size} x {size}, {device}\n")
    click.echo(table(["", "seconds per image"], rows))
    click.echo(f"\nratio {figures['ratio']:.2f}, batched {figures['ratio_batched']:.2f}")
    for name in _REDUCED:
        if f"ratio_{name}" in figures:
            cosine = figures[f"mean_cosine_{name}"]
            click.echo(f"in {name} {figures[f'ratio_{name}']:.2f}, mean cosine {cosine:.5f}")
    click.echo(
        f"{figures['gflop']['segray']:.0f} of the peer's {figures['gflop']['plain']:.0f} GFLOP an image; at "
        f"{figures['gflop_per_s']:.0f} GFLOP/s and nothing else, ratio {figures['best_ratio']:.2f}"
    )
    click.echo(f"tokens differ by at most {figures['max_abs_difference']:.1e}")
    settings = {"model": model, "size": size, "images": images, "rounds": rounds, "on": device}
    record = circumstances([seed]) | settings | figures
    click.echo(f"wrote {write_result(out, record)}")


if __name__ == "__main__":
    main()

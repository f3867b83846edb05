"""What SAM has to compute and to move for an image on a GPU: operations and bytes counted, nothing timed.

    python -m benchmarks.floor --height 1080 --width 1920

Tensors without values go through segray's own encoder and decoder, 1,024 prompts in chunks of 64. `TFLOP`
counts products of matrices, `GB` what each operation reads and writes where nothing is fused. `floor_ms` is
what an accelerator of the given peaks needs at least, for the greater of the two, one stage after the other:
an estimate from a data sheet, no measurement.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import segment_anything
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import Benchmark, circumstances, table, write_result
from segray.models.precision import DTYPES, Precision, rounded
from segray.models.sam.decoder import MaskDecoder
from segray.models.sam.encoder import encode_images
from segray.models.sam.geometry import frame, rows_needed

_PROMPTS, _CHUNK, _PICTURES = 1024, 64, 4
_aten = torch.ops.aten
_MOVE_NOTHING = {_aten.empty, _aten.empty_like, _aten.new_empty}


class Bytes(TorchDispatchMode):
    """Counts what operations that are no views read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view and func.overloadpacket not in _MOVE_NOTHING:
            # What is written into is also what is returned.
            read = {name: value for name, value in (kwargs or {}).items() if name != "out"}
            tensors = [leaf for leaf in tree_leaves((args, read, out)) if isinstance(leaf, Tensor)]
            self.total += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return out


def _in_place(_: Any, a: list[int], b: list[int], **__: Any) -> int:
    """Operations of [B, n, k] by [B, k, m], added to what is there, which torch's counter leaves out."""
    return 2 * math.prod(a) * b[-1]


def count(work: Callable[[], Any]) -> tuple[float, float]:
    """TFLOP and GB."""
    with (
        FlopCounterMode(display=False, custom_mapping={_aten.baddbmm_: _in_place}) as flops,
        Bytes() as moved,
    ):
        work()
    return flops.get_total_flops() / 1e12, moved.total / 1e9


@torch.inference_mode()
def stages(model: str, precision: Precision, rows: int) -> dict[str, tuple[float, float]]:
    """TFLOP and GB per image of each stage."""
    dtype = DTYPES[precision]
    with torch.device("meta"):
        sam = segment_anything.sam_model_registry[model]().eval()
        images = torch.zeros(_PICTURES, 3, 1024, 1024)
        embedding, points = torch.zeros(256, 64, 64), torch.zeros(_CHUNK, 2)
    trunk, decoder = rounded(sam.image_encoder, dtype), MaskDecoder(sam, dtype)
    encoder = count(lambda: encode_images(sam.image_encoder, images, trunk))
    shared, prompts = decoder.image_tokens(embedding), decoder.prompts(points)
    decoded = count(lambda: decoder.all_masks(shared, prompts, rows))
    return {
        "encoder": (encoder[0] / _PICTURES, encoder[1] / _PICTURES),
        "decoder": (decoded[0] * _PROMPTS / _CHUNK, decoded[1] * _PROMPTS / _CHUNK),
    }


@click.command("floor", cls=Benchmark, help=__doc__)
@click.option("--model", default="vit_b", show_default=True, type=click.Choice(["vit_b", "vit_l", "vit_h"]))
@click.option("--precision", default="bf16", show_default=True, type=click.Choice(list(DTYPES)))
@click.option("--height", default=375, show_default=True, type=click.IntRange(1))
@click.option("--width", default=500, show_default=True, type=click.IntRange(1))
@click.option(
    "--tflops", default=989.0, show_default=True, help="Of the GPU; the default is an H100's in bf16."
)
@click.option("--tb-per-s", default=3.35, show_default=True, help="Of its memory.")
@click.option("--out", type=click.Path(path_type=Path), help="JSON file.")
def main(
    model: str,
    precision: Precision,
    height: int,
    width: int,
    tflops: float,
    tb_per_s: float,
    out: Path | None,
) -> None:
    """Count, print, record."""
    rows = rows_needed(frame(height, width, 1024), 64)
    counts = {
        name: {
            "TFLOP": flop,
            "GB": moved,
            "compute_ms": 1000 * flop / tflops,
            "memory_ms": moved / tb_per_s,
            "floor_ms": max(1000 * flop / tflops, moved / tb_per_s),
        }
        for name, (flop, moved) in stages(model, precision, rows).items()
    }
    body = [[name, *(f"{value:.2f}" for value in figures.values())] for name, figures in counts.items()]
    click.echo(f"{model}, {precision}, {width} x {height}, {rows} of 64 rows\n")
    click.echo(table(["", *next(iter(counts.values()))], body))
    settings = {"model": model, "precision": precision, "height": height, "width": width}
    record = circumstances([]) | settings | {"tflops": tflops, "tb_per_s": tb_per_s, "stages": counts}
    click.echo(f"\nestimated, not measured; wrote {write_result(out, record)}")


if __name__ == "__main__":
    main()

"""SAM 3 as a labeller: what an image costs, and each name, beside one call of the model per name.

    python -m benchmarks.sam3

A network of the released size with random weights: what it computes depends on their shapes alone, but for
the masks of names, which are computed where a name is present. `absent` names end at their presence,
`present` ones get all masks. `one_by_one` is `Sam3Model` called with the image and one name, as it documents.
Seconds of one image on one thread, of one run.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from open_clip.tokenizer import SimpleTokenizer
from transformers import Sam3Config, Sam3Model

from benchmarks.common import RESULTS, Benchmark, circumstances, clocked, fresh, table, write_result
from segray.models.annotators.sam3 import Sam3
from segray.models.annotators.transformers_weights import square
from segray.pipelines.engine.cpu import reuse_freed_memory
from segray.pipelines.scenes.picture_book import draw_scene

_OPTIONS = {"precision": "fp32", "instance_score": 0.3, "max_instances": 30, "prompts_per_batch": None}
_ALL = {"threshold": 0.0, "min_presence": 0.0}
_NONE = {"threshold": 1.0, "min_presence": 1.0}


@torch.inference_mode()
def one_by_one(network: Any, image: Any) -> Any:
    """What upstream computes for a name of an image."""
    ids = SimpleTokenizer(context_length=32)(["name 0"])
    pixels = square(image, (1008, 1008), 1008, (0.5,) * 3, (0.5,) * 3)
    return network(pixel_values=pixels, input_ids=ids, attention_mask=(ids != 0).long())


def measure(names: int, seed: int) -> dict[str, float]:
    """Seconds of each part."""
    torch.manual_seed(seed)
    network = Sam3Model(Sam3Config()).eval()
    image = np.ascontiguousarray(draw_scene(seed, 0, 500).image[:375])

    def seconds(count: int, limits: dict[str, float]) -> float:
        groups = [(), *((f"name {i}",) for i in range(count))]
        labeller = Sam3(network).labeller("cpu", groups, {**_OPTIONS, **limits})
        return clocked(partial(labeller.label, [image]), "cpu")[1]

    first, absent, present = seconds(1, _NONE), seconds(names, _NONE), seconds(names, _ALL)
    absent_name = (absent - first) / (names - 1)
    return {
        "one_by_one": clocked(partial(one_by_one, network, image), "cpu")[1],
        "image": first - absent_name,
        "absent": absent_name,
        "present": absent_name + (present - absent) / names,
    }


@click.command("sam3", cls=Benchmark, help=__doc__)
@click.option("--names", default=5, show_default=True, type=click.IntRange(2))
@click.option("--seed", default=11, show_default=True, callback=fresh, type=int)
@click.option("--out", default=RESULTS / "sam3.json", show_default=True, type=Path)
def main(names: int, seed: int, out: Path) -> None:
    """Measure, print, record."""
    torch.set_num_threads(1)
    reuse_freed_memory()
    parts = measure(names, seed)
    record = circumstances([seed]) | {"names": names, "threads": 1, "seconds": parts}
    click.echo(table(["", "s"], [[name, f"{value:.2f}"] for name, value in parts.items()]))
    click.echo(f"\n{write_result(out, record)}")


if __name__ == "__main__":
    main()

"""Find the fastest configuration of SAM's kernels on this GPU and add it to the table that ships.

    python -m tools.tune_kernels
    python -m tools.tune_kernels --part masks --out table.json

Each candidate runs in a process of its own, because a kernel that a compiler got wrong can take the GPU
context of its process with it. Only candidates that agree with the eager path are timed. Parts are tuned one
after the other, each with the best of those before it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import click
import torch

from segray.models.sam.fused.config import TABLE, configuration, parsed

_TILES = [(64, 4, 1), (64, 4, 2), (64, 4, 3), (128, 8, 1), (128, 8, 2), (32, 4, 1), (32, 4, 2)]
_SECONDS = 120

Values = dict[str, Any]


def _tile(tile: int, warps: int, stages: int) -> Values:
    return {"tile": tile, "warps": warps, "stages": stages}


def candidates() -> dict[str, list[Values]]:
    """For each part what to change in the configuration, as nested values."""
    tiles = [_tile(*sizes) for sizes in _TILES]
    masks = [tile | {"gelu": gelu, "programs": 4} for tile, gelu in product(tiles, ("tanh", "sigmoid"))]
    globals_ = [
        {"global_queries": queries, "global_warps": warps, "global_stages": stages}
        for queries, warps, stages in [(64, 4, 2), (64, 4, 3), (128, 8, 2), (128, 8, 3), (128, 4, 2)]
    ]
    windows = [
        {"window_queries": queries, "window_keys": keys, "window_warps": warps, "window_stages": stages}
        for queries, keys, warps, stages in [(64, 64, 4, 1), (64, 32, 4, 2), (64, 64, 4, 2), (128, 64, 8, 1)]
    ]
    blocks = [(block, way) for block in ("first", "second") for way in ("write", "read")]
    return {
        "global": [{"encoder": values} for values in globals_],
        "window": [{"encoder": values} for values in windows],
        **{f"{b}.{way}": [{"decoder": {b: {way: tile}}} for tile in tiles] for b, way in blocks},
        "masks": [{"decoder": {"masks": values}} for values in masks],
        "prompts": [{"decoder": {"prompts": count}} for count in (256, 512, 1024)],
    }


def merged(old: Values, new: Values) -> Values:
    """`old` with the leaves of `new`."""
    branches = {
        key: merged(old.get(key) or {}, value) for key, value in new.items() if isinstance(value, dict)
    }
    return old | new | branches


def attempt(values: Values) -> float | None:
    """Milliseconds of a configuration in a process of its own; None if it fails or disagrees."""
    command = [sys.executable, "-m", "tools.tune_kernels", "--attempt", json.dumps(values)]
    try:
        done = subprocess.run(  # noqa: S603 - this program itself
            command, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return None
    return float(done.stdout) if done.returncode == 0 else None


@torch.inference_mode()
def measure(values: Values) -> float:
    """Milliseconds of four encoded images and 1,024 decoded prompts.

    Raises:
        click.ClickException: the kernels disagree with the eager path.
    """
    from benchmarks.gpu import milliseconds, official
    from segray.models.sam.fused.check import disagreement
    from segray.models.sam.fused.config import FusedConfig
    from segray.models.sam.prompted import PromptedSam

    model, config = PromptedSam(official("vit_b", 0)), parsed(FusedConfig, values)
    fused = model.kernels(torch.float16, 0.0, config)
    if problem := disagreement(model, fused, torch.float16):
        raise click.ClickException(problem)
    images = torch.randn(4, 3, 1024, 1024, device="cuda")
    points = torch.rand(1024, 2, dtype=torch.float64, device="cuda") * 1024
    image = fused.decoder.image_tokens(fused.encode(images)[0].clone())
    prompts = fused.decoder.prompts(points)
    chunks = prompts.split(config.decoder.prompts)
    encoding = milliseconds(lambda: fused.encode(images))
    return encoding + milliseconds(lambda: [fused.decoder.all_masks(image, part, 48) for part in chunks])


def tuned(start: Values, parts: dict[str, list[Values]]) -> Iterator[tuple[str, Values, float | None]]:
    """(part, configuration, milliseconds) of each attempt; the best so far is the base of the next ones."""
    best, fastest = start, attempt(start)
    yield "start", start, fastest
    for part, changes in parts.items():
        for values in [merged(best, change) for change in changes]:
            taken = attempt(values)
            yield part, values, taken
            if taken is not None and (fastest is None or taken < fastest):
                best, fastest = values, taken


def add_row(table: Path, gpu: str, row: Values) -> None:
    """Write a GPU model's row; those of other models stay."""
    rows = json.loads(table.read_text(encoding="utf-8")) if table.exists() else {}
    text = json.dumps(rows | {gpu: row}, indent=2, sort_keys=True)
    table.write_text(text + "\n", encoding="utf-8")


@click.command(help=__doc__)
@click.option("--part", "chosen", multiple=True, type=click.Choice(list(candidates())), help="Default: all.")
@click.option("--out", default=TABLE, show_default=True, type=click.Path(path_type=Path))
@click.option("--attempt", "values", hidden=True)
def main(chosen: tuple[str, ...], out: Path, values: str | None) -> None:
    """Tune, print, write."""
    if values is not None:
        click.echo(measure(json.loads(values)))
        return
    gpu = torch.cuda.get_device_name()
    parts = {name: changes for name, changes in candidates().items() if not chosen or name in chosen}
    best, fastest = asdict(configuration(gpu)), float("inf")
    for part, config, taken in tuned(best, parts):
        click.echo(f"{part:<14}{'-' if taken is None else f'{taken:.2f} ms':>10}  {json.dumps(config)}")
        if taken is not None and taken < fastest:
            best, fastest = config, taken
    if fastest == float("inf"):
        raise click.ClickException(
            f"no configuration agrees with the eager path on {gpu}: no row was written"
        )
    add_row(out, gpu, best)
    click.echo(f"{gpu}: {fastest:.2f} ms, written to {out}")


if __name__ == "__main__":
    main()

"""Train the two built-in picture-book models and save them as safetensors.

    python -m tools.train_builtin sam --steps 2000
    python -m tools.train_builtin clip --steps 3000

SAM learns from exact masks, with the losses of its paper (mask, dice, predicted IoU; the best of three masks
counts). CLIP learns from image-level captions alone: which things a scene holds, never where.
A run that was stopped goes on from its last state (`--work`), and ends where an undisturbed one would.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from models.builtin.arch import CLIP_ARCH, SAM_ARCH, build_picture_book_clip, build_picture_book_sam
from tools.clip_task import ClipTask
from tools.sam_task import SamTask, sharpen

BUILTIN = Path(__file__).resolve().parents[1] / "models" / "builtin"


def schedule(step: int, steps: int, peak: float, warmup: int = 100, cooldown: float = 0.3) -> float:
    """Warm up, stay at the peak, then fall linearly over the last share of the steps.

    The long plateau lets `--steps` be chosen late: two runs agree up to the cool-down of the shorter one.
    """
    rise = min(1.0, (step + 1) / warmup)
    fall = min(1.0, (steps - step) / (cooldown * steps))
    return peak * rise * fall


def train(
    model: nn.Module,
    loss_of: Callable[[int], tuple[Tensor, dict[str, float]]],
    *,
    steps: int,
    peak: float,
    work: Path,
) -> None:
    """AdamW with a warm-up, a plateau and a linear cool-down; the state is kept in `work` every 100 steps."""
    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.02}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.98))
    first = _restore(work, model, optimiser)
    began = time.perf_counter()
    running: dict[str, float] = {}
    for step in range(first, steps):
        for group in optimiser.param_groups:
            group["lr"] = schedule(step, steps, peak)
        loss, parts = loss_of(step)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        running = {k: 0.95 * running.get(k, v) + 0.05 * v for k, v in parts.items()}
        if (step + 1) % 25 == 0:
            figures = "  ".join(f"{k} {v:.4f}" for k, v in running.items())
            seconds = (time.perf_counter() - began) / (step + 1 - first)
            print(f"step {step + 1}/{steps}  {seconds:.2f} s/step  {figures}", flush=True)
        if (step + 1) % 100 == 0:
            _keep(work, model, optimiser, step + 1)


def _keep(work: Path, model: nn.Module, optimiser: torch.optim.Optimizer, step: int) -> None:
    temporary = work.with_suffix(".tmp")
    torch.save({"model": model.state_dict(), "optimiser": optimiser.state_dict(), "step": step}, temporary)
    temporary.replace(work)


def _restore(work: Path, model: nn.Module, optimiser: torch.optim.Optimizer) -> int:
    if not work.exists():
        return 0
    state = torch.load(work, weights_only=True)
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["step"])


def save(model: nn.Module, path: Path, arch: dict[str, Any], card: dict[str, Any]) -> None:
    """Half precision on disk; figures must therefore be measured on the saved file, loaded again."""
    tensors = {
        k: v.half().contiguous() if v.is_floating_point() else v for k, v in model.state_dict().items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={"segray": json.dumps({"arch": arch, **card})})
    if path.parent == BUILTIN:
        files = sorted(BUILTIN.glob("*.safetensors"))
        sums = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files]
        (BUILTIN / "SHA256SUMS").write_text("".join(sums))
    print(f"saved {path} ({path.stat().st_size / 1e6:.1f} MB)")


@click.command(help=__doc__)
@click.argument("which", type=click.Choice(["sam", "clip"]))
@click.option("--steps", default=2000, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--batch", default=None, type=int, help="Images a step; SAM 8, CLIP 32.")
@click.option("--threads", default=1, show_default=True)
@click.option("--bf16/--fp32", default=False, show_default=True, help="bfloat16 autocast.")
@click.option("--work", default=None, type=Path, help="File for the state of the run.")
@click.option("--out", default=None, type=Path, help="File for the weights; default: the built-in one.")
def main(
    which: str,
    steps: int,
    seed: int,
    batch: int | None,
    threads: int,
    bf16: bool,
    work: Path | None,
    out: Path | None,
) -> None:
    """Train one model and save it."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    batch = batch or {"sam": 8, "clip": 32}[which]
    arch = {"sam": SAM_ARCH, "clip": CLIP_ARCH}[which]
    build = {"sam": build_picture_book_sam, "clip": build_picture_book_clip}[which]
    model = build(arch).train()
    task = SamTask(model, seed, batch) if which == "sam" else ClipTask(model, seed, batch)

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return task.loss(step)

    work = work or Path(f"train_builtin_{which}.state")
    train(model, loss_of, steps=steps, peak=task.peak, work=work)
    if which == "sam":
        sharpen(model)
    card = {"steps": steps, "seed": seed, "batch": batch, "precision": "bf16" if bf16 else "fp32"}
    save(model.eval(), out or BUILTIN / f"picture_book_{which}.safetensors", arch, card)


if __name__ == "__main__":
    main()

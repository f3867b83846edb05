"""Train the two built-in picture-book models and save them as safetensors.

    python -m tools.train_builtin sam --steps 2000
    python -m tools.train_builtin clip --steps 3000
    python -m tools.train_builtin sam --start FIRST.safetensors --seed 1 --steps 1500

SAM learns from exact masks, with the losses of its paper (mask, dice, predicted IoU; the best of three masks
counts). CLIP learns from image-level captions alone: which things a scene holds, never where.
A run that was stopped goes on from its last state (`--work`), and ends where an undisturbed one would.
A second run can start from the weights of a first one (`--start`); its seed gives it scenes of its own.
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
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from segray.models.builtin.arch import CLIP_ARCH, SAM_ARCH, build_builtin_clip, build_builtin_sam
from tools.clip_task import ClipTask
from tools.sam_task import SHARPEN, SamTask, sharpen

BUILTIN = Path(__file__).resolve().parents[1] / "models" / "builtin"


def schedule(step: int, steps: int, peak: float, cooldown: float, warmup: int = 100) -> float:
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
    cooldown: float,
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
            group["lr"] = schedule(step, steps, peak, cooldown)
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


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def save(model: nn.Module, path: Path, arch: dict[str, Any], card: dict[str, Any]) -> None:
    """Half precision on disk; figures must therefore be measured on the saved file, loaded again."""
    tensors = {
        k: v.half().contiguous() if v.is_floating_point() else v for k, v in model.state_dict().items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={"segray": json.dumps({"arch": arch, **card})})
    if path.parent == BUILTIN:
        files = sorted(BUILTIN.glob("*.safetensors"))
        sums = [f"{_digest(file)}  {file.name}\n" for file in files]
        (BUILTIN / "SHA256SUMS").write_text("".join(sums))
    print(f"saved {path} ({path.stat().st_size / 1e6:.1f} MB)")


@click.command(help=__doc__)
@click.argument("which", type=click.Choice(["sam", "clip"]))
@click.option("--steps", default=2000, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--batch", default=None, type=int, help="Images a step; SAM 8, CLIP 32.")
@click.option("--size", default=None, type=int, help="Side of CLIP's training images in pixels.")
@click.option("--peak", default=None, type=float, help="Learning rate; SAM 0.001, CLIP 0.002.")
@click.option("--cooldown", default=0.3, show_default=True, help="Share of the steps in which it falls to 0.")
@click.option("--start", default=None, type=Path, help="Weights of an earlier run to start from.")
@click.option("--threads", default=1, show_default=True)
@click.option("--bf16/--fp32", default=False, show_default=True, help="bfloat16 autocast.")
@click.option("--work", default=None, type=Path, help="File for the state of the run.")
@click.option("--out", default=None, type=Path, help="File for the weights; default: the built-in one.")
def main(
    which: str,
    steps: int,
    seed: int,
    batch: int | None,
    size: int | None,
    peak: float | None,
    cooldown: float,
    start: Path | None,
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
    build = {"sam": build_builtin_sam, "clip": build_builtin_clip}[which]
    model = build(arch).train()
    if start:
        model.load_state_dict({k: v.float() for k, v in load_file(start).items()})
    if start and which == "sam":
        sharpen(model, 1 / SHARPEN)
    task = SamTask(model, seed, batch) if which == "sam" else ClipTask(model, seed, batch, size)

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return task.loss(step)

    work = work or Path(f"train_builtin_{which}.state")
    peak = peak or task.peak
    train(model, loss_of, steps=steps, peak=peak, cooldown=cooldown, work=work)
    if which == "sam":
        sharpen(model, SHARPEN)
    card = {
        "steps": steps,
        "seed": seed,
        "batch": batch,
        "precision": "bf16" if bf16 else "fp32",
        "size": task.size,
        "peak": peak,
        "cooldown": cooldown,
        "start": _digest(start) if start else None,
    }
    save(model.eval(), out or BUILTIN / f"{which}.safetensors", arch, card)


if __name__ == "__main__":
    main()

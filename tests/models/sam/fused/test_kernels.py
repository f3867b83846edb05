"""Kernels without a GPU: by Triton's interpreter against the eager path, and compiled for three GPUs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[4]

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")


@pytest.mark.parametrize(
    "name",
    [
        "decoders",
        "sam2",
        "thresholds",
        "approximate_gelu",
        pytest.param("encoders", marks=pytest.mark.slow),
        "norms",
    ],
)
def test_kernels_compute_what_the_eager_path_does(name: str) -> None:
    interpret(name)


@pytest.mark.slow
def test_the_check_of_a_worker_finds_a_wrong_kernel() -> None:
    interpret("checks")


def interpret(name: str) -> None:
    """In a process of its own: Triton reads whether to interpret when it is imported."""
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.models.sam.fused.kernel_program", name]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "the same\n"


SHARED_BYTES = {80: 166_912, 89: 101_376, 90: 232_448}
"""Of a block, the most that a GPU of this capability has."""

TOO_LARGE = ("second_block._second_block", 89)
"""The write of the second block: GPUs of capability 8.9 take the eager path for want of shared memory."""

SPILLED_BYTES = 3_000
"""Per thread. The kernel that makes logits spills about 2,800 on 8.0; on 9.0 none spills over 200."""

_MODEL = {
    "CHANNELS": 256,
    "INTERNAL": 128,
    "HEADS": 8,
    "SLOTS": 8,
    "TOKENS": 7,
    "PRECISION": "tf32x3",
    "TILE": 64,
    "COLUMNS": 64,
    "FEATURES": 64,
    "MAPPED": False,
}
_SECOND = {"ASKED_SLOTS": 4, "ASKED": 4}
KERNELS: list[tuple[str, dict[str, Any]]] = [
    ("first_block._first_block", {"WRITE": True, "READ": False}),
    ("first_block._first_block", {"WRITE": False, "READ": True}),
    ("second_block._second_block", {"WRITE": True, "READ": False, **_SECOND}),
    ("second_block._second_block", {"WRITE": False, "READ": True, **_SECOND}),
    ("first_block._first_block", {"WRITE": True, "READ": False, "TOKENS": 8}),
    ("second_block._second_block", {"WRITE": True, "READ": False, **_SECOND, "TOKENS": 8}),
    ("masks_kernel._upscaled_logits", {"GELU": "sigmoid"}),
    ("masks_kernel._upscaled_logits", {"GELU": "tanh"}),
    ("masks_kernel._upscaled_logits", {"GELU": "sigmoid", "MAPPED": True}),
    ("attention._global_attention", {"HEAD": 64, "CHANNELS": 64, "QUERIES": 64, "KEYS": 64}),
    ("attention._global_attention", {"HEAD": 80, "CHANNELS": 128, "QUERIES": 64, "KEYS": 64}),
    (
        "attention._window_attention",
        {"HEAD": 64, "CHANNELS": 64, "SIDE": 14, "SLOTS": 16, "TERMS": 16, "QUERIES": 64, "KEYS": 64},
    ),
    ("norm._residual_norm", {"HAS_ADDED": True, "BLOCK": 1024}),
]
_FLOATS = {"xsq", "xgsq", "xc", "rstd", "rstd1", "rstd2", "read", "norm_weight"}
_FLOATS |= {"norm_bias", "bias", "logits"}
_WHOLE = {"length", "pushed_stride", "pushed1_stride", "pushed2_stride", "needed", "width", "height"}
_WHOLE |= {"rel_stride", "columns_at", "heads", "across", "channels"}


def kind(name: str, values: dict[str, Any]) -> str:
    """Of a kernel's argument, as Triton's compiler names it; what SAM 2 adds are maps, not float32 biases."""
    if name in {"added1", "added2"}:
        return "*fp16" if values["MAPPED"] else "*fp32"
    if name in _WHOLE:
        return "i32"
    if name in {"eps", "scale"}:
        return "fp32"
    return "*u8" if name == "flags" else "*fp32" if name in _FLOATS else "*fp16"


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 89, 90])
@pytest.mark.parametrize(("kernel", "constants"), KERNELS)
def test_the_safe_row_fits_gpus_that_are_not_here(
    kernel: str, constants: dict[str, Any], capability: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interpreter takes what the compiler refuses, and has registers and memory without end."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    module, name = kernel.split(".")
    function = getattr(import_module(f"segray.models.sam.fused.{module}"), name)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    fixed = [parameter.name for parameter in function.params if parameter.is_constexpr]
    values = {key: {**_MODEL, **constants}[key] for key in fixed}
    signature = {key: "constexpr" if key in fixed else kind(key, values) for key in function.arg_names}
    aligned = [k for k, key in enumerate(function.arg_names) if signature[key] not in {"constexpr", "fp32"}]
    attributes = {(k,): [["tt.divisibility", 16]] for k in aligned}
    source = ASTSource(fn=function, signature=signature, constexprs=values, attrs=attributes)
    options = {"num_warps": 4, "num_stages": 2 if name == "_global_attention" else 1}
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    fits = compiled.metadata.shared <= SHARED_BYTES[capability]
    assert fits or ((kernel, capability) == TOO_LARGE and values["WRITE"])
    assert spilled(compiled.asm["ptx"], capability, tmp_path) <= SPILLED_BYTES


def spilled(ptx: str, capability: int, folder: Path) -> int:
    """Bytes of registers that each thread stores for want of room, by the assembler that Triton brings."""
    from triton import knobs

    (folder / "kernel.ptx").write_text(ptx)
    arch = f"sm_{capability}{'a' if capability == 90 else ''}"
    command = [knobs.nvidia.ptxas.path, "-v", f"-arch={arch}", "kernel.ptx", "-o", "kernel.cubin"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    found = re.search(r"(\d+) bytes spill stores", done.stderr)
    assert found is not None
    return int(found[1])

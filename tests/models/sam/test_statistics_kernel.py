from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from segray.models.sam.geometry import resampling

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")


def test_the_kernel_finds_what_the_matrices_do() -> None:
    """In a process of its own: Triton asks for its interpreter when it is imported."""
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.models.sam.kernel_program"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "the same\n"


@pytest.mark.parametrize(("samples", "side", "pixels"), [(256, 1024, 1080), (256, 1024, 375), (96, 192, 60)])
def test_interpolation_weights_equal_the_matrix(samples: int, side: int, pixels: int) -> None:
    from segray.models.sam.statistics_kernel import interpolation_weights

    matrix = resampling(samples, side, side * 3 // 4, pixels)
    taps = interpolation_weights(matrix, torch.device("cpu"))
    assert taps.weights.shape == (pixels, 3)
    index = taps.first[:, None].long() + torch.arange(3)
    assert torch.equal(torch.zeros_like(matrix).scatter(1, index, taps.weights), matrix)


@pytest.mark.parametrize("capability", [80, 90])
def test_the_kernel_compiles_for_gpus_that_are_not_here(
    capability: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interpreter takes what the compiler refuses, such as a name that changes its shape in a loop."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from segray.models.sam.statistics_kernel import _statistics

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kinds = dict.fromkeys(("samples_y", "samples_x", "height", "width"), "i32")
    kinds |= dict.fromkeys(("cut", "high", "low"), "fp32")
    kinds |= {"keep": "*u8", "y_first": "*i32", "x_first": "*i32", "out": "*i32"}
    constants = {"Y_TAPS": 3, "X_TAPS": 3, "ROWS": 16, "COLUMNS": 64}
    kinds |= dict.fromkeys(constants, "constexpr")
    signature = {name: kinds.get(name, "*fp32") for name in _statistics.arg_names}
    source = ASTSource(fn=_statistics, signature=signature, constexprs=constants)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32))
    assert f".target sm_{capability}" in compiled.asm["ptx"]

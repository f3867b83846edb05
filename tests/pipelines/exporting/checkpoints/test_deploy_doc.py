"""The code of docs/deploy.md runs, without segray where it says so, and finds what `predict` finds."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import segray
from tests.pipelines.trained_network import write_run

DOCUMENT = Path(__file__).parents[4] / "docs" / "deploy.md"
TEXT = DOCUMENT.read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"^## (.*?)\n.*?```python\n(.*?)```", TEXT, re.M | re.S))
COMMANDS = re.findall(r"^segray (export .*?)(?: +#.*)?$", TEXT, re.M)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the commands in the document, and an image."""
    folder = tmp_path_factory.mktemp("deploy")
    write_run(folder / "run", window=96)
    noise = np.random.default_rng(0).integers(0, 255, (12, 16, 3), np.uint8)
    Image.fromarray(noise).resize((128, 96), Image.Resampling.BICUBIC).save(folder / "photo.png")
    return folder


def export(folder: Path, form: str) -> None:
    command = next(line for line in COMMANDS if line.endswith(f"format={form}"))
    keys = dict(word.split("=", 1) for word in command.split()[1:])
    places = {name: folder / keys.pop(name) for name in ("checkpoint", "out")}
    segray.export(**places, **keys)


def run(folder: Path, *titles: str) -> dict[str, Any]:
    code = "\n".join(BLOCKS[title] for title in titles)
    keep = "\nnp.savez('found.npz', label=label, large=globals().get('large', 0))"
    code = "import numpy as np\n" + code
    if "import segray" not in code:
        code = "import sys; sys.modules['segray'] = None\n" + code
    subprocess.run([sys.executable, "-c", code + keep], cwd=folder, check=True, timeout=300)
    return dict(np.load(folder / "found.npz"))


def expected(folder: Path, image: Any, window: int | None = 0) -> Any:
    return segray.load_network(folder / "run", window=window).predict(image)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("title", "form"),
    [("TorchScript", "torchscript"), ("torch.export", "torch-export"), ("Safetensors", "safetensors")],
)
def test_torch_alone(folder: Path, title: str, form: str) -> None:
    export(folder, form)
    window = None if form == "safetensors" else 0
    assert np.array_equal(run(folder, title)["label"], expected(folder, folder / "photo.png", window))


@pytest.mark.slow
def test_onnxruntime_and_numpy_with_windows(folder: Path) -> None:
    export(folder, "onnx")
    found = run(folder, "ONNX", "Large images")
    image = np.asarray(Image.open(folder / "photo.png"))
    assert (found["label"] == expected(folder, image)).mean() > 0.999
    large = expected(folder, np.tile(image, (2, 2, 1)), window=None)
    assert len(np.unique(large)) > 1
    assert (found["large"] == large).mean() > 0.95

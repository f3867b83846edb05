"""Networks in the files of `segray export checkpoint=`, run by the libraries that people run them with."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import load
from torch import Tensor

from segray.models.segmenters.base import Segmenter
from segray.models.segmenters.portable import MIN_SIDE, PIXELS, Pixels, PortableNetwork
from segray.pipelines.exporting.checkpoints.formats import FORMATS, quiet

GRAPHS = [name for name, form in FORMATS.items() if form.has_graph]
SIZES = [(1, 3, MIN_SIDE, MIN_SIDE), (3, 3, 121, 71)]
"""Two sizes, of two batches: the least, and one that fits no stride."""
TOLERANCE = 1e-3

Run = Callable[[Tensor], Tensor]


def read_onnx(data: bytes) -> tuple[Run, dict[str, Any]]:
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    described = json.loads(session.get_modelmeta().custom_metadata_map["segray"])
    return lambda x: torch.from_numpy(session.run(["logits"], {"images": x.numpy()})[0]), described


def read_torchscript(data: bytes) -> tuple[Run, dict[str, Any]]:
    files = {"segray.json": ""}
    module = torch.jit.load(io.BytesIO(data), _extra_files=files)
    return module, json.loads(files["segray.json"])


def read_torch_export(data: bytes) -> tuple[Run, dict[str, Any]]:
    files = {"segray.json": ""}
    program = torch.export.load(io.BytesIO(data), extra_files=files)
    return program.module(), json.loads(files["segray.json"])


def read_safetensors(data: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return load(data), json.loads(header["__metadata__"]["segray"])


READERS = {"onnx": read_onnx, "torchscript": read_torchscript, "torch-export": read_torch_export}


def pixels(shape: tuple[int, ...], kind: Pixels = "uint8") -> Tensor:
    torch.manual_seed(1)
    dtype, most = PIXELS[kind]
    return (torch.rand(shape) * most).to(dtype)


@torch.no_grad()
def check_equal(network: Segmenter, name: str, kind: Pixels = "uint8") -> None:
    """The file's logits are the network's own, at other sizes than it was recorded with."""
    portable = PortableNetwork(network, kind)
    with quiet():
        data = FORMATS[name].encode(portable, '{"classes": ["Fußgänger"]}')
    run, described = READERS[name](data)
    assert described == {"classes": ["Fußgänger"]}
    for shape in SIZES:
        images = pixels(shape, kind)
        normal = images.float() / PIXELS[kind][1]
        mean, std = (torch.tensor(value)[:, None, None] for value in (network.mean, network.std))
        expected, logits = network((normal - mean) / std), run(images)
        assert logits.dtype == torch.float32
        assert logits.shape == expected.shape
        assert expected.std() > 20 * TOLERANCE
        torch.testing.assert_close(logits, expected, atol=TOLERANCE, rtol=0)

"""The formats of `segray export checkpoint=`: a network and its description as the bytes of one file."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from safetensors.torch import save
from torch.export import Dim, ExportedProgram

from segray.models.segmenters.portable import PortableNetwork
from segray.pipelines.training.single_file import KEY

FILE = "segray.json"
"""Of the description in the archives of torch."""
INPUT, OUTPUT = "images", "logits"
_OPSET = 18


@dataclass(frozen=True)
class CheckpointFormat:
    """A format.

    Attributes:
        encode: network and description -> the bytes of the file.
        needs: packages beyond segray's own.
        has_graph: the file computes; else it holds weights alone.
    """

    encode: Callable[[PortableNetwork, str], bytes]
    needs: tuple[str, ...] = ()
    has_graph: bool = True

    def missing(self) -> str | None:
        """The first package that is not installed."""
        return next((name for name in self.needs if find_spec(name) is None), None)


def _safetensors(network: PortableNetwork, description: str) -> bytes:
    tensors = {name: value.contiguous() for name, value in network.network.state_dict().items()}
    # One key: safetensors writes several in an order of its own, other bytes each time.
    return save(tensors, {KEY: description})


def _torchscript(network: PortableNetwork, description: str) -> bytes:
    with torch.inference_mode(False), torch.no_grad():
        traced = torch.jit.trace(network, network.example(), check_trace=False)
    file = io.BytesIO()
    torch.jit.save(traced, file, _extra_files={FILE: description})
    return file.getvalue()


def _torch_export(network: PortableNetwork, description: str) -> bytes:
    file = io.BytesIO()
    torch.export.save(_program(network), file, extra_files={FILE: description})
    return file.getvalue()


def _onnx(network: PortableNetwork, description: str) -> bytes:
    names = [INPUT], [OUTPUT]
    exported = torch.onnx.export(
        _program(network), input_names=names[0], output_names=names[1], opset_version=_OPSET, verbose=False
    )
    assert exported is not None
    model = exported.model_proto
    model.producer_name = KEY
    model.metadata_props.add(key=KEY, value=description)
    for value in (*model.graph.input, *model.graph.output):
        _name_axes(value)
    return model.SerializeToString()


def _name_axes(value: Any) -> None:
    batch, _, height, width = value.type.tensor_type.shape.dim
    batch.dim_param, height.dim_param, width.dim_param = "batch", "height", "width"


def _program(network: PortableNetwork) -> ExportedProgram:
    free = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    with torch.no_grad():
        return torch.export.export(network, (network.example(),), dynamic_shapes=(free,))


@contextmanager
def quiet() -> Iterator[None]:
    """Without what torch's exporters say about themselves."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


FORMATS: dict[str, CheckpointFormat] = {
    "safetensors": CheckpointFormat(_safetensors, has_graph=False),
    "onnx": CheckpointFormat(_onnx, ("onnx", "onnxscript")),
    "torchscript": CheckpointFormat(_torchscript),
    "torch-export": CheckpointFormat(_torch_export),
}
"""A new format is a function, a line here, and its name in `ExportConfig.format`."""

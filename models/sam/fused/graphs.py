"""Functions of fixed shapes as CUDA graphs: the CPU launches one thing instead of a hundred."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from segray.models.messages import first_line

_LOG = logging.getLogger(__name__)

_Function = Callable[..., tuple[Tensor, ...]]
_Shapes = tuple[torch.Size, ...]


class Graphed:
    """A function of tensors on a GPU, captured for the first `limit` combinations of input shapes.

    Results of a captured call are valid until the next one with these shapes. Other shapes, and a function
    that cannot be captured, are called as they are.

    Args:
        function: tensors to tensors; no shape and no branch in it may depend on a value.
        limit: graphs to keep; each holds its own memory.
    """

    def __init__(self, function: _Function, limit: int) -> None:
        self._function, self._limit = function, limit
        self._captured: dict[_Shapes, tuple[torch.cuda.CUDAGraph, list[Tensor], tuple[Tensor, ...]]] = {}

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The function's results."""
        shapes = tuple(value.shape for value in inputs)
        if shapes not in self._captured and not self._capture(shapes, inputs):
            return self._function(*inputs)
        graph, buffers, outputs = self._captured[shapes]
        for buffer, value in zip(buffers, inputs, strict=True):
            buffer.copy_(value)
        graph.replay()
        return outputs

    def _capture(self, shapes: _Shapes, inputs: tuple[Tensor, ...]) -> bool:
        """Whether there is a graph for these shapes now."""
        if inputs[0].device.type != "cuda" or len(self._captured) >= self._limit:
            return False
        buffers, graph = [value.clone() for value in inputs], torch.cuda.CUDAGraph()
        self._warm_up(buffers)
        try:
            # Other threads may pin memory meanwhile.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                outputs = self._function(*buffers)
        except RuntimeError as error:
            _LOG.warning("SAM's kernels are launched one by one: %s", first_line(error))
            self._limit = 0
            return False
        self._captured[shapes] = (graph, buffers, outputs)
        return True

    def _warm_up(self, buffers: list[Tensor]) -> None:
        """Compile kernels and let libraries choose theirs, on a stream of its own, as a capture does."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                self._function(*buffers)
        torch.cuda.current_stream().wait_stream(stream)

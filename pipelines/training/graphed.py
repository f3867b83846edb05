"""A student whose forward and backward pass are CUDA graphs: one launch each instead of thousands.

A network of many small operations is computed faster than Python can launch it. The shapes of a step never
change, so its operations are recorded in the first step and replayed in the others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from segray.models.messages import first_line
from segray.models.semi.student import Drops, Logits, Student

Layout = tuple[bool, int, int, tuple[int, ...], bool]
"""Is there a weak view; how many strong views, maps with drops, these in each strong view; predict weak?"""

Replay = Callable[..., tuple[Tensor, ...]]

_log = logging.getLogger(__name__)


class GraphedStudent:
    """A `Student` in training mode on one GPU, called with inputs of the same shapes each time.

    Gradients of two calls must not be added up: a replay overwrites those of the call before. Where the first
    call cannot be recorded, all are computed operation by operation, after one warning.
    """

    def __init__(self, student: Student) -> None:
        self._student = student
        self._layout: Layout | None = None
        self._replay: Replay | None = None

    def __call__(
        self,
        labelled: Tensor,
        weak: Tensor | None,
        strong: tuple[Tensor, ...],
        drops: Drops,
        *,
        predict_weak: bool = True,
    ) -> Logits:
        """As `Student.forward`."""
        layout = (weak is not None, len(strong), len(drops.feature), _sizes(drops), predict_weak)
        tensors = (labelled, *(() if weak is None else (weak,)), *strong, *_flat(drops))
        if self._layout is None:
            self._layout = layout
            self._replay = _recorded(FlatStudent(self._student, layout), tensors)
        if self._replay is None:
            return self._student(labelled, weak, strong, drops, predict_weak=predict_weak)
        assert layout == self._layout, "a step of another layout"
        return unflattened(self._replay(*tensors), layout)


class FlatStudent(nn.Module):
    """A `Student` of tensors alone, as CUDA graphs take them."""

    def __init__(self, student: Student, layout: Layout) -> None:
        super().__init__()
        self.student, self._layout = student, layout

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The logits that there are: labelled, weak, feature, each strong view."""
        has_weak, n_strong, n_feature, sizes, predict_weak = self._layout
        rest = list(tensors)

        def take(count: int) -> tuple[Tensor, ...]:
            taken, rest[:] = tuple(rest[:count]), rest[count:]
            return taken

        (labelled,), weak, strong = take(1), take(int(has_weak)), take(n_strong)
        drops = Drops(take(n_feature), tuple(take(size) for size in sizes))
        logits = self.student(labelled, weak[0] if weak else None, strong, drops, predict_weak=predict_weak)
        parts = (logits.labelled, logits.weak, logits.feature, *logits.strong)
        return tuple(part for part in parts if part is not None)


def unflattened(tensors: tuple[Tensor, ...], layout: Layout) -> Logits:
    """The logits that `FlatStudent` returns, by name."""
    has_weak, _, n_feature, _, predict_weak = layout
    rest = list(tensors)
    labelled = rest.pop(0)
    weak = rest.pop(0) if has_weak and predict_weak else None
    feature = rest.pop(0) if n_feature else None
    return Logits(labelled, weak, feature, tuple(rest))


def _sizes(drops: Drops) -> tuple[int, ...]:
    return tuple(len(view) for view in drops.strong)


def _flat(drops: Drops) -> tuple[Tensor, ...]:
    return (*drops.feature, *(factor for view in drops.strong for factor in view))


def _recorded(student: FlatStudent, tensors: tuple[Tensor, ...]) -> Replay | None:
    """The student as graphs; None, with a warning, where it cannot be recorded."""
    buffers = list(student.buffers())
    saved = [buffer.clone() for buffer in buffers]
    samples = tuple(tensor.clone() for tensor in tensors)
    dtype, enabled = torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cuda")
    recorded: Replay | None = None
    try:
        # A graph must not read weights that autocast has rounded before it.
        with torch.autocast("cuda", dtype, enabled=enabled, cache_enabled=False):
            graphs = torch.cuda.make_graphed_callables(student, samples, allow_unused_input=True)
        recorded = cast("Replay", graphs)
        # Gradients are added up on another stream than the one of the recording, which costs nothing here.
        torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)
    except RuntimeError as error:
        _log.warning("the training step is not a CUDA graph: %s", first_line(error))
    # Recording runs the network some times, which counts for batch normalisation.
    if tensors[0].is_cuda:
        # So it does for random numbers, of which nothing in a step has drawn any on the GPU before.
        torch.cuda.manual_seed(torch.cuda.initial_seed())
    with torch.no_grad():
        for buffer, value in zip(buffers, saved, strict=True):
            buffer.copy_(value)
    return recorded

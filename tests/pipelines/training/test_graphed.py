"""The student as CUDA graphs, with recording itself replaced: there is no GPU here."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from segray.models.semi.student import Drops, Logits, Student
from segray.pipelines.training import graphed
from segray.pipelines.training.graphed import FlatStudent, GraphedStudent
from tests.models.segmenters.tiny_segmenter import tiny_segmenter

Layout = tuple[bool, int, bool, bool]
LAYOUTS: list[Layout] = [
    (False, 0, False, False),
    (True, 2, True, True),
    (True, 1, True, False),
    (False, 2, False, False),
]
"""Whether there is a weak view, strong views, a feature view, and whether the weak view is predicted."""


def inputs(
    layout: Layout, dims: list[int]
) -> tuple[tuple[Tensor, Tensor | None, tuple[Tensor, ...], Drops], bool]:
    weak, strong, feature, predicted = layout
    torch.manual_seed(3)
    views = tuple(torch.rand(2, 3, 32, 32) for _ in range(strong))
    factors = tuple((torch.rand(2, dim, 1, 1) > 0.5).float() * 2 for dim in dims)
    pair = (factors, tuple(2 - f for f in factors)) if strong == 2 else ()
    drops = Drops(factors if feature else (), pair)
    return (torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32) if weak else None, views, drops), predicted


def parts(logits: Logits) -> list[Tensor | None]:
    return [logits.labelled, logits.weak, logits.feature, *logits.strong]


def student_and_dims() -> tuple[Student, list[int]]:
    torch.manual_seed(0)
    network = tiny_segmenter()
    maps = network.encode(torch.zeros(1, 3, 32, 32))
    return Student(network), [maps[i].shape[1] for i in network.perturbed]


def replayed_as_it_is(module: FlatStudent, samples: object, **_: object) -> Callable[..., tuple[Tensor, ...]]:
    return module


@pytest.mark.parametrize("layout", LAYOUTS)
def test_recorded_steps_give_the_students_logits(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", replayed_as_it_is)
    student, dims = student_and_dims()
    arguments, predicted = inputs(layout, dims)
    direct = student(*arguments, predict_weak=predicted)
    through = GraphedStudent(student)(*arguments, predict_weak=predicted)
    for one, other in zip(parts(direct), parts(through), strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert torch.equal(one, other)


def test_a_step_that_cannot_be_recorded_is_computed_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuses(module: FlatStudent, samples: tuple[Tensor, ...], **_: object) -> None:
        next(module.buffers()).add_(1)
        raise RuntimeError("CUDA error: operation not permitted\nwhen stream is capturing")

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", refuses)
    student, dims = student_and_dims()
    student.register_buffer("seen", torch.zeros(()))
    arguments, predicted = inputs(LAYOUTS[1], dims)
    both = GraphedStudent(student)
    direct = student(*arguments, predict_weak=predicted)
    for _ in range(2):
        assert torch.equal(both(*arguments, predict_weak=predicted).labelled, direct.labelled)
    warnings = [record.getMessage() for record in caplog.records if record.name == graphed.__name__]
    assert warnings == ["the training step is not a CUDA graph: CUDA error: operation not permitted"]
    assert float(next(student.buffers())) == 0

"""Actors and writers that die, run out of memory or stumble over one image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from segray.pipelines.annotation import graph, model_stages, sink
from segray.pipelines.label_set.store import LabelStore
from tests.faults import stages
from tests.faults.invariant import check_invariant, contents
from tests.faults.runs import BATCH, DIES_ONCE, POISON, SCENES, annotate_here, draw_images, overrides

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]

REASONS = {
    "sam-dies.png": "sam: its worker died 2 times on this image alone",
    "sam-memory-alone.png": "sam: out of memory on this image alone (64x48)",
    "clip-memory-alone.png": "clip: out of memory on this image alone (64x56)",
    "sam-raises.png": "sam: ValueError: this image is cursed",
}
TRIES = "max_tries=2"


@dataclass(frozen=True)
class Run:
    """A run with faults: its images, its label set, and an undisturbed one of these images and more."""

    images: Path
    out: Path
    reference: Path

    @property
    def record(self) -> dict[str, Any]:
        return (LabelStore(str(self.out)).run() or {})["this_run"]

    def check(self, *faulty: str) -> None:
        again = overrides(self.images, self.out, TRIES)
        check_invariant(self.out, self.images, again, self.reference, faulty=faulty)


@pytest.fixture(scope="module")
def survived(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run in which a SAM actor, a CLIP actor and two writers die once, and memory runs out in a batch."""
    names = (*SCENES[:6], *DIES_ONCE, BATCH)
    return _run(names, reference, tmp_path_factory.mktemp("survived"), stages.WriterDies)


@pytest.fixture(scope="module")
def poisoned(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run over images that kill their actor or fail, whenever they are tried."""
    names = (*SCENES[:6], *POISON)
    return _run(names, reference, tmp_path_factory.mktemp("poisoned"), sink.LabelSink)


def _run(names: Sequence[str], reference: Path, folder: Path, sink_class: type) -> Run:
    run = Run(draw_images(folder / "images", names), folder / "out", reference)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_stages, "SegmentImages", stages.FaultySam)
        patch.setattr(model_stages, "ClassifySegments", stages.FaultyClip)
        patch.setattr(graph, "LabelSink", sink_class)
        annotate_here(run.images, run.out, TRIES)
    return run


def _status(run: Run) -> dict[str, tuple[str, str | None]]:
    return {row["image_id"]: (row["status"], row["error"]) for row in LabelStore(str(run.out)).rows()}


@pytest.mark.parametrize("stage", ["sam", "clip"])
def test_an_actor_is_killed_in_a_batch(survived: Run, stage: str) -> None:
    # Once in the batch, and once more when its images came back.
    assert stages.fired(survived.images, f"{stage}-dies-once") == 2
    assert _status(survived)[f"{stage}-dies-once.png"] == ("ok", None)
    assert survived.record["restarts"] >= 2
    survived.check()


@pytest.mark.parametrize("moment", ["before-commit", "after-commit"])
def test_a_writer_is_killed(survived: Run, moment: str) -> None:
    assert (survived.out.parent / f".writer-{moment}.1").exists()
    survived.check()


def test_an_image_kills_its_actor_every_time(poisoned: Run) -> None:
    # In the batch once, then alone as often as max_tries allows, and never again.
    assert stages.fired(poisoned.images, "sam-dies") == 3
    assert _status(poisoned)["sam-dies.png"] == ("error", REASONS["sam-dies.png"])


@pytest.mark.parametrize("stage", ["sam", "clip"])
def test_memory_runs_out_on_one_image(poisoned: Run, stage: str) -> None:
    name = f"{stage}-memory-alone.png"
    assert _status(poisoned)[name] == ("error", REASONS[name])


def test_memory_runs_out_in_a_batch(survived: Run) -> None:
    # Refused in a batch of two, then taken alone.
    assert stages.fired(survived.images, "sam-memory-batch") >= 2
    assert _status(survived)[BATCH] == ("ok", None)


def test_one_image_fails(poisoned: Run) -> None:
    assert _status(poisoned)["sam-raises.png"] == ("error", REASONS["sam-raises.png"])


def test_bad_images_cost_no_other(poisoned: Run) -> None:
    poisoned.check(*POISON)
    assert set(contents(poisoned.out)) == {*SCENES[:6], *POISON}

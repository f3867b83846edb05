"""Actors and writers that die, run out of memory or stumble over one image."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipelines import annotate, sink
from pipelines.label_store import LabelStore
from tests.faults import stages
from tests.faults.invariant import check_invariant, contents
from tests.faults.runs import annotate_here, draw_images, words

pytestmark = [pytest.mark.ray, pytest.mark.slow]

GOOD = [f"scene{i:02}.png" for i in range(6)]
ONCE = ["sam-dies-once.png", "clip-dies-once.png"]
POISON = {
    "sam-dies.png": "sam: its worker died 2 times on this image alone",
    "sam-memory-alone.png": "sam: out of memory on this image alone (64x56)",
    "clip-memory-alone.png": "clip: out of memory on this image alone (64x56)",
    "sam-raises.png": "sam: ValueError: this picture is cursed",
}
BATCH = "sam-memory-batch.png"
TRIES = "max_tries=2"


@dataclass(frozen=True)
class Run:
    """A run with faults: what it was made from, its label set, and an undisturbed one of the same images."""

    images: Path
    out: Path
    reference: Path

    @property
    def record(self) -> dict[str, Any]:
        return (LabelStore(str(self.out)).run() or {})["this_run"]

    def check(self, *faulty: str) -> None:
        again = words(self.images, self.out, TRIES)
        check_invariant(self.out, self.images, again, self.reference, faulty=faulty)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> tuple[Path, Path]:
    """Images with fateful names, and what becomes of them where their names mean nothing."""
    folder = tmp_path_factory.mktemp("workers")
    images = draw_images(folder / "images", sorted([*GOOD, *ONCE, *POISON, BATCH]))
    annotate_here(images, folder / "reference")
    return images, folder / "reference"


@pytest.fixture(scope="module")
def survived(clean: tuple[Path, Path]) -> Run:
    """A run in which a SAM actor, a CLIP actor and two writers die once."""
    return _run(clean, [*GOOD, *ONCE], sink_class=stages.WriterDies)


@pytest.fixture(scope="module")
def poisoned(clean: tuple[Path, Path]) -> Run:
    """A run over images that kill their actor or fail, whenever they are tried."""
    return _run(clean, [*GOOD, *POISON, BATCH])


def _run(clean: tuple[Path, Path], names: list[str], sink_class: type = sink.LabelSink) -> Run:
    source, reference = clean
    folder = source.parent / f"of{len(names)}"
    images = folder / "images"
    images.mkdir(parents=True)
    for name in names:
        shutil.copy2(source / name, images / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(annotate, "SegmentImages", stages.FaultySam)
        patch.setattr(annotate, "NameSegments", stages.FaultyClip)
        patch.setattr(sink, "LabelSink", sink_class)
        annotate_here(images, folder / "out", TRIES)
    return Run(images, folder / "out", reference)


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
    assert _status(poisoned)["sam-dies.png"] == ("error", POISON["sam-dies.png"])


@pytest.mark.parametrize("stage", ["sam", "clip"])
def test_memory_runs_out_on_one_image(poisoned: Run, stage: str) -> None:
    name = f"{stage}-memory-alone.png"
    assert _status(poisoned)[name] == ("error", POISON[name])


def test_memory_runs_out_in_a_batch(poisoned: Run) -> None:
    # Refused in a batch of two, then taken alone.
    assert stages.fired(poisoned.images, "sam-memory-batch") >= 2
    assert _status(poisoned)[BATCH] == ("ok", None)


def test_one_image_fails(poisoned: Run) -> None:
    assert _status(poisoned)["sam-raises.png"] == ("error", POISON["sam-raises.png"])


def test_bad_images_cost_no_other(poisoned: Run) -> None:
    poisoned.check(*POISON)
    assert set(contents(poisoned.out)) == {*GOOD, *POISON, BATCH}

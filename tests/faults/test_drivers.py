"""The command itself is killed, stopped or started twice; the same command then does just the rest."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import ray

from tests.faults.invariant import check_invariant, files
from tests.faults.runs import (
    N_IMAGES,
    N_PARTS,
    Finished,
    annotate_here,
    draw_images,
    finished_parts,
    segray,
    started,
    words,
)

pytestmark = [pytest.mark.ray, pytest.mark.slow]

PERCENT = (20, 50, 80)


@dataclass
class Resumes:
    """What a label set held after each run on it: no finished part may ever change again."""

    out: Path
    seen: list[dict[str, bytes]] = field(default_factory=list)

    def note(self) -> None:
        now = {name: data for name, data in files(self.out).items() if name.startswith("labels/part-")}
        for name, data in (self.seen[-1] if self.seen else {}).items():
            assert now[name] == data, f"{name} was written again"
        self.seen.append(now)


def annotate(images: Path, out: Path, *more: str) -> list[str]:
    return ["annotate", *words(images, out, *more)]


def has_parts(out: Path, count: int) -> Callable[[], bool]:
    return lambda: len(finished_parts(out)) >= count


def has_lock(out: Path, pid: int) -> Callable[[], bool]:
    def holds() -> bool:
        with suppress(FileNotFoundError, ValueError):
            return bool(json.loads((out / ".lock.json").read_text())["pid"] == pid)
        return False

    return holds


def after(seconds: float, condition: Callable[[], bool]) -> Callable[[], bool]:
    """Whether so much time has passed, or the condition holds already."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end or condition()


def test_the_driver_is_killed_at_20_50_and_80_percent(images: Path, reference: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    resumes = Resumes(out)
    for percent in PERCENT:
        with started(annotate(images, out), tmp_path / f"killed{percent}") as process:
            process.wait_for(has_parts(out, N_PARTS * percent // 100))
            ended = process.kill()
            assert ended.code == -9
            process.wait_for_descendants()
        assert len(finished_parts(out)) < N_PARTS
        resumes.note()
        if percent > PERCENT[0]:
            assert "taking over the lock" in ended.err
    before = len(finished_parts(out))
    with started(annotate(images, out), tmp_path / "last") as process:
        last = process.wait()
    assert last.code == 0
    assert f"{N_IMAGES} images, {N_IMAGES - 2 * before} to do" in last.err
    resumes.note()
    check_invariant(out, images, words(images, out), reference)


def test_the_driver_is_killed_at_random_moments(images: Path, reference: Path, tmp_path: Path) -> None:
    """On a cluster that outlives the driver, as its workers might do too."""
    out, rng = tmp_path / "out", random.Random(7)
    address = f"address={ray.get_runtime_context().gcs_address}"
    resumes = Resumes(out)
    for number in range(4):
        with started(annotate(images, out, address), tmp_path / f"killed{number}") as process:
            process.wait_for(has_lock(out, process.pid))
            soon = has_parts(out, len(finished_parts(out)) + 3)
            process.wait_for(after(rng.uniform(0, 10), soon), or_end=True)
            process.kill()
        resumes.note()
    annotate_here(images, out, address)
    resumes.note()
    check_invariant(out, images, words(images, out, address), reference)


def test_killed_between_the_segments_and_the_labels(images: Path, reference: Path, tmp_path: Path) -> None:
    """The writer lives on for a while: whatever it does then, nothing is there twice."""
    out = tmp_path / "out"
    command = ["driver-dies", *annotate(images, out)]
    with started(command, tmp_path / "killed", module="tests.faults.sabotaged") as process:
        assert process.wait().code == -9
        segments = {path.name for path in out.glob("segments/part-*.parquet")}
        assert segments - set(finished_parts(out)), "no part was caught between segments and labels"
        # At once, while what the driver left behind may still run.
        annotate_here(images, out)
        process.wait_for_descendants()
    check_invariant(out, images, words(images, out), reference)


@dataclass(frozen=True)
class Stopped:
    """A run that a second one met, that was then stopped with Ctrl-C, then with two of them."""

    out: Path
    pid: int
    second: Finished
    once: Finished
    twice: Finished


@pytest.fixture(scope="module")
def stopped(images: Path, reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Stopped:
    folder = tmp_path_factory.mktemp("stopped")
    out = folder / "out"
    with started(annotate(images, out), folder / "first") as first:
        first.wait_for(has_parts(out, 1))
        with started(annotate(images, out), folder / "second") as process:
            second = process.wait()
        first.interrupt()
        once = first.wait()
        first.wait_for_descendants()
    with started(annotate(images, out), folder / "third") as third:
        third.wait_for(has_parts(out, len(finished_parts(out)) + 1))
        third.interrupt()
        time.sleep(0.3)
        with suppress(ProcessLookupError):
            third.interrupt()
        twice = third.wait()
        third.wait_for_descendants()
    return Stopped(out, first.pid, second, once, twice)


def test_two_drivers_on_one_output(stopped: Stopped) -> None:
    assert stopped.second.code == 4
    (line,) = stopped.second.complaints
    assert f"is in use by pid {stopped.pid} on " in line
    assert " since 2" in line


@pytest.mark.parametrize("times", ["once", "twice"])
def test_ctrl_c(stopped: Stopped, times: str) -> None:
    ended: Finished = getattr(stopped, times)
    assert ended.code == 130
    assert "the same command goes on" in ended.err
    assert "Traceback" not in ended.err


def test_a_stopped_run_goes_on(stopped: Stopped, images: Path, reference: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(stopped.out, out)
    assert 0 < len(finished_parts(out)) < N_PARTS
    annotate_here(images, out)
    check_invariant(out, images, words(images, out), reference)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("sam.points_per_side=3", "sam.points_per_side: 2 -> 3"),
        ("classes=cat,dog", "classes: "),
        ("label.threshold=0.5", "label.threshold: 0.0 -> 0.5"),
    ],
)
def test_resume_with_another_configuration(
    images: Path, reference: Path, change: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(reference)
    assert segray(*annotate(images, reference, change)) == 2
    complaint = capsys.readouterr().err
    assert said in complaint
    assert "new_run=true" in complaint
    assert files(reference) == before


def test_new_run_goes_on_beside(tmp_path: Path, ray_session: None) -> None:
    images, out = draw_images(tmp_path / "images", ["a.png", "b.png"]), tmp_path / "out"
    annotate_here(images, out)
    before = files(out)
    annotate_here(images, out, "label.threshold=0.5", "new_run=true")
    assert files(out) == before
    beside = tmp_path / "out-2"
    check_invariant(beside, images, words(images, beside, "label.threshold=0.5"))

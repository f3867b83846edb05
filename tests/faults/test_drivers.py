"""The command itself is killed, stopped or started twice; the same command then does just the rest."""

from __future__ import annotations

import io
import json
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, redirect_stderr, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from segray.pipelines.io.run_lock import LOCK_NAME
from tests.faults.invariant import check_invariant, files, unfinished
from tests.faults.runs import (
    N_PARTS,
    NAMES,
    ROWS_PER_PART,
    SCENES,
    annotate_here,
    draw_images,
    finished_parts,
    overrides,
    segray,
)
from tests.pipelines.ray_heads import Head, head_with_token
from tests.processes import Finished, Process, started

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1800)]


@dataclass
class Story:
    """One label set and the runs that were ended on it: no finished part may ever change again."""

    out: Path
    ended: dict[str, Finished] = field(default_factory=dict)
    orphans: int = 0
    second: tuple[int, str, int] = (0, "", 0)
    """Exit status and stderr of a second driver, and the pid of the first."""
    _parts: dict[str, bytes] = field(default_factory=dict)

    def note(self, name: str, ended: Finished) -> None:
        """Keep how a run ended, and compare the parts of the runs before."""
        self.ended[name] = ended
        self.compare()

    def compare(self) -> None:
        now = {name: data for name, data in files(self.out).items() if name.startswith("labels/part-")}
        assert {name: now.get(name) for name in self._parts} == self._parts
        self._parts = now


def annotate(images: Path, out: Path, *more: str) -> list[str]:
    return ["annotate", *overrides(images, out, *more)]


def joined(cluster: Head, images: Path, out: Path, log: Path) -> AbstractContextManager[Process]:
    """`segray annotate` as a process on a cluster."""
    command = annotate(images, out, f"address={cluster.gcs}")
    return started(command, log, environment=cluster.environment())


def has_parts(out: Path, count: int) -> Callable[[], bool]:
    return lambda: len(finished_parts(out)) >= count


def has_lock(out: Path, pid: int) -> Callable[[], bool]:
    def holds() -> bool:
        with suppress(FileNotFoundError, ValueError):
            return bool(json.loads((out / LOCK_NAME).read_text())["pid"] == pid)
        return False

    return holds


def after(seconds: float, condition: Callable[[], bool]) -> Callable[[], bool]:
    """Whether so much time has passed, or the condition holds already."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end or condition()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Head]:
    """A cluster that outlives its drivers; not the Ray of the tests, which they might disturb."""
    with head_with_token(jobs=False) as head:
        yield head


@pytest.fixture(scope="module")
def killed(images: Path, reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Story:
    """Killed when half of the parts are there."""
    folder = tmp_path_factory.mktemp("killed")
    story = Story(folder / "out")
    _kill_at_half(story, annotate(images, story.out), folder / "50")
    return story


@pytest.fixture(scope="module")
def killed_again(images: Path, reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Story:
    """Killed when two parts and the segments of a third are there, at 50 and at 80 %; each on its own Ray."""
    folder = tmp_path_factory.mktemp("killed_again")
    story = Story(folder / "out")
    module, command = "tests.faults.sabotaged", annotate(images, story.out)
    with started(["driver-dies", *command], folder / "20", module=module) as first:
        story.note("20", first.wait())
        story.orphans = len(unfinished(story.out))
        # At once, while the rest of the killed run is still at work.
        _kill_at_half(story, command, folder / "50")
        first.wait_for_workers()
    _kill_beside_a_second_driver(story, command, folder / "80")
    return story


def _kill_at_half(story: Story, command: list[str], log: Path) -> None:
    with started(command, log) as process:
        process.wait_for(has_parts(story.out, N_PARTS // 2))
        story.note("50", process.kill())
        process.wait_for_workers()


def _kill_beside_a_second_driver(story: Story, command: list[str], log: Path) -> None:
    with started(command, log) as process:
        process.wait_for(has_lock(story.out, process.pid))
        stderr = io.StringIO()
        with redirect_stderr(stderr):
            code = segray(*command)
        story.second = code, stderr.getvalue(), process.pid
        process.wait_for(has_parts(story.out, N_PARTS * 8 // 10))
        story.note("80", process.kill())
        process.wait_for_workers()


@pytest.fixture(scope="module")
def stopped(images: Path, reference: Path, cluster: Head, tmp_path_factory: pytest.TempPathFactory) -> Story:
    """Stopped by one Ctrl-C on a Ray of its own, and by two on a cluster that outlives it."""
    folder = tmp_path_factory.mktemp("stopped")
    story = Story(folder / "out")
    with started(annotate(images, story.out), folder / "once") as process:
        _interrupt_once(story, process)
        story.note("once", process.wait())
        process.wait_for_workers()
    with joined(cluster, images, story.out, folder / "twice") as process:
        _interrupt_once(story, process)
        time.sleep(0.3)
        with suppress(ProcessLookupError):
            process.interrupt()
        story.note("twice", process.wait())
    return story


def _interrupt_once(story: Story, process: Process) -> None:
    process.wait_for(has_parts(story.out, len(finished_parts(story.out)) + 1))
    process.interrupt()


def test_a_killed_run_resumes(
    killed: Story,
    images: Path,
    reference: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert killed.ended["50"].code == -9
    _resume(killed, images, reference, capsys, caplog)


@pytest.mark.slow
def test_killed_between_the_segments_and_the_labels(killed_again: Story) -> None:
    assert killed_again.ended["20"].code == -9
    assert killed_again.orphans > 0


@pytest.mark.slow
@pytest.mark.parametrize("percent", ["50", "80"])
def test_killed_at_50_and_80_percent(killed_again: Story, percent: str) -> None:
    ended = killed_again.ended[percent]
    assert ended.code == -9
    assert "taking over the lock" in ended.err


@pytest.mark.slow
def test_two_drivers_on_one_output(killed_again: Story) -> None:
    code, stderr, pid = killed_again.second
    assert code == 4
    (line,) = [line for line in stderr.splitlines() if line.startswith("segray: ")]
    assert f"is in use by pid {pid} on " in line
    assert " since 2" in line


@pytest.mark.slow
def test_a_run_killed_again_and_again_resumes(
    killed_again: Story,
    images: Path,
    reference: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    _resume(killed_again, images, reference, capsys, caplog)


def _resume(
    story: Story,
    images: Path,
    reference: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    left = len(NAMES) - ROWS_PER_PART * len(finished_parts(story.out))
    annotate_here(images, story.out)
    if left:
        assert f"{len(NAMES)} images, {left} to do" in capsys.readouterr().err
        assert "taking over the lock" in caplog.text
    story.compare()
    check_invariant(story.out, images, overrides(images, story.out), reference)


@pytest.mark.slow
@pytest.mark.parametrize("times", ["once", "twice"])
def test_ctrl_c(stopped: Story, times: str) -> None:
    ended = stopped.ended[times]
    assert ended.code == 130
    assert "run the same command to resume" in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.slow
def test_a_stopped_run_resumes(stopped: Story, images: Path, reference: Path) -> None:
    annotate_here(images, stopped.out)
    stopped.compare()
    check_invariant(stopped.out, images, overrides(images, stopped.out), reference)


@pytest.mark.slow
def test_killed_at_random_moments(images: Path, reference: Path, cluster: Head, tmp_path: Path) -> None:
    """On a cluster that outlives the driver, as its workers might do too."""
    story, rng = Story(tmp_path / "out"), random.Random(7)
    for number in range(3):
        with joined(cluster, images, story.out, tmp_path / f"killed{number}") as process:
            process.wait_for(has_lock(story.out, process.pid))
            soon = has_parts(story.out, len(finished_parts(story.out)) + 3)
            process.wait_for(after(rng.uniform(0, 10), soon), or_end=True)
            story.note(f"{number}", process.kill())
    annotate_here(images, story.out)
    story.compare()
    check_invariant(story.out, images, overrides(images, story.out), reference)


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ("sam.points_per_side=3", "sam.points_per_side: 2 -> 3"),
        ("classes=cat,dog", "classes: "),
        ("label.threshold=0.5", "label.threshold: 0.0 -> 0.5"),
    ],
)
def test_resume_with_another_configuration(
    images: Path, reference: Path, change: str, difference: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(reference)
    assert segray(*annotate(images, reference, change)) == 2
    complaint = capsys.readouterr().err
    assert difference in complaint
    assert "new_run=true" in complaint
    assert files(reference) == before


@pytest.mark.slow
def test_new_run_starts_beside(reference: Path, tmp_path: Path) -> None:
    out, beside = tmp_path / "out", tmp_path / "out-2"
    shutil.copytree(reference, out)
    images = draw_images(tmp_path / "images", SCENES[:2])
    annotate_here(images, out, "label.threshold=0.5", "new_run=true")
    assert files(out) == files(reference)
    check_invariant(beside, images, overrides(images, beside, "label.threshold=0.5", "new_run=true"))

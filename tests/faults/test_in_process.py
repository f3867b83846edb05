"""A run in the command's own process that native code ends, and the same command after it."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest

from segray.pipelines.commands.verify import verify
from segray.pipelines.label_set.store import LabelStore
from tests.faults import stages
from tests.faults.runs import OPTIONS, SCENES, draw_images
from tests.processes import Finished, started

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

BAD = "sam-crashes.png"
HERE = [option for option in OPTIONS if "workers" not in option]


def run(images: Path, out: Path, log: Path) -> Finished:
    command = ["sam-crashes", "annotate", f"images={images}", f"out={out}", "max_tries=2", *HERE]
    with started(command, log, module="tests.faults.sabotaged") as process:
        return process.wait()


def test_an_image_that_crashes_the_command_is_isolated_by_the_next_run(tmp_path: Path) -> None:
    images, out = draw_images(tmp_path / "images", SCENES[:5]), tmp_path / "out"
    shutil.copy(images / SCENES[0], images / BAD)
    first = run(images, out, tmp_path / "first")
    assert first.code == -signal.SIGSEGV
    assert stages.fired(images, "sam-crashes") == 1
    second = run(images, out, tmp_path / "second")
    assert second.code == 0, second.err
    assert "an earlier run died in the command's own process; this one has workers" in second.err
    rows = {row["image_id"]: (row["status"], row["error"]) for row in LabelStore(str(out)).rows()}
    assert rows.pop(BAD) == ("error", "sam: its worker died 2 times on this image alone")
    assert rows == dict.fromkeys(SCENES[:5], ("ok", None))
    assert verify(str(out)).problems == []
    third = run(images, out, tmp_path / "third")
    assert third.code == 0
    assert "6 images, nothing to do" in third.err
    assert stages.fired(images, "sam-crashes") > 1
    assert not list(out.glob(".in-process"))

"""The harness notices what it is there for."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from tests.fuzz.runner import Runner

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("reader", "fault"),
    [
        ("take memory", "MB"),
        ("write outside", "open "),
        ("connect", "socket.connect"),
        ("look up a name", "socket.getaddrinfo"),
        ("start a process", "subprocess.Popen"),
        ("read the secret", "reads "),
        ("print an escape", "prints control characters"),
        ("unpickle", "unpickles posix.system"),
    ],
)
def test_a_fault_is_noticed(runner: Runner, reader: str, fault: str) -> None:
    assert [line for line in runner.read(reader, {}).faults if fault in line]
    with pytest.raises(AssertionError):
        runner.check(reader, {})


def test_time_of_the_processor_is_limited(runner: Runner) -> None:
    answer = runner.read("take a second", {}, max_cpu_s=0.1)
    assert [fault for fault in answer.faults if fault.endswith("s of the processor")], answer
    assert runner.read("take a second", {}).faults == ()
    assert runner.read("take all time", {}, max_cpu_s=0.1).how == "died"


def test_the_process_that_decodes_images_is_watched(runner: Runner) -> None:
    sink = io.BytesIO()
    Image.new("RGB", (3000, 3000)).save(sink, "JPEG2000")
    files = {"image": sink.getvalue()}
    for _ in "a new one", "the same":
        (*_, memory) = runner.read("image", files, max_bytes=100 << 20).faults
        assert memory.startswith("the decoder took ")
        assert memory.endswith(" MB")
    (time,) = runner.read("image", files, max_cpu_s=0.01).faults[-1:]
    assert time.startswith("the decoder took ")
    assert time.endswith(" s of the processor")
    assert runner.check("image", files).how == "ok"


def test_a_crash_and_a_bug_are_noticed_and_the_next_input_is_read(runner: Runner) -> None:
    crashed = runner.read("crash", {})
    assert crashed.how == "died"
    assert "Segmentation fault" in crashed.text
    assert runner.read("raise", {}).how == "error"
    assert runner.check("write inside", {}).how == "ok"


def test_a_file_beside_the_input_is_noticed(runner: Runner) -> None:
    beside = Path(runner.folder).parent / "beside"
    beside.write_text("")
    try:
        with pytest.raises(AssertionError, match="beside"):
            runner.read("write inside", {})
    finally:
        beside.unlink()

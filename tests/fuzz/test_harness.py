"""The harness notices what it is there for."""

from __future__ import annotations

from pathlib import Path

import pytest

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
    assert runner.read("take a second", {}, max_cpu_s=0.1).faults[0].endswith("s of the processor")
    assert runner.read("take a second", {}).faults == ()
    assert runner.read("take all time", {}, max_cpu_s=0.1).how == "died"


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

"""The start-up benchmark with commands that are not run: what it starts, and what it records."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import startup
from benchmarks.processes import Usage


def test_each_command_is_measured_against_its_plain_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = list[Sequence[str]]()

    def run(command: Sequence[str], _: Callable[[], bool]) -> Usage:
        started.append(command)
        ours = "segray.pipelines.cli" in command
        return Usage(wall=6.0 if ours else 4.0, first=None, cpu=3.0 if ours else 4.0, processes=1)

    monkeypatch.setattr(startup, "run", run)
    out = tmp_path / "startup.json"
    words = ["--images", "1", "--images", "2", "--rounds", "2", "--size", "48", "--out", str(out)]
    done = CliRunner().invoke(startup.main, words, catch_exceptions=False)
    assert done.exit_code == 0
    runs = json.loads(out.read_text())["runs"]
    assert [(list(run["ways"]), run["images"]) for run in runs] == [
        (["plain script", "segray annotate"], 1),
        (["plain predict", "segray predict"], 1),
        (["plain script", "segray annotate"], 2),
        (["plain predict", "segray predict"], 2),
        (["plain train", "segray train"], 2),
    ]
    assert all(run["ratios"] == {"wall": 1.5, "cpu": 0.75} for run in runs)
    assert len(started) == 2 * 2 * len(runs)
    *_, shown = (line for line in done.output.splitlines() if line.startswith("segray train"))
    assert shown.split() == ["segray", "train", "2", "-", "6.0", "3.0", "1", "1.50", "0.75"]

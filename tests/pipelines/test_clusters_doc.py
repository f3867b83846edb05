"""docs/clusters.md against the program: its commands are taken, and those for a head on this machine work."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from segray.pipelines.commands.submit import check_command, split_overrides
from segray.pipelines.config.command_table import COMMANDS
from segray.pipelines.config.loading import load
from tests.pipelines.ray_heads import Head

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "clusters.md").read_text(encoding="utf-8")
LOCAL = TEXT.partition("## A head on this machine")[2].partition("\n## ")[0]


def commands(text: str) -> list[list[str]]:
    """The words of each segray command in the blocks of a page."""
    lines = "".join(re.findall(r"^```\n(.*?)^```", text, re.DOTALL | re.MULTILINE)).replace("\\\n", " ")
    split = [shlex.split(line) for line in lines.splitlines()]
    return [words[1:] for words in split if words and words[0] == "segray"]


@pytest.mark.parametrize("words", commands(TEXT), ids=" ".join)
def test_the_command_is_one_that_segray_takes(words: list[str]) -> None:
    if words[0] == "submit":
        config, rest = split_overrides(words[1:])
        assert config.id or check_command(rest)[0] in COMMANDS
    else:
        assert load(COMMANDS[words[0]].config(), None, words[1:])


def test_every_file_and_page_that_is_named_is_there() -> None:
    pages = re.findall(r"\]\(([\w./-]+)\)", TEXT)
    files = re.findall(r"`([\w./-]+\.yaml)`", TEXT)
    assert {"cluster.yaml", "kuberay.yaml", "configs/clusters/local.yaml"} <= set(files)
    assert [name for name in pages if not (ROOT / "docs" / name).exists()] == []
    assert [name for name in files if not (ROOT / name).exists()] == []


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_local_walk_works_word_by_word(head: Head, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.pipelines.command_sequence", json.dumps(commands(LOCAL))],
        env={**head.environment(), "RAY_ADDRESS": head.gcs, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    (job,) = re.findall(r"segray submit id=(\S+) +follows", done.stderr)
    assert job.startswith("segray-relabel-")
    made = ("labels/run.json", "labels/evaluation.json", "run/best/state.json", "predictions/masks")
    assert [name for name in made if not (tmp_path / name).exists()] == []

"""Run a benchmark program in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from click.testing import CliRunner

CIRCUMSTANCES = {"benchmark", "command", "seeds", "device", "versions", "git", "timestamp"}


def run(program: Any, *words: str) -> tuple[dict[str, Any], str]:
    """The record that a program writes, and what it prints."""
    out = words[words.index("--out") + 1]
    result = CliRunner().invoke(program, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    record: dict[str, Any] = json.loads(Path(out).read_text(encoding="utf-8"))
    assert record.keys() >= CIRCUMSTANCES
    assert record["device"]["cores"] >= 1
    assert record["device"]["cpu"]
    assert record["versions"]["torch"] == torch.__version__.partition("+")[0]
    return record, result.output

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tools import advisories
from tools.minimum_versions import minimum_versions


def report(*packages: dict[str, Any]) -> dict[str, Any]:
    return {"dependencies": list(packages), "fixes": []}


WEAK = {
    "name": "pillow",
    "version": "11.0.0",
    "vulns": [{"id": "PYSEC-1", "aliases": ["CVE-2026-25990"], "fix_versions": ["12.1.1"]}],
}


def test_a_known_advisory_is_a_line() -> None:
    fine = {"name": "numpy", "version": "2.4.6", "vulns": []}
    assert advisories.problems(report(fine)) == []
    assert advisories.problems(report(fine, WEAK)) == ["pillow 11.0.0: PYSEC-1, fixed in 12.1.1"]


def test_one_that_does_not_concern_us_is_accepted_by_any_of_its_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advisories, "ACCEPTED", {"CVE-2026-25990": "a format that segray does not read"})
    assert advisories.problems(report(WEAK)) == []


def test_what_was_not_looked_up_is_no_success() -> None:
    skipped = {"name": "numpy", "skip_reason": "not found"}
    assert advisories.problems(report(skipped, {"name": "segray", "skip_reason": "editable"})) == [
        "numpy: not found"
    ]
    assert advisories.problems(report()) == ["no package was looked up"]


def test_no_bound_admits_a_version_of_a_decoder_or_lock_with_a_known_weakness() -> None:
    oldest = dict(line.split("==") for line in minimum_versions())
    for name, fixed in {"pillow": (12, 3), "jinja2": (3, 1, 6), "filelock": (3, 20, 3)}.items():
        assert tuple(int(part) for part in oldest[name].split(".")) >= fixed


@pytest.mark.parametrize(("packages", "status"), [([], 1), ([WEAK], 1), ([{**WEAK, "vulns": []}], 0)])
def test_the_workflow_fails_on_a_known_advisory(
    tmp_path: Path, packages: list[dict[str, Any]], status: int
) -> None:
    """By the exit status of the program that `make audit` ends with."""
    (tmp_path / "audit.json").write_text(json.dumps(report(*packages)))
    command = [sys.executable, advisories.__file__, str(tmp_path / "audit.json")]
    assert subprocess.run(command, capture_output=True, check=False).returncode == status


def test_the_workflow_fails_where_nothing_was_looked_up(tmp_path: Path) -> None:
    (tmp_path / "audit.json").write_text("")
    command = [sys.executable, advisories.__file__, str(tmp_path / "audit.json")]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 1

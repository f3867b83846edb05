"""docs/faults.md against the tests: no row without its test, no fault test without its row."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.processes import REPOSITORY

DOCUMENT = REPOSITORY / "docs" / "faults.md"


def _tests(folder: Path) -> set[str]:
    """Names of the test functions in a folder's modules, but for this one's."""
    modules = [path for path in folder.rglob("test_*.py") if path != Path(__file__)]
    return {
        node.name
        for path in modules
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def _rows() -> list[tuple[str, str, str]]:
    """(fault, what happens, test) of every row."""
    rows = []
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and cells != ["fault", "what happens", "test"]:
            assert len(cells) == 3, line
            rows.append((cells[0], cells[1], cells[2]))
    return rows


def test_every_row_names_a_test_that_exists() -> None:
    known = _tests(REPOSITORY / "tests")
    matches = [re.fullmatch(r"`(test_\w+)`", test) for _, _, test in _rows()]
    assert matches
    assert [
        row for row, name in zip(_rows(), matches, strict=True) if name is None or name[1] not in known
    ] == []


def test_every_fault_test_has_its_row() -> None:
    named = {test.strip("`") for _, _, test in _rows()}
    assert _tests(REPOSITORY / "tests" / "faults") - named == set()

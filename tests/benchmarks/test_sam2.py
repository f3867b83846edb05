from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from benchmarks import sam2
from tests.benchmarks.programs import run
from tests.models.sam2.upstream import package


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """The programs compute on one thread."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_without_the_package_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sam2.build_sam", None)
    result = CliRunner().invoke(sam2.main, ["--points", "1"])
    assert result.exit_code == 1
    assert "CONTRIBUTING.md, SAM 2 parity, says how to install it" in result.output.splitlines()[-1]


@pytest.mark.slow
def test_both_generators_find_the_drawn_masks(tmp_path: Path) -> None:
    package()
    record, printed = run(sam2.main, "--points", "4", "--out", str(tmp_path / "sam2.json"))
    (masks,) = record["upstream_masks"]
    assert record["identical_masks"] == masks > 1
    assert record["segray_masks"] == [masks]
    assert f"{masks} of {masks} masks identical" in printed

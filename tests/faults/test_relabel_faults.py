"""`segray relabel` is killed and started again."""

from __future__ import annotations

from pathlib import Path

import pytest

from segray.pipelines.commands.verify import verify
from tests.faults.invariant import contents, files, unfinished
from tests.faults.runs import finished_parts, segray
from tests.processes import started


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_relabel_is_killed_between_the_segments_and_the_labels(
    reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    undisturbed, out = tmp_path / "undisturbed", tmp_path / "out"
    command = ["relabel", f"labels={reference}", "classes=tree,house,sun"]
    assert segray(*command, f"out={undisturbed}") == 0
    with started(
        ["writer-dies", *command, f"out={out}"], tmp_path / "log", module="tests.faults.sabotaged"
    ) as p:
        assert p.wait().code == -9
    before = {name: data for name, data in files(out).items() if name.startswith("labels/part-")}
    assert len(before) == len(finished_parts(out)) == 2
    assert len(unfinished(out)) == 1

    assert segray(*command, f"out={out}") == 0

    assert verify(str(out)).problems == []
    assert contents(out) == contents(undisturbed)
    after = files(out)
    assert {name: after[name] for name in before} == before

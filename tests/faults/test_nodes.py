"""A machine of the cluster is lost."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.faults.invariant import check_invariant
from tests.faults.runs import N_PARTS, started, words


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_worker_node_is_lost(images: Path, reference: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    # All actors fit on one node when the other is gone.
    command = words(images, out, "sam.workers=2", "sam.num_cpus=0.6")
    with started(["annotate", *command], tmp_path / "log", module="tests.faults.lose_node") as process:
        ended = process.wait()
    assert ended.code == 0, ended.err
    found = re.search(r"lost a node with (\d+) actors after (\d+) parts", ended.out)
    assert found is not None
    assert int(found[1]) > 0
    assert int(found[2]) < N_PARTS
    check_invariant(out, images, command, reference)

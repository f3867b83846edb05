from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from segray.pipelines.engine import cluster
from segray.pipelines.engine.cluster import Resources
from segray.pipelines.engine.ray_output import without_greeting
from tests.pipelines.ray_heads import head_with_token


def test_what_ray_says_of_its_log_level_is_left_out_and_nothing_else(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with without_greeting():
        os.write(
            2, b"before\n[x] Set ray log level from environment variable RAY_BACKEND_LOG_LEVEL to 3\nafter"
        )
    assert capfd.readouterr().err == "before\nafter"


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_session_joins_the_ray_that_runs_and_leaves_it_running() -> None:
    import ray

    with cluster.session(None) as resources:
        assert (resources.cpus, resources.gpus, resources.nodes) == (2, 0, 1)
    assert ray.is_initialized()


def test_workers_are_not_spread_over_nodes() -> None:
    resources = Resources(6, 0, 4, (2, 2, 2))
    assert [resources.room(cpus) for cpus in (0.5, 1, 2, 3, 6)] == [12, 6, 3, 0, 0]
    assert Resources(6, 0).room(3) == 2


_GROWING = """
import json, sys
from segray.pipelines.engine import cluster
from segray.pipelines.config.shared import GrowConfig
from segray.pipelines.engine.ray_output import without_greeting
from segray.pipelines.errors import UserError
try:
    with cluster.session(sys.argv[1]): pass
except UserError as error:
    print(json.dumps(str(error)))
with cluster.session(sys.argv[1], GrowConfig(cpus=3, wait=300)) as resources:
    print(json.dumps([resources.cpus, resources.nodes, resources.node_cpus]))
"""


@pytest.mark.ray
@pytest.mark.slow
def test_a_cluster_without_workers_is_asked_for_them() -> None:
    with head_with_token(grows=True) as head:
        done = subprocess.run(
            [sys.executable, "-c", _GROWING, head.gcs],
            env={**head.environment(), "PYTHONPATH": str(Path(__file__).parents[3])},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    refused, grown = (json.loads(line) for line in done.stdout.splitlines() if line[:1] in '"[')
    assert refused.startswith("the cluster has no CPU; if it can grow on request, ask")
    assert grown == [4, 3, [2, 2]]

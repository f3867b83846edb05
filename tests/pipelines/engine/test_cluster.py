from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest

from segray.pipelines.engine import cluster
from segray.pipelines.engine.cluster import Resources
from segray.pipelines.errors import UserError
from tests.pipelines.ray_heads import head_with_token


def test_what_ray_says_of_its_log_level_is_left_out_and_nothing_else(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with cluster._without_greeting():
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


class _Keep:
    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return batch


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_long_list_is_cut_up_where_actors_leave_one_cpu() -> None:
    """`Dataset.repartition` by itself would take that one and wait for ever."""
    import ray

    found: list[Any] = []

    def take_one() -> None:
        rows = cluster.in_blocks(ray.data.range(3000, override_num_blocks=1), 1)
        read = rows.map_batches(lambda batch: batch, batch_size=1, num_cpus=cluster.TASK_CPUS)
        pool = ray.data.ActorPoolStrategy(size=1)
        kept = read.map_batches(_Keep, batch_size=64, num_cpus=1, compute=pool)
        found.extend(row["id"] for row in kept.limit(1).iter_rows())

    thread = threading.Thread(target=take_one, daemon=True)
    thread.start()
    thread.join(120)
    # Blocks come as they are done, not in order.
    assert len(found) == 1


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_ray_data_is_quiet_and_waits_no_half_hour() -> None:
    import ray

    before = ray.data.DataContext.get_current().copy()
    try:
        cluster.quiet_data_context()
        context = ray.data.DataContext.get_current()
        assert not context.enable_progress_bars
        assert context.execution_no_progress_timeout_s == cluster.NO_PROGRESS_S < 1800
        assert os.environ["RAY_DATA_DISABLE_PROGRESS_BARS"] == "1"
        with warnings.catch_warnings(record=True) as shown:
            warnings.warn_explicit("few images", UserWarning, "map.py", 1, module="ray.data._internal.map")
            warnings.warn_explicit(
                "ours", UserWarning, "run.py", 1, module="segray.pipelines.commands.annotate"
            )
        assert [str(warning.message) for warning in shown] == ["ours"]
    finally:
        ray.data.DataContext._set_current(before)


def test_ray_that_does_not_start_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(**options: object) -> None:
        raise Exception("The current node timed out during startup.\nmore")

    monkeypatch.setattr("ray.init", fails)
    with pytest.raises(UserError, match=r"^Ray did not start on this machine: The .* startup.$") as told:
        cluster._connect("local")
    assert told.value.exit_code == 1


def test_workers_are_not_spread_over_nodes() -> None:
    resources = Resources(6, 0, 4, (2, 2, 2))
    assert [resources.room(cpus) for cpus in (0.5, 1, 2, 3, 6)] == [12, 6, 3, 0, 0]
    assert Resources(6, 0).room(3) == 2


_GROWING = """
import json, sys
from pipelines import cluster
from segray.pipelines.config.shared import GrowConfig
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
    assert refused.startswith("the cluster has no CPU to work on; where it grows on request, ask")
    assert grown == [4, 3, [2, 2]]

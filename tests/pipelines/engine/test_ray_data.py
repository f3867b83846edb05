"""Ray Data as the graphs use it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import warnings
from dataclasses import replace
from typing import Any

import pytest

from segray.pipelines.config.commands.annotate import ClipConfig, SamConfig
from segray.pipelines.engine import cluster, pools, ray_data
from segray.pipelines.engine.cluster import Resources


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
        rows = ray_data.in_blocks(ray.data.range(3000, override_num_blocks=1), 1)
        read = rows.map_batches(lambda batch: batch, batch_size=1, num_cpus=ray_data.TASK_CPUS)
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
        with cluster.session(None):
            ray_data.configure()
        context = ray.data.DataContext.get_current()
        assert not context.enable_progress_bars
        assert context.execution_no_progress_timeout_s == ray_data.NO_PROGRESS_S < 1800
        assert os.environ["RAY_DATA_DISABLE_PROGRESS_BARS"] == "1"
        with warnings.catch_warnings(record=True) as shown:
            warnings.warn_explicit("few images", UserWarning, "map.py", 1, module="ray.data._internal.map")
            warnings.warn_explicit(
                "ours", UserWarning, "run.py", 1, module="segray.pipelines.commands.annotate"
            )
        assert [str(warning.message) for warning in shown] == ["ours"]
    finally:
        ray.data.DataContext._set_current(before)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_ray_data_accepts_the_pool_of_a_gpu() -> None:
    """It refuses some calls for actors with GPUs alone, before any of them starts."""
    import ray

    plan = pools.shared(SamConfig(), ClipConfig(), Resources(16, 1), 100)
    assert plan is not None
    ray_data.through_actors(ray.data.range(3), _Keep, plan, 8)


class _Recorder:
    """Stands in for a data set; keeps what `map_batches` is asked for."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}

    def map_batches(self, stage: type, **asked: Any) -> _Recorder:
        self.asked = asked
        return self


def test_a_pool_starts_at_full_size_on_the_machines_that_it_names() -> None:
    images: Any = _Recorder()
    plan = pools.PoolPlan(5, 8, num_cpus=0, num_gpus=1, threads=1, batch_size=4, accelerator="A100")
    ray_data.through_actors(images, _Keep, plan, 100)
    assert images.asked["label_selector"] == {"ray.io/accelerator-type": "A100"}
    compute = images.asked["compute"]
    assert (compute.min_size, compute.initial_size, compute.max_size) == (5, 5, 8)
    ray_data.through_actors(images, _Keep, replace(plan, accelerator=None), 100)
    assert images.asked["label_selector"] is None


@pytest.mark.slow
def test_actors_run_on_the_machine_with_the_label_they_name() -> None:
    """Two machines, one of them with the label of an accelerator."""
    words = [sys.executable, "-m", "tests.pipelines.engine.labelled_machines"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["accelerators"] == {"A100": 0.0}
    assert last["nodes"] == [last["labelled"]]

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from segray.pipelines.config.shared import GrowConfig
from segray.pipelines.engine import cluster
from segray.pipelines.engine.cluster import Resources
from segray.pipelines.engine.ray_output import without_greeting
from segray.pipelines.errors import UserError
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


def test_a_cluster_that_cannot_be_joined_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray raises a bare Exception where a node is slow to start."""

    def init(**_: Any) -> None:
        raise Exception("The current node timed out during startup.\nThis could happen because")

    monkeypatch.setattr("ray.init", init)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr(cluster, "require_listener", lambda _: None)
    problem = r"^address: no Ray cluster at 127.0.0.1:7 \(The current node timed out during startup\.\); if"
    with pytest.raises(UserError, match=problem) as caught, cluster.connected("127.0.0.1:7"):
        pass
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_workers_are_not_spread_over_nodes() -> None:
    resources = Resources(6, 0, 4, (2, 2, 2))
    assert [resources.room(cpus) for cpus in (0.5, 1, 2, 3, 6)] == [12, 6, 3, 0, 0]
    assert Resources(6, 0).room(3) == 2


class Growing:
    """A cluster that gets a machine at each look at it, 10 s apart, and what it was asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *machines: Resources) -> None:
        self.asked: list[dict[str, Any]] = []
        self._machines = list(machines)
        clock = SimpleNamespace(monotonic=count(0, 10).__next__, sleep=lambda seconds: None)
        monkeypatch.setattr("ray.autoscaler.sdk.request_resources", lambda **asked: self.asked.append(asked))
        monkeypatch.setattr(cluster, "connected", lambda address: contextlib.nullcontext())
        monkeypatch.setattr(cluster, "resources", self.look)
        monkeypatch.setattr(cluster, "time", clock)

    def look(self) -> Resources:
        return self._machines.pop(0) if len(self._machines) > 1 else self._machines[0]


def test_a_cluster_grows_by_gpus_of_the_named_kinds_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    others, some = Resources(8, 8, accelerators={"T4": 8}), Resources(8, 9, accelerators={"T4": 8, "A100": 1})
    all_there = Resources(8, 10, accelerators={"T4": 8, "A100": 2})
    growing = Growing(monkeypatch, others, some, all_there)
    with cluster.session(None, GrowConfig(gpus=2, cpus=1), {"A100"}) as there:
        assert there is all_there
    first, released = growing.asked
    assert first["bundles"] == [{"GPU": 1}, {"GPU": 1}, {"CPU": 1}]
    a100 = {"ray.io/accelerator-type": "A100"}
    assert first["bundle_label_selectors"] == [a100, a100, {}]
    assert released == {"bundles": []}


@pytest.mark.parametrize(
    ("kinds", "shares"),
    [
        ((), {None: 5}),
        (("A100", "T4"), {"A100": 3, "T4": 2}),
        (("A100", "B", "C"), {"A100": 2, "B": 2, "C": 1}),
    ],
)
def test_gpus_of_several_kinds_are_as_many_of_each(
    monkeypatch: pytest.MonkeyPatch, kinds: tuple[str, ...], shares: dict[str | None, int]
) -> None:
    have = {kind: float(number) for kind, number in shares.items() if kind}
    growing = Growing(monkeypatch, Resources(4, 5, accelerators=have))
    with cluster.session(None, GrowConfig(gpus=5), kinds):
        pass
    labels = [label.get("ray.io/accelerator-type") for label in growing.asked[0]["bundle_label_selectors"]]
    assert {kind: labels.count(kind) for kind in labels} == shares


def test_a_kind_that_does_not_come_is_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Growing(monkeypatch, Resources(4, 8, accelerators={"T4": 8}))
    with cluster.session(None, GrowConfig(gpus=2, wait=30), {"A100"}):
        pass
    assert "after 30 s the cluster has 4 CPUs, not 2 A100 GPUs; continuing with these" in caplog.messages


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

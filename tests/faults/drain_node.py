"""`python -m tests.faults.drain_node COMMAND ...`: a command on a cluster that takes a node back meanwhile.

Like `lose_node`, but the cluster is told of it first, as clouds tell of a spot machine that they take back.
The news reaches the workers before their second look, and the machine goes as soon as they have saved, at any
speed of this one.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any
from unittest import mock

import click
from ray._private.state import actors
from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import DrainNodeReason

from segray.pipelines.commands import train
from segray.pipelines.training.failures import Failure
from segray.pipelines.training.trainer import WorkerInputs, train_worker
from tests.faults.lose_node import finished, run

NOTICE_S = 600
"""Longer than anything takes here; when all is saved, a second notice is short."""
NODE, SAVED = "node-of-a-worker", "that-worker-has-saved"
"""Files beside the run's folder, by which the second worker tells this process where it is and how far."""


def slowed(inputs: WorkerInputs) -> Failure | None:
    """`train_worker` that waits for the news, and after it for the end of its machine, unless it resumes."""
    import ray.train

    look, report = ray.train.get_preemption_info, ray.train.report
    resumed, looks, told = ray.train.get_checkpoint() is not None, 0, False
    second = ray.train.get_context().get_world_rank() == 1 and not resumed
    out = Path(inputs.config.out)
    if second:
        out.with_name(NODE).write_text(ray.get_runtime_context().get_node_id())

    def get_preemption_info() -> Any:
        nonlocal looks, told
        looks += 1
        news = look()
        # A look tells all workers the same, so that all of them look again equally often.
        while news is None and looks > 1 and not resumed:
            time.sleep(0.1)
            news = look()
        told = news is not None
        return news

    def report_before_the_end(*args: Any, **kwargs: Any) -> None:
        report(*args, **kwargs)
        if told and second:
            out.with_name(SAVED).touch()
            # The first worker says that it has saved, and waits for this one in its next step.
            while True:
                time.sleep(1)

    ray.train.get_preemption_info, ray.train.report = get_preemption_info, report_before_the_end
    return train_worker(inputs)


def _drain(cluster: Cluster, nodes: dict[str, Any], out: Path) -> None:
    while not (finished(out) and _alive("PreemptionWatcher")):
        time.sleep(0.05)
    node = out.with_name(NODE).read_text()
    _give_notice(cluster, node, NOTICE_S)
    while not out.with_name(SAVED).exists():
        time.sleep(0.05)
    _give_notice(cluster, node, 1)
    while node in _alive("TrainWorker"):
        time.sleep(0.05)
    cluster.remove_node(nodes[node], allow_graceful=False)
    click.echo("took a node back")


def _give_notice(cluster: Cluster, node: str, seconds: int) -> None:
    """As `ray drain-node` does, whose start alone may outlast the run on a busy machine."""
    reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    deadline_ms = int(1000 * (time.time() + seconds))
    accepted, why = GcsClient(address=cluster.address).drain_node(node, reason, "taken back", deadline_ms)
    assert accepted, why


def _alive(name: str) -> list[str]:
    """The nodes of the actors of a class, as far as they live."""
    alive = [actor for actor in actors().values() if actor["State"] == "ALIVE"]
    return [actor["Address"]["NodeID"] for actor in alive if name in actor["ActorClassName"]]


if __name__ == "__main__":
    # Sent to the workers as it is here: this module is nowhere to be imported from.
    with mock.patch.object(train, "train_worker", slowed):
        run(_drain, nodes=3)

"""`python -m tests.faults.drain_node COMMAND ...`: a command on a cluster that takes a node back meanwhile.

Like `lose_node`, but the cluster is told of it first, as clouds tell of a spot machine that they take back.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
from ray._private.state import actors
from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import DrainNodeReason

from tests.faults.lose_node import finished, run

NOTICE_S = 60


def _nodes_of_workers() -> list[str]:
    alive = [actor for actor in actors().values() if actor["State"] == "ALIVE"]
    return [actor["Address"]["NodeID"] for actor in alive if "TrainWorker" in actor["ActorClassName"]]


def _drain(cluster: Cluster, nodes: dict[str, Any], out: Path) -> None:
    while not finished(out):
        time.sleep(0.05)
    node = _nodes_of_workers()[0]
    # As `ray drain-node` does, whose start alone may outlast the run on a busy machine.
    reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    deadline_ms = int(1000 * (time.time() + NOTICE_S))
    accepted, why = GcsClient(address=cluster.address).drain_node(node, reason, "taken back", deadline_ms)
    assert accepted, why
    while node in _nodes_of_workers():
        time.sleep(0.05)
    cluster.remove_node(nodes[node], allow_graceful=False)
    click.echo("took a node back")


if __name__ == "__main__":
    run(_drain, nodes=3)

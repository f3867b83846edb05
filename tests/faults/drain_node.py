"""`python -m tests.faults.drain_node COMMAND ...`: a command on a cluster that takes a node back meanwhile.

Like `lose_node`, but the cluster is told of it first, as clouds tell of a spot machine that they take back.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
from ray._private.state import actors
from ray.cluster_utils import Cluster

from tests.faults.lose_node import finished, run

NOTICE_S = 60


def _nodes_of_workers() -> list[str]:
    alive = [actor for actor in actors().values() if actor["State"] == "ALIVE"]
    return [actor["Address"]["NodeID"] for actor in alive if "TrainWorker" in actor["ActorClassName"]]


def _drain(cluster: Cluster, nodes: dict[str, Any], out: Path) -> None:
    while not finished(out):
        time.sleep(0.05)
    node = _nodes_of_workers()[0]
    words = [f"--address={cluster.address}", f"--node-id={node}", "--reason=DRAIN_NODE_REASON_PREEMPTION"]
    words += ["--reason-message=taken-back", f"--deadline-remaining-seconds={NOTICE_S}"]
    subprocess.run([Path(sys.executable).parent / "ray", "drain-node", *words], check=True)
    while node in _nodes_of_workers():
        time.sleep(0.05)
    cluster.remove_node(nodes[node], allow_graceful=False)
    click.echo("took a node back")


if __name__ == "__main__":
    run(_drain)

"""`python -m tests.faults.drain_node COMMAND ...`: a command on a cluster that takes a node back meanwhile.

Like `lose_node`, but the cluster is told of it first, as clouds tell of a spot machine that they take back.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import click
import ray
from ray._private.state import actors
from ray.cluster_utils import Cluster

from segray.pipelines.cli import main
from tests.faults.lose_node import NODE, finished

NOTICE_S = 15


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


def _run() -> None:
    head = {**NODE, "num_cpus": 0, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = {node.node_id: node for node in [cluster.add_node(**NODE) for _ in range(3)]}
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    (out,) = (Path(word.removeprefix("out=")) for word in sys.argv if word.startswith("out="))
    threading.Thread(target=_drain, args=(cluster, nodes, out), daemon=True).start()
    try:
        main(sys.argv[1:])
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    _run()

"""`python -m tests.faults.lose_node COMMAND ...`: a command on a cluster that loses a node meanwhile.

A cluster of its own, so that the Ray of the other tests is left alone, with a head without CPUs, so that all
actors are on nodes that can be lost: two, for `train` and `tune` three.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import ray
from ray._private.state import actors
from ray.cluster_utils import Cluster

from segray.pipelines.cli import main
from tests.faults.runs import finished_parts

NODE = {"num_cpus": 2, "object_store_memory": 100 * 2**20}
PARTS_BEFORE = 2


def finished(out: Path) -> list[str]:
    """Parts of a label set, or whole checkpoints of a training run or of a search's trials."""
    return finished_parts(out) or [str(path) for path in out.glob("**/checkpoints/*/state.json")]


def _lose(cluster: Cluster, nodes: dict[str, Any], out: Path) -> None:
    while len(finished(out)) < PARTS_BEFORE:
        time.sleep(0.05)
    alive = Counter(a["Address"]["NodeID"] for a in actors().values() if a["State"] == "ALIVE")
    fullest = max(nodes, key=lambda node_id: alive[node_id])
    cluster.remove_node(nodes[fullest], allow_graceful=False)
    click.echo(f"lost a node with {alive[fullest]} actors after {len(finished(out))} parts")


def run(change: Callable[[Cluster, dict[str, Any], Path], None], nodes: int) -> None:
    """Run the command of the command line on a head without CPUs and some nodes.

    Meanwhile, in a thread, `change` is called with the cluster, its nodes by id, and the command's `out`.
    """
    head = {**NODE, "num_cpus": 0, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    by_id = {node.node_id: node for node in (cluster.add_node(**NODE) for _ in range(nodes))}
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    (out,) = (Path(word.removeprefix("out=")) for word in sys.argv if word.startswith("out="))
    threading.Thread(target=change, args=(cluster, by_id, out), daemon=True).start()
    try:
        main(sys.argv[1:])
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    run(_lose, nodes=3 if sys.argv[1] in ("train", "tune") else 2)

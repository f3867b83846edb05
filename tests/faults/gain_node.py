"""`python -m tests.faults.gain_node COMMAND ...`: a command on a cluster that gains a node meanwhile.

A head without CPUs and one node, then two nodes.
"""

from __future__ import annotations

import signal
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import click
import ray.train
from ray.cluster_utils import Cluster

from tests.faults.lose_node import NODE, finished, run

LOOKS_EVERY_S = 5.0
"""In place of Ray's minute, which would make the test wait."""


def _gain(cluster: Cluster, nodes: dict[str, Any], out: Path) -> None:
    while not finished(out):
        time.sleep(0.05)
    # The command has the main thread, and a node that is started in another cannot handle signals.
    with mock.patch.object(signal, "signal"):
        cluster.add_node(**NODE)
    click.echo(f"{len(nodes) + 1} nodes after {len(finished(out))} checkpoints")
    # Linux ends the node's processes with the thread that started them.
    threading.Event().wait()


if __name__ == "__main__":
    # segray builds it in this process, when the command runs.
    quick = partial(ray.train.ScalingConfig, elastic_resize_monitor_interval_s=LOOKS_EVERY_S)
    ray.train.ScalingConfig = quick
    run(_gain, nodes=1)

"""`python -m tests.pipelines.io.two_machines FOLDER`: two nodes, the second with its own FOLDER/alone.

A cluster of its own, so that the Ray of the other tests is left alone.
"""

from __future__ import annotations

import logging
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import ray
from ray.cluster_utils import Cluster

from segray.pipelines.engine.shared_storage import require_shared
from segray.pipelines.errors import UserError
from tests.pipelines.ray_heads import RAY

STORE = 100 * 2**20


def second_machine(address: str, alone: Path) -> subprocess.Popen[bytes]:
    """A node in a mount namespace with an empty file system over a folder."""
    start = [str(RAY), "start", f"--address={address}", "--num-cpus=1", f"--object-store-memory={STORE}"]
    script = f"mount -t tmpfs tmpfs {shlex.quote(str(alone))} && exec {shlex.join([*start, '--block'])}"
    return subprocess.Popen(
        ["unshare", "-m", "sh", "-c", script],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def answer(out: str | None, inputs: tuple[str, ...] = ()) -> str:
    """What the user is told."""
    try:
        require_shared(out, inputs)
    except UserError as error:
        return str(error)
    return "fine"


def main(folder: Path) -> None:
    """Print what is said of a folder that both see, of one to write to, and of one to read from."""
    (folder / "alone" / "images").mkdir()
    head = {"num_cpus": 1, "object_store_memory": STORE, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    other = second_machine(cluster.address, folder / "alone")
    try:
        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        while sum(node["Alive"] for node in ray.nodes()) < 2:
            time.sleep(0.2)
            if other.poll() is not None:
                # On a busy machine a node gives up before the head has answered.
                other = second_machine(cluster.address, folder / "alone")
        click.echo(f"both {answer(f'{folder}/labels', (str(folder),))}")
        click.echo(f"out {answer(f'{folder}/alone/labels')}")
        click.echo(f"in {answer(None, (f'{folder}/alone/images',))}")
    finally:
        os.killpg(other.pid, signal.SIGKILL)
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""A program: a pool on the one of two machines that has an accelerator's label; prints where it ran."""

from __future__ import annotations

import json
import logging

import click
import pyarrow as pa
import ray
from ray.cluster_utils import Cluster

from segray.pipelines.engine import cluster, ray_data
from segray.pipelines.engine.pools import PoolPlan

STORE = 100 * 2**20


class WhereAmI:
    """Replaces each batch by the id of its node."""

    def __init__(self, plan: PoolPlan) -> None:
        self._plan = plan

    def __call__(self, table: pa.Table) -> pa.Table:
        """One column, `node`."""
        return pa.table({"node": [ray.get_runtime_context().get_node_id()] * len(table)})


def main() -> None:
    """Print, as JSON, the accelerators of the cluster, the machine with the label and those of the actors."""
    head = {"num_cpus": 2, "object_store_memory": STORE, "include_dashboard": False}
    machines = Cluster(initialize_head=True, head_node_args=head)
    labels = {cluster.ACCELERATOR: "A100"}
    labelled = machines.add_node(num_cpus=2, object_store_memory=STORE, labels=labels)
    machines.wait_for_nodes()
    ray.init(address=machines.address, log_to_driver=False, logging_level=logging.ERROR)
    try:
        ray_data.configure()
        plan = PoolPlan(2, 2, num_cpus=0.25, num_gpus=0, threads=1, batch_size=4, accelerator="A100")
        images = ray.data.range(64, override_num_blocks=8)
        nodes = {row["node"] for row in ray_data.through_actors(images, WhereAmI, plan, 4).iter_rows()}
        found = {
            "accelerators": dict(cluster.resources().accelerators),
            "labelled": labelled.node_id,
            "nodes": sorted(nodes),
        }
        click.echo(json.dumps(found))
    finally:
        ray.shutdown()
        machines.shutdown()


if __name__ == "__main__":
    main()

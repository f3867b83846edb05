"""How many images go through the graph together."""

from __future__ import annotations

from dataclasses import replace

import pytest

from segray.pipelines.annotation.graph import fair_share, rows_per_block
from segray.pipelines.engine.pools import PoolPlan


@pytest.mark.parametrize(
    ("n_todo", "workers", "rows"),
    [(0, 1, 8), (480, 2, 8), (6000, 2, 46), (10**6, 2, 64), (10**6, 1000, 15), (10**6, 4000, 8)],
)
def test_long_lists_go_in_larger_blocks(n_todo: int, workers: int, rows: int) -> None:
    sam = PoolPlan(workers, workers, num_cpus=0, num_gpus=0, threads=1, batch_size=4)
    clip = replace(sam, workers=1, max_workers=1)
    assert rows_per_block(n_todo, {"sam": sam, "clip": clip}) == rows


def test_few_images_are_shared_out_among_the_workers() -> None:
    def share(n_todo: int, *workers: int) -> int:
        plans = {str(n): PoolPlan(n, n, 0.5, 0, 1, 4) for n in workers}
        return fair_share(n_todo, plans)

    assert [share(4, 2, 1), share(48, 2, 1), share(4_800, 2, 1)] == [1, 3, 300]
    assert share(48, 1, 3) == 2

"""Several workers train as one does: processes of this machine, without Ray."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.training.data.training_data import open_data
from segray.pipelines.training.history import HistoryEntry
from segray.pipelines.training.loop import Trainer
from segray.pipelines.training.session import LocalSession, Metrics
from tests.pipelines.training.runs import book, config, curve, trainer


class GroupSession(LocalSession):
    """One of several processes; the first one keeps the checkpoints."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self.rank, self.workers = dist.get_rank(), dist.get_world_size()

    def report(self, metrics: Metrics, checkpoint: Path | None) -> None:
        super().report(metrics, checkpoint)
        assert (checkpoint is not None) == (self.rank == 0)


def _train(rank: int, port: int, count: int, run: TrainConfig, folder: Path) -> None:
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=count)
    try:
        Trainer(run, open_data(run.data, run.seed), GroupSession(folder), None).run()
    finally:
        dist.destroy_process_group()


def _train_together(count: int, run: TrainConfig, folder: Path) -> list[HistoryEntry]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spawn(_train, (port, count, run, folder), nprocs=count)
    return trainer(
        run.model_copy(update={"train": run.train.model_copy(update={"workers": "1"})}), folder
    ).run()


@pytest.mark.parametrize(
    ("method", "workers", "sizes"),
    [
        ("segray", 2, "train.batch=4"),
        pytest.param("unimatch_v2", 2, "train.batch=4", marks=pytest.mark.slow),
        # One image per worker: its CutMix partner is the other worker's.
        pytest.param("segray", 2, "train.batch=2", marks=pytest.mark.slow),
        # Shares of one, one and two images, in parts.
        pytest.param("segray", 3, "train.batch=8 train.accumulate=2", marks=pytest.mark.slow),
    ],
)
def test_several_workers_learn_what_one_learns(tmp_path: Path, method: str, workers: int, sizes: str) -> None:
    labels, root = book(tmp_path / "book", n=11)
    overrides = [
        f"method={method}",
        *sizes.split(),
        "train.optimiser=sgd",
        "train.lr=0.02",
        "data.validation=4",
    ]
    alone = trainer(config(tmp_path / "a", labels, root, *overrides), tmp_path / "a").run()
    shared = config(tmp_path / "b", labels, root, *overrides, f"train.workers=1..{workers}")
    together = _train_together(workers, shared, tmp_path / "b")
    assert len(alone) == len(together) == 3
    for single, double in zip(curve(alone), curve(together), strict=True):
        assert double == pytest.approx(single, rel=1e-4)
    # Sums over pixels agree exactly: no validation image was counted twice, none left out.
    totals = [sum(map(sum, history[-1]["confusion"])) for history in (alone, together)]
    assert totals[0] == totals[1] == 4 * 48 * 48

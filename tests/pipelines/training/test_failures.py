"""Which errors of a worker end the run, and with which line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, Dataset

from segray.models.segmenters.registry import NETWORKS
from segray.pipelines.commands import train
from segray.pipelines.errors import UserError
from segray.pipelines.training.data.summary import data_lines
from segray.pipelines.training.data.training_data import open_data
from segray.pipelines.training.failures import Failure, lasting_failure
from segray.pipelines.training.meter import DivergedError
from segray.pipelines.training.run_folder import RunFolder
from tests.pipelines.training.data.small_sets import folder_set, opened, refusal
from tests.pipelines.training.runs import book, config, trainer


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (UserError("image a.jpg: missing"), Failure("image a.jpg: missing")),
        (UserError("disk", exit_code=1), Failure("disk", 1)),
        (DivergedError("the loss is not finite"), Failure("the loss is not finite", 1, everywhere=True)),
        (ValueError("Expected more\nthan 1"), Failure("training: ValueError: Expected more")),
        (RuntimeError("shape mismatch"), Failure("training: RuntimeError: shape mismatch")),
        (KeyError("x"), Failure("training: KeyError: 'x'")),
    ],
)
def test_an_error_that_would_happen_again_is_one_line(error: Exception, failure: Failure) -> None:
    assert lasting_failure(error) == failure


@pytest.mark.parametrize(
    "error",
    [
        OSError("Input/output error"),
        ConnectionResetError("peer"),
        MemoryError(),
        dist.DistNetworkError("x"),
        RuntimeError("[../gloo/transport/tcp/pair.cc:598] Connection closed by peer [10.0.0.1]:123"),
        RuntimeError("DataLoader worker (pid 12) exited unexpectedly"),
    ],
)
def test_an_error_of_a_lost_peer_or_disk_is_worth_a_retry(error: Exception) -> None:
    assert lasting_failure(error) is None


def test_memory_of_a_gpu_names_the_keys() -> None:
    failure = lasting_failure(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert failure == Failure(
        "out of GPU memory: lower train.batch or augment.crop, or raise train.accumulate"
    )


class Broken(Dataset[int]):
    def __getitem__(self, index: int) -> int:
        raise UserError("image b.jpg: missing")

    def __len__(self) -> int:
        return 1


def test_the_line_of_a_reading_process_is_its_last() -> None:
    with pytest.raises(UserError) as caught:
        next(iter(DataLoader(Broken(), num_workers=1)))
    assert lasting_failure(caught.value) == Failure("image b.jpg: missing")


@pytest.mark.parametrize("name", ["deeplabv3plus_r50", "deeplabv3plus_r101"])
def test_a_batch_of_one_is_refused_before_ray_starts(name: str, tmp_path: Path) -> None:
    labels, root = book(tmp_path / "book", n=8)
    overrides = [f"network.name={name}", "train.batch=1"]
    run = config(tmp_path / "run", labels, root, *overrides)
    with pytest.raises(UserError, match=rf"^train\.batch=1, train\.accumulate=1: {name} takes at least 2"):
        train.check(run, open_data(run.data, 0))
    halved = config(tmp_path / "run", labels, root, f"network.name={name}", "train.accumulate=2")
    with pytest.raises(UserError, match=r"raise train\.batch"):
        train.check(halved, open_data(run.data, 0))


@pytest.mark.parametrize("name", ["builtin", "deeplabv3plus_r50", "segformer_b0", "efficientnet_lite0"])
def test_the_networks_that_need_two_images_are_those_that_pool_before_they_normalise(name: str) -> None:
    entry = NETWORKS[name]
    network: Any = entry.build(3)
    pooled = [m for m in network.decoder.modules() if isinstance(m, nn.AdaptiveAvgPool2d)]
    assert bool(pooled) == entry.needs_two


def test_training_without_validation_says_what_it_gives_up(tmp_path: Path) -> None:
    labels, root = book(tmp_path / "book")
    overrides = ["data.validation=none", "data.labelled=1", "train.epochs=2"]
    run = RunFolder(config(tmp_path / "run", labels, root, *overrides))
    data = open_data(run.config.data, 0)
    line = "validation  none: there will be no mIoU and no best epoch; best/ is the last checkpoint"
    assert line in data_lines(run.config, data)
    train.check(run.config, data)
    run.begin(data)
    history = trainer(run.config, tmp_path / "run" / "checkpoints").run()
    assert [(entry["miou"], entry["accuracy"]) for entry in history] == [(None, None)] * 2
    run.export()
    result = run.result()
    assert (result.best_miou, result.best_epoch, result.last_epoch) == (None, 2, 2)
    assert "no result: the run had no validation images" in str(result)


def test_the_error_of_a_single_mask_names_the_cure(tmp_path: Path) -> None:
    root = folder_set(tmp_path, train=3, val=0, flat=True)
    message = "data.labelled: no training image with a mask is left to learn from; data.validation=none"
    assert refusal(root).startswith(message)
    data = opened(root, validation="none")
    assert (len(data.labelled), len(data.validation)) == (1, 0)

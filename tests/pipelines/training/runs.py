"""Short training runs on a picture book of small scenes, without Ray."""

from __future__ import annotations

from pathlib import Path

import torch

from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.config.loading import load
from segray.pipelines.training.data.training_data import open_data
from segray.pipelines.training.history import HistoryEntry
from segray.pipelines.training.loop import Trainer
from segray.pipelines.training.session import LocalSession
from tests.pipelines.label_set.small_store import picture_book_store

SHORT = [
    "data.kind=picture_book",
    "data.classes=picture_book",
    "data.labelled=3",
    "data.validation=3",
    "network.name=builtin",
    "network.pretrained=false",
    "augment.crop=32",
    "augment.scale=0.8,1.25",
    "train.optimiser=adamw",
    "train.lr=0.0005",
    "train.batch=2",
    "train.epochs=3",
    "trackers=",
]


def book(folder: Path, n: int = 10) -> tuple[Path, Path]:
    """(label set, data set) of small scenes; all images are in one folder, all masks in another."""
    labels, masks = picture_book_store(folder, n=n, size=48)
    return labels, masks.parent


def config(out: Path, labels: Path, root: Path, *overrides: str) -> TrainConfig:
    """A short run; later overrides win."""
    places = [f"out={out}", f"data.root={root}", f"data.labels={labels}"]
    return load(TrainConfig, None, [*SHORT, *places, *overrides])


def trainer(config: TrainConfig, folder: Path) -> Trainer:
    """A trainer in this process, with the checkpoints in `folder`."""
    torch.set_num_threads(1)
    return Trainer(config, open_data(config.data, config.seed), LocalSession(str(folder)), None)


def curve(history: list[HistoryEntry]) -> list[tuple[float, float | None]]:
    """Loss and mIoU of each validation, which are equal in equal runs."""
    return [(entry["loss"], entry["miou"]) for entry in history]

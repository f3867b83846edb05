"""Training runs for the report: a real short one, and folders with a history that the test writes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segray.models.metrics import class_iou, mean_iou, pixel_accuracy
from segray.pipelines.training.data.training_data import open_data
from segray.pipelines.training.loop import Trainer
from segray.pipelines.training.run_folder import RunFolder
from segray.pipelines.training.session import LocalSession
from tests.pipelines.training.runs import book, config

CLASSES = ("background", "cat", "dog")


def trained(folder: Path, *words: str) -> Path:
    """The folder of a run of two epochs on a picture book in `folder`."""
    torch.set_num_threads(1)
    labels, root = book(folder)
    given = config(folder / "run", labels, root, "train.epochs=2", *words)
    data = open_data(given.data, given.seed)
    run = RunFolder(given)
    run.begin(data)
    Trainer(given, data, LocalSession(str(folder / "run" / "checkpoints")), None).run()
    run.export()
    return folder / "run"


def entry(epoch: float, right: float, **changes: Any) -> dict[str, Any]:
    """An entry whose network has a share `right` of each class right, of three that all occur."""
    counts = np.full((3, 3), round(50 * (1 - right)), np.int64)
    np.fill_diagonal(counts, round(100 * right))
    return {
        "step": int(epoch * 10),
        "steps": 10,
        "epoch": epoch,
        "lr": 0.001,
        "loss": 2 - right,
        "supervised": 1 - right,
        "unsupervised": 3 - right,
        "from_model": right,
        "agreement": 0.5,
        "seconds": 30.0,
        "waiting": 0.1,
        "miou": mean_iou(counts),
        "accuracy": pixel_accuracy(counts),
        "iou": class_iou(counts).tolist(),
        "confusion": counts.tolist(),
        "zero_shot_miou": 0.4,
        "zero_shot_accuracy": 0.6,
        "enhanced_miou": 0.4 + right / 4,
        "enhanced_accuracy": 0.6 + right / 4,
        **changes,
    }


def written(folder: Path, history: Any, classes: Sequence[str] | None = CLASSES) -> Path:
    """A folder with a history, and a best checkpoint that has nothing but class names."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "history.json").write_text(json.dumps(history))
    if classes:
        (folder / "best").mkdir()
        (folder / "best" / "state.json").write_text(json.dumps({"classes": list(classes)}))
    return folder

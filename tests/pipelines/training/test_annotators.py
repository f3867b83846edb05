"""Networks are trained on the labels of every model that annotates."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from segray.pipelines.commands import annotate, train
from segray.pipelines.label_set.store import LabelStore
from tests.models.annotators.tiny import TINY, write_weights
from tests.pipelines.plain_runs import config_of
from tests.pipelines.training.runs import book, config

FOUND = "sam.pred_iou_thresh=0.05"
POINTS = (FOUND, "sam.points_per_side=4", "sam.stability_score_thresh=0.01")
OPTIONS = {"eomt_large": (FOUND, "sam.points_per_side=null", "sam.stability_score_thresh=null")}


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_a_network_is_trained_on_the_labels_of_a_model(name: str, tmp_path: Path) -> None:
    _, root = book(tmp_path / "book")
    labels = tmp_path / "labels"
    weights = write_weights(tmp_path, name, seed=3)
    words = (f"sam.model={name}", f"sam.weights={weights}", *OPTIONS.get(name, POINTS))
    annotate.run(config_of(root / "images", labels, *words))
    assert LabelStore(str(labels)).provenance["sam"]["model"] == name
    train.run(config(tmp_path / "run", labels, root, "train.epochs=1"))
    (entry,) = json.loads((tmp_path / "run" / "history.json").read_text())
    assert entry["epoch"] == 1

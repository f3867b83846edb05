"""A training run in an object store: data, label set and checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from segray.pipelines.commands import predict, train
from segray.pipelines.config.commands.predict import PredictConfig
from segray.pipelines.config.loading import load
from segray.pipelines.io import storage
from segray.pipelines.training.trained import load_network
from tests.pipelines.training.runs import book, config, curve, trainer


def copy(folder: Path, uri: str) -> None:
    for path in folder.rglob("*"):
        if path.is_file() and not path.name.startswith("."):
            storage.write_atomic(storage.join(uri, *path.relative_to(folder).parts), path.read_bytes())


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("ray_session")
def test_a_run_in_an_object_store_ends_where_a_local_one_does(
    tmp_path: Path, bucket: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    labels, root = book(tmp_path / "book")
    plain = trainer(config(tmp_path / "plain", labels, root), tmp_path / "plain").run()
    base, options = bucket
    uris = {name: f"{base}/{name}{options}" for name in ("labels", "root", "run", "predictions")}
    copy(labels, uris["labels"])
    copy(root, uris["root"])
    overrides = [f"out={uris['run']}", f"data.root={uris['root']}", f"data.labels={uris['labels']}"]
    run = config(tmp_path, labels, root, *overrides, "train.num_cpus=1", "trackers=tensorboard")
    train.run(run)
    history = json.loads(storage.read_bytes(storage.join(uris["run"], "history.json")))
    assert curve(history) == curve(plain)
    assert "best epoch" in capsys.readouterr().out
    network, state = load_network(uris["run"])
    assert state["history"][-1]["miou"] == max(entry["miou"] for entry in history)
    assert not network.training
    train.run(run)
    assert "best epoch" in capsys.readouterr().out
    assert json.loads(storage.read_bytes(storage.join(uris["run"], "history.json"))) == history
    images = f"{base}/root/images{options}"
    overrides = [f"checkpoint={uris['run']}", f"images={images}", f"out={uris['predictions']}"]
    predict.run(load(PredictConfig, None, overrides))
    assert storage.exists(storage.join(uris["predictions"], "predictions.csv"))

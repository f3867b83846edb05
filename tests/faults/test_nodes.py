"""A node of the cluster is lost."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from segray.pipelines.training.session import newest_first
from tests.faults.invariant import check_invariant
from tests.faults.runs import N_PARTS, overrides
from tests.pipelines.training.runs import SHORT, book, config, curve, trainer
from tests.processes import started

EPOCHS = 10


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_worker_node_is_lost(images: Path, reference: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    # All actors fit on one node when the other is gone.
    command = overrides(images, out, "sam.workers=2", "sam.num_cpus=0.6")
    with started(["annotate", *command], tmp_path / "log", module="tests.faults.lose_node") as process:
        ended = process.wait()
    assert ended.code == 0, ended.err
    lost = re.search(r"lost a node with (\d+) actors after (\d+) parts", ended.out)
    assert lost is not None
    assert int(lost[1]) > 0
    assert int(lost[2]) < N_PARTS
    check_invariant(out, images, command, reference)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_node_with_a_training_worker_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # So few short epochs would be over before the node is lost.
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "1")
    labels, root = book(tmp_path / "book")
    epochs = f"train.epochs={EPOCHS}"
    plain = trainer(config(tmp_path / "plain", labels, root, epochs), tmp_path / "plain").run()
    out = tmp_path / "run"
    places = [f"out={out}", f"data.root={root}", f"data.labels={labels}"]
    # A worker fills a node, and there are three nodes: two workers find room again when one is lost.
    sizes = ["train.workers=2", "train.num_cpus=2", epochs]
    command = ["train", *SHORT, *places, *sizes]
    with started(command, tmp_path / "log", module="tests.faults.lose_node") as process:
        ended = process.wait()
    assert ended.code == 0, ended.err
    lost = re.search(r"lost a node with (\d+) actors after (\d+) parts", ended.out)
    assert lost is not None
    assert int(lost[1]) > 0
    history = json.loads((out / "history.json").read_text())
    assert [entry["step"] for entry in history] == [entry["step"] for entry in plain]
    # Two workers add up in another order than one does.
    assert curve(history)[-1] == pytest.approx(curve(plain)[-1], rel=0.05)
    assert f"epoch {EPOCHS}/{EPOCHS}" in ended.err
    begun = [int(number) for number in re.findall(r"epoch (\d+)/", ended.err)]
    assert set(begun) == set(range(1, EPOCHS + 1)), "the lines of a run are shown whichever node is lost"


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_run_goes_on_with_fewer_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "1")
    # Ray's elastic policy looks at the nodes every 20 s: a first try with three workers would wait a minute.
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "25")
    # A worker fills each of the three nodes: shares of one, one and two images, then of two and two.
    check_resized(tmp_path, "lose_node", r"lost a node with [1-9]", epochs=6, sizes=["3", "2"])


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_run_goes_on_with_more_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Each validation waits for Ray to look at the workers, so that at any speed the run outlives the wait.
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "2")
    check_resized(tmp_path, "gain_node", r"2 nodes after \d+ checkpoints", epochs=20, sizes=["1", "2"])


def check_resized(folder: Path, program: str, told: str, epochs: int, sizes: list[str]) -> None:
    """Train under a program that changes the nodes, and compare with an undisturbed run of one worker."""
    labels, root = book(folder / "book")
    learn = [f"train.epochs={epochs}", "train.batch=4", "train.optimiser=sgd", "train.lr=0.02"]
    plain = trainer(config(folder / "plain", labels, root, *learn), folder / "plain").run()
    out = folder / "run"
    places = [f"out={out}", f"data.root={root}", f"data.labels={labels}"]
    command = ["train", *SHORT, *places, *learn, "train.workers=1..3", "train.num_cpus=2"]
    with started(command, folder / "log", module=f"tests.faults.{program}") as process:
        ended = process.wait()
    assert ended.code == 0, ended.err
    assert re.search(told, ended.out) is not None
    assert re.findall(r"workers that share each batch: (\d)", ended.err) == sizes
    history = json.loads((out / "history.json").read_text())
    assert [entry["step"] for entry in history] == [entry["step"] for entry in plain]
    for resized, undisturbed in zip(curve(history), curve(plain), strict=True):
        assert resized == pytest.approx(undisturbed, rel=1e-4)
    weights = load_file(Path(newest_first(str(folder / "plain"))[0]) / "model.safetensors")
    torch.testing.assert_close(load_file(out / "last" / "model.safetensors"), weights, rtol=1e-3, atol=1e-5)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_node_with_a_training_worker_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "1")
    monkeypatch.setenv("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", "0.5")
    labels, root = book(tmp_path / "book")
    learn = ["train.epochs=30", "train.validate_every=10"]
    plain = trainer(config(tmp_path / "plain", labels, root, *learn), tmp_path / "plain").run()
    out = tmp_path / "run"
    places = [f"out={out}", f"data.root={root}", f"data.labels={labels}"]
    sizes = ["train.workers=2", "train.num_cpus=2", "train.max_failures=0"]
    command = ["train", *SHORT, *places, *learn, *sizes]
    with started(command, tmp_path / "log", module="tests.faults.drain_node") as process:
        ended = process.wait()
    assert ended.code == 0, ended.err
    assert "took a node back" in ended.out
    # Saved between the validations after 20 and 40 steps.
    assert "a machine is about to be taken away: saved at step 30 of 60" in ended.err
    history = json.loads((out / "history.json").read_text())
    assert [entry["step"] for entry in history] == [entry["step"] for entry in plain] == [20, 40, 60]
    assert curve(history)[-1] == pytest.approx(curve(plain)[-1], rel=0.05)

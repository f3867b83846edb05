from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from segray.pipelines.errors import UserError
from segray.pipelines.training.checkpoints import (
    load_checkpoint,
    load_optimiser,
    newest_whole,
    save_checkpoint,
)
from tests.models.segmenters.tiny_segmenter import tiny_segmenter


def write(folder: Path, step: int = 5, seed: int = 0, teacher: bool = True) -> Path:
    folder.mkdir()
    network = tiny_segmenter(seed=seed)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    network(torch.rand(1, 3, 8, 8)).sum().backward()
    optimiser.step()
    mean = tiny_segmenter(seed=seed + 1) if teacher else None
    save_checkpoint(folder, network, mean, optimiser, {"step": step, "history": [{"miou": 0.5}]})
    return folder


def test_weights_state_and_optimiser_are_read_back(tmp_path: Path) -> None:
    folder = write(tmp_path / "c")
    checkpoint = load_checkpoint(str(folder))
    assert checkpoint.state["step"] == 5
    teacher = tiny_segmenter(seed=1).state_dict()
    assert all(torch.equal(checkpoint.weights[name], value) for name, value in teacher.items())
    assert not torch.equal(checkpoint.model["decoder.weight"], teacher["decoder.weight"])
    momentum = load_optimiser(checkpoint)["state"][0]["momentum_buffer"]
    assert momentum.abs().sum() > 0


def test_without_a_teacher_the_model_predicts(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(str(write(tmp_path / "c", teacher=False)))
    assert checkpoint.weights is checkpoint.model


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("harm", [cut, flip, os.remove])
@pytest.mark.parametrize("name", ["model.safetensors", "teacher.safetensors"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, harm: Callable[[Path], None]) -> None:
    folder = write(tmp_path / "c")
    harm(folder / name)
    with pytest.raises(UserError, match=name):
        load_checkpoint(str(folder))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"step": 1}', '{"sha256": {}}', "[" * 100_000])
def test_an_invalid_state_is_reported(tmp_path: Path, text: str) -> None:
    folder = write(tmp_path / "c")
    (folder / "state.json").write_text(text)
    with pytest.raises(UserError, match=r"state.json is damaged"):
        load_checkpoint(str(folder))


@pytest.mark.parametrize(
    "change",
    [
        *({"step": "1"}, {"total": None}, {"history": {}}, {"classes": "void"}, {"classes": [1]}),
        *({"network": 7}, {"window": 0.5}, {"window": True}, {"config": 0}),
    ],
)
def test_a_state_of_other_types_is_reported(tmp_path: Path, change: dict[str, object]) -> None:
    folder = write(tmp_path / "c")
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps({**state, "window": None, "classes": ["void"]}))
    load_checkpoint(str(folder))
    (folder / "state.json").write_text(json.dumps({**state, **change}))
    with pytest.raises(UserError, match=r"state.json is damaged"):
        load_checkpoint(str(folder))


def test_a_folder_of_something_else_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not a checkpoint of segray: state.json is missing"):
        load_checkpoint(str(tmp_path))


@pytest.mark.parametrize("harm", [cut, os.remove])
@pytest.mark.parametrize("name", ["model.safetensors", "optimiser.pt", "state.json"])
def test_the_one_before_a_damaged_checkpoint_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, harm: Callable[[Path], None]
) -> None:
    old, new = write(tmp_path / "old", step=1), write(tmp_path / "new", step=2)
    assert newest_whole([str(new), str(old)]).state["step"] == 2  # type: ignore[union-attr]
    harm(new / name)
    checkpoint = newest_whole([str(new), str(old)])
    assert checkpoint is not None
    assert checkpoint.state["step"] == 1
    assert "the checkpoint before it is used" in caplog.text
    assert newest_whole([str(tmp_path / "none")]) is None


def test_a_pickle_in_place_of_the_optimiser_is_not_executed(tmp_path: Path) -> None:
    folder = write(tmp_path / "c")
    mark = tmp_path / "executed"

    class Bomb:
        def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
            return os.mkdir, (str(mark),)

    torch.save({"state": Bomb()}, folder / "optimiser.pt")
    state = json.loads((folder / "state.json").read_text())
    state["sha256"]["optimiser.pt"] = hashlib.sha256((folder / "optimiser.pt").read_bytes()).hexdigest()
    (folder / "state.json").write_text(json.dumps(state))
    with pytest.raises(UserError, match=r"optimiser.pt is refused"):
        load_optimiser(load_checkpoint(str(folder)))
    assert not mark.exists()

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segray.models.segmenters.inference import Window, image_logits
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.training.checkpoints import save_checkpoint
from segray.pipelines.training.trained import (
    check_network,
    chosen_window,
    find_checkpoint,
    load_network,
    predict_label,
    run_folder,
    weights_sha256,
)
from tests.pipelines import object_stores
from tests.pipelines.trained_network import CLASSES, network, write_run

LAYER = "decoder.classifier.weight"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("trained") / "run")


def test_a_run_and_its_best_checkpoint_are_the_same_network(trained: Path) -> None:
    for uri in (trained, trained / "best"):
        loaded, state = load_network(str(uri))
        assert (state["classes"], state["step"]) == (list(CLASSES), 7)
        assert not loaded.training
        for name, value in network().state_dict().items():
            assert torch.equal(loaded.state_dict()[name], value)


def test_the_averaged_teacher_predicts(tmp_path: Path) -> None:
    state = {"classes": list(CLASSES), "network": "builtin"}
    model, teacher = network(1), network(2)
    save_checkpoint(tmp_path, model, teacher, torch.optim.SGD(model.parameters(), lr=0.1), state)
    loaded, written = load_network(str(tmp_path))
    assert torch.equal(loaded.state_dict()[LAYER], teacher.state_dict()[LAYER])
    assert not torch.equal(model.state_dict()[LAYER], teacher.state_dict()[LAYER])
    assert weights_sha256(written) == written["sha256"]["teacher.safetensors"]


def test_a_label_has_the_size_of_its_image_and_the_class_of_the_highest_logit(trained: Path) -> None:
    loaded, _ = load_network(str(trained))
    pixels = np.random.default_rng(0).integers(0, 256, (37, 50, 3), np.uint8)
    label = predict_label(loaded, pixels)
    logits = image_logits(loaded, torch.from_numpy(pixels.transpose(2, 0, 1).copy()))
    assert label.shape == (37, 50)
    assert label.dtype == np.uint8
    assert np.array_equal(label, logits.argmax(0).numpy())
    assert len(np.unique(label)) > 1


def test_the_window_is_that_of_the_run_unless_another_is_chosen() -> None:
    assert chosen_window({"window": 64}, None) == Window(64, whole=0)
    assert chosen_window({"window": 64}, 96) == Window(96, whole=0)
    assert chosen_window({"window": 64}, 0) == Window(640, whole=None)
    assert chosen_window({}, None) == Window(640, whole=2 * 640 * 640)
    assert chosen_window({"window": None, "config": {"augment.crop": 96}}, None) == Window(512, 2 * 512 * 512)


def test_a_folder_without_a_checkpoint_is_refused(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"checkpoint=.*: no checkpoint there, neither state\.json nor best/"):
        find_checkpoint(str(tmp_path))
    newest = tmp_path / "checkpoints" / "checkpoint_2"
    shutil.copytree(trained / "best", newest)
    (tmp_path / "checkpoints" / "checkpoint_1").mkdir()
    with pytest.raises(UserError, match=rf"the run has not ended, its newest is {newest}$"):
        find_checkpoint(str(tmp_path))
    assert find_checkpoint(str(newest)) == str(newest)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"network": None}, r"state\.json is damaged \(network has another type\)"),
        ({"network": "segformer_b9"}, r"unknown network 'segformer_b9'; did you mean"),
        ({"classes": 3}, r"state\.json is damaged \(classes has another type\)"),
        ({"classes": ["a", "b"]}, "the weights are not those of builtin, 2 classes"),
    ],
)
def test_a_checkpoint_that_cannot_be_built_is_one_line(
    tmp_path: Path, changes: dict[str, Any], text: str
) -> None:
    folder = write_run(tmp_path / "run", **changes)
    checks: list[Callable[[str], object]] = [load_network]
    if "weights are not those" not in text:
        checks.append(check_network)
    for check in checks:
        with pytest.raises(UserError, match=text) as caught:
            check(str(folder))
        assert (caught.value.exit_code, "\n" in str(caught.value)) == (2, False)


@pytest.mark.parametrize("check", [load_network, check_network])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, check: Callable[[str], object]) -> None:
    folder = write_run(tmp_path / "run")
    weights = folder / "best" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"model\.safetensors is damaged: sha256"):
        check(str(folder))


def test_a_checkpoint_is_checked_without_importing_what_builds_its_network(trained: Path) -> None:
    assert check_network(str(trained)) == load_network(str(trained))[1]
    code = (
        "import sys; from segray.pipelines.training.trained import check_network\n"
        "check_network(sys.argv[1])\n"
        "print({'timm', 'torchvision', 'torch._dynamo', 'pandas', 'mlflow'} & set(sys.modules)"
        " | {name for name in sys.modules if name.startswith('open_clip.')})"
    )
    command = [sys.executable, "-c", code, str(trained)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "set()"


def test_the_run_of_a_checkpoint(trained: Path, tmp_path: Path) -> None:
    assert run_folder(str(trained)) == str(trained)
    assert run_folder(str(trained / "best")) == run_folder(f"{trained}/best/") == str(trained)
    numbered = trained / "checkpoints" / "checkpoint_1"
    shutil.copytree(trained / "best", numbered)
    assert run_folder(str(numbered)) == str(trained)
    alone = Path(shutil.copytree(trained / "best", tmp_path / "best"))
    assert run_folder(str(alone)) == str(alone)


def test_a_run_in_an_object_store(trained: Path) -> None:
    assert object_stores.FlakyFileSystem.protocol == "flaky"
    root = "flaky://models/run"
    for path in trained.glob("best/*"):
        storage.write_atomic(storage.join(root, "best", path.name), path.read_bytes())
    storage.write_atomic(storage.join(root, "config.yaml"), b"method: segray\n")
    loaded, _ = load_network(root)
    assert torch.equal(loaded.state_dict()[LAYER], network().state_dict()[LAYER])
    assert run_folder(f"{root}/best") == root


def test_a_checkpoint_of_the_previous_version_names_the_built_in_network_otherwise(tmp_path: Path) -> None:
    state = {"classes": list(CLASSES), "network": "picture_book"}
    model = network(1)
    save_checkpoint(tmp_path, model, None, torch.optim.SGD(model.parameters(), lr=0.1), state)
    assert torch.equal(load_network(str(tmp_path))[0].state_dict()[LAYER], model.state_dict()[LAYER])

"""A run that starts from the network of another."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from segray.pipelines.commands import train
from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.errors import UserError
from segray.pipelines.training.data.training_data import open_data
from segray.pipelines.training.trained import load_network
from tests.pipelines.training.runs import book, config, trainer

Data = tuple[Path, Path]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return book(tmp_path_factory.mktemp("book"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, data: Data) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    train.execute(config(out, *data, "train.epochs=1"))
    return out


def _weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def _equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in a if torch.equal(a[name], b[name])}


@pytest.mark.parametrize("method", ["segray", "segray_v2", "supervised"])
def test_a_run_starts_from_the_weights_that_predict(
    method: str, finished: Path, data: Data, tmp_path: Path
) -> None:
    start = _weights(load_network(str(finished))[0])
    made = trainer(
        config(tmp_path / "run", *data, f"method={method}", f"network.checkpoint={finished}"),
        tmp_path / "checkpoints",
    )
    for module in filter(None, (made.network, made.objective.teacher)):
        assert _equal(start, _weights(module)) == set(start)
    assert (made.progress.step, made.progress.history) == (0, [])
    assert not made.optimiser.state


def test_a_new_head_is_the_only_part_that_starts_anew(finished: Path, data: Data, tmp_path: Path) -> None:
    start = _weights(load_network(str(finished))[0])
    run = config(tmp_path / "run", *data, f"network.checkpoint={finished}", "network.new_head=true")
    found = _weights(trainer(run, tmp_path / "checkpoints").network)
    anew = set(start) - _equal(start, found)
    assert anew == {"decoder.classifier.weight", "decoder.classifier.bias"}


def test_a_resumed_run_needs_its_start_no_more(finished: Path, data: Data, tmp_path: Path) -> None:
    start = shutil.copytree(finished, tmp_path / "start")
    run = config(tmp_path / "run", *data, f"network.checkpoint={start}", "train.epochs=1")
    first = trainer(run, tmp_path / "checkpoints")
    first.run()
    shutil.rmtree(start)
    resumed = trainer(run, tmp_path / "checkpoints")
    assert resumed.progress.step == first.total
    assert _equal(_weights(first.network), _weights(resumed.network)) == set(_weights(first.network))


def _refused(run: TrainConfig) -> str:
    with pytest.raises(UserError) as refused:
        train.check(run, open_data(run.data, run.seed))
    assert refused.value.exit_code == 2
    return str(refused.value)


def test_a_checkpoint_of_another_network_or_other_classes_is_refused(
    finished: Path, data: Data, tmp_path: Path
) -> None:
    start = f"network.checkpoint={finished}"
    other = _refused(config(tmp_path / "run", *data, start, "network.name=deeplabv3plus_r50"))
    assert other == f"{start} is a builtin, network.name is deeplabv3plus_r50; give network.name=builtin"
    none = _refused(config(tmp_path / "run", *data, f"network.checkpoint={tmp_path}"))
    assert none.startswith(f"network.checkpoint={tmp_path}: no checkpoint there")
    run = config(tmp_path / "run", *data, start)
    space = open_data(run.data, run.seed).space
    from segray.pipelines.training.finetune import check_start

    check_start(run.network, [name.upper() for name in space.classes])
    with pytest.raises(
        UserError, match=r"its classes are background, .* and 2 more, the data's are background, b"
    ):
        check_start(run.network, ["background", "b"])
    check_start(run.network.model_copy(update={"new_head": True}), ["background", "b"])


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("network.weights=some.safetensors", "checkpoint and weights: only one of them"),
        ("network.checkpoint=null", "new_head needs network.checkpoint"),
    ],
)
def test_keys_that_contradict_each_other_are_refused(
    override: str, reason: str, data: Data, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=reason):
        config(tmp_path, *data, "network.checkpoint=run", "network.new_head=true", override)


def test_more_epochs_are_refused_with_the_key_that_goes_on(finished: Path, data: Data) -> None:
    with pytest.raises(UserError, match=r"train\.epochs: 1 -> 4") as refused:
        train.execute(config(finished, *data, "train.epochs=4"))
    assert str(refused.value).endswith(
        f"give another out=DIR; with network.checkpoint={finished} it starts from this run's weights"
    )
    with pytest.raises(UserError, match=r"give another out=DIR$"):
        train.execute(config(finished, *data, "train.epochs=1", "seed=5"))

"""The optimiser's parameter groups and the learning rate."""

from __future__ import annotations

import pytest
import torch

from segray.pipelines.config.commands.train import LearnConfig
from segray.pipelines.training.build import (
    learning_rate,
    load_optimiser_state,
    make_optimiser,
    set_learning_rate,
)
from tests.models.segmenters.tiny_segmenter import tiny_segmenter


@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_the_decoder_learns_faster_and_only_matrices_decay(
    name: str, kind: type[torch.optim.Optimizer]
) -> None:
    network = tiny_segmenter()
    config = LearnConfig.model_validate({"optimiser": name, "decoder_lr": 5.0, "weight_decay": 0.25})
    optimiser = make_optimiser(network, config)
    set_learning_rate(optimiser, 0.5)
    assert isinstance(optimiser, kind)
    settings = {p: (g["lr"], g["weight_decay"]) for g in optimiser.param_groups for p in g["params"]}
    assert len(settings) == sum(len(group["params"]) for group in optimiser.param_groups)
    expected = {p: (0.5, 0.25 if p.ndim > 1 else 0.0) for p in network.encoder.parameters()}
    expected |= {p: (2.5, 0.25 if p.ndim > 1 else 0.0) for p in network.decoder.parameters()}
    assert settings == expected


def test_the_learning_rate_warms_up_and_then_decays() -> None:
    config = LearnConfig(lr=0.1, batch=16, power=1.0, warmup=4)
    rates = [learning_rate(config, step, 10) for step in range(10)]
    peak = 0.1 * 16 / 8
    assert rates[:4] == pytest.approx([peak * (step + 1) / 4 * (1 - step / 10) for step in range(4)])
    assert rates[4:] == pytest.approx([peak * (1 - step / 10) for step in range(4, 10)])


def test_an_optimiser_of_a_gpu_is_resumed_on_a_cpu() -> None:
    config = LearnConfig(optimiser="adamw")
    network = tiny_segmenter()
    optimiser = make_optimiser(network, config)
    network(torch.rand(1, 3, 32, 32)).sum().backward()
    optimiser.step()
    state = optimiser.state_dict()
    for group in state["param_groups"]:
        group["fused"] = True
    resumed = make_optimiser(network, config)
    load_optimiser_state(resumed, state)
    assert [group["fused"] for group in resumed.param_groups] == [None] * len(resumed.param_groups)
    first = next(network.encoder.parameters())
    assert torch.equal(resumed.state[first]["exp_avg"], optimiser.state[first]["exp_avg"])

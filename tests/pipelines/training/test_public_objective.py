"""`unimatch`, `fixmatch` and `unimatch_v2` are the public code's objectives.

The values are those of its own `main()` in unimatch.py, fixmatch.py (LiheYoung/UniMatch) and unimatch_v2.py
(LiheYoung/UniMatch-V2), run on the tensors of `public_case` in float64, with stubs for data, network and GPU.
"""

from __future__ import annotations

from typing import cast

import pytest
import torch

from segray.models.semi.student import Drops, Student
from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.config.loading import load
from segray.pipelines.training.augmentation.views import Views
from segray.pipelines.training.data.sampler import Batch, StepBatch
from segray.pipelines.training.step import Objective, StepMetrics
from tests.models.segmenters.tiny_segmenter import TinySegmenter
from tests.pipelines.training.public_case import CLASSES, TAU, case

PARTNERS = {"unimatch": (1, 0, 3, 2), "fixmatch": (1, 0, 3, 2), "unimatch_v2": (3, 2, 1, 0)}
"""The first two codes take partners from the data loader, here segray's; UniMatch V2 flips the batch."""
SUPERVISED = 1.5987402179657866
LOSS = {"unimatch": 1.496951607362003, "fixmatch": 1.3249481826923935, "unimatch_v2": 1.4879008280344592}
GRADIENTS = {
    "unimatch": {
        "fine.weight": (0.19365286290696113, 0.9453517438445155),
        "fine.bias": (-0.14461148461176498, 0.05183283238825011),
        "coarse.weight": (0.18473444501350977, 0.3134051018497783),
        "coarse.bias": (0.04241002998695835, 0.03519746798313665),
        "decoder.weight": (0.0, 0.12903298423198484),
        "decoder.bias": (0.0, 0.04285631450587987),
    },
    "fixmatch": {
        "fine.weight": (0.2515197716072251, 3.448113379520022),
        "fine.bias": (-0.5231529535517582, 0.3730100558551785),
        "coarse.weight": (0.2319780527892396, 0.314852733503953),
        "coarse.bias": (-0.13586914416246432, 0.02984771188654472),
        "decoder.weight": (0.0, 0.06697997163476725),
        "decoder.bias": (0.0, 0.021883896079743958),
    },
    "unimatch_v2": {
        "fine.weight": (0.15322781430949586, 0.46765637098915513),
        "fine.bias": (-0.10694220124480144, 0.07863701318574444),
        "coarse.weight": (0.05383068769471455, 0.38501914630084766),
        "coarse.bias": (0.10149284565963215, 0.05482758378660877),
        "decoder.weight": (0.0, 0.08889428514835662),
        "decoder.bias": (0.0, 0.04478102304812891),
    },
}
"""Sum, and sum of the squares, of each parameter's gradient."""


def step(method: str, monkeypatch: pytest.MonkeyPatch) -> tuple[StepMetrics, TinySegmenter]:
    """One step of segray's own objective, its views and drops replaced by those of the case."""
    public, partner = case(), torch.tensor(PARTNERS[method])
    network = public.network
    network.mean, network.std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    config = load(TrainConfig, None, ["out=x", "data.root=x", f"method={method}", f"pseudo.tau={TAU}"])
    # The objective looks at the network's maps in float32.
    network.float()
    objective = Objective(config, network, CLASSES, torch.device("cpu"))
    for module in (network, *filter(None, (objective.teacher,))):
        module.double().load_state_dict(case().network.state_dict())
    count = objective.method.strong_views
    mixed = [
        torch.where(box[:, None], view[partner], view)
        for view, box in zip(public.unmixed, public.boxes, strict=True)
    ]
    views = Views(
        labelled=public.labelled,
        mask=public.mask,
        weak=public.weak,
        zero_shot=torch.zeros_like(public.mask),
        padding=public.padding,
        strong=tuple(mixed[:count]),
        boxes=public.boxes[:count],
        partner=partner,
    )
    drops = Drops(
        public.feature if objective.method.feature_view else (),
        public.pair if objective.method.complementary_dropout else (),
    )
    monkeypatch.setattr(objective, "augment", lambda _: (views, []))
    monkeypatch.setattr(objective, "_drops", lambda *_: drops)
    metrics = objective(Student(network), StepBatch(0, Batch([], [], []), Batch([], [], [])))
    metrics.loss.backward()
    return metrics, network


@pytest.mark.parametrize("method", LOSS)
def test_loss_and_gradients_are_those_of_the_public_code(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics, network = step(method, monkeypatch)
    assert metrics.supervised.item() == pytest.approx(SUPERVISED, abs=1e-14)
    assert metrics.loss.item() == pytest.approx(LOSS[method], abs=1e-14)
    gradients = {name: cast("torch.Tensor", p.grad) for name, p in network.named_parameters()}
    found = {name: (g.sum().item(), g.square().sum().item()) for name, g in gradients.items()}
    assert found.keys() == GRADIENTS[method].keys()
    for name, expected in GRADIENTS[method].items():
        assert found[name] == pytest.approx(expected, abs=1e-13), name


def test_the_teacher_averages_batch_statistics_as_it_does_weights() -> None:
    network = TinySegmenter(CLASSES)
    network.decoder = torch.nn.Sequential(torch.nn.BatchNorm2d(12), torch.nn.Conv2d(12, CLASSES, 1))
    words = ["out=x", "data.root=x", "method=unimatch_v2", "pseudo.ema=0.75"]
    objective = Objective(load(TrainConfig, None, words), network, CLASSES, torch.device("cpu"))
    teacher = objective.teacher
    assert teacher is not None
    key = "decoder.0.running_mean"
    with torch.no_grad():
        network.state_dict()[key].fill_(4.0)
        network.state_dict()["decoder.0.num_batches_tracked"].fill_(7)
        network.fine.weight += 4.0
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    objective.update_teacher(100)
    after = teacher.state_dict()
    torch.testing.assert_close(after[key], torch.full((12,), 1.0))
    torch.testing.assert_close(after["fine.weight"], before["fine.weight"] + 1.0)
    assert after["decoder.0.num_batches_tracked"] == 7

"""`pseudo.*` in a run: off in the paper's recipe, each one changes the labels as its function says."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from segray.models.semi.guidance import greatest_confidences, next_tau, posterior_label
from segray.models.semi.objective import PseudoLabel, enhanced_label, pseudo_label
from segray.pipelines.commands import train
from segray.pipelines.config.commands.train import PseudoConfig, TrainConfig
from segray.pipelines.config.loading import load
from segray.pipelines.errors import UserError
from segray.pipelines.training.augmentation.views import Views
from segray.pipelines.training.data.training_data import open_data
from segray.pipelines.training.pseudo_labels import PseudoLabels
from segray.pipelines.training.step import Objective
from tests.models.segmenters.tiny_segmenter import TinySegmenter
from tests.pipelines.training.runs import book, config, curve, trainer
from tests.previous_version.archive import unpack

CPU = torch.device("cpu")
C = 4


def labels(total: int, *overrides: str, transition: Tensor | None = None) -> PseudoLabels:
    run = load(TrainConfig, None, ["out=x", "data.root=x", *overrides])
    return PseudoLabels(run, CPU, total, transition)


@pytest.fixture
def batch() -> tuple[Views, Tensor]:
    torch.manual_seed(0)
    weak, shape = torch.randn(3, C, 8, 8) * 2, (3, 8, 8)
    views = Views(
        labelled=torch.zeros(1, 3, 8, 8),
        mask=torch.zeros(1, 8, 8).long(),
        weak=torch.zeros(3, 3, 8, 8),
        zero_shot=torch.randint(0, C, shape),
        confidence=torch.rand(shape),
        padding=torch.rand(shape) < 0.1,
        segments=torch.arange(64).view(1, 8, 8).expand(shape).div(16, rounding_mode="floor").short(),
        partner=torch.tensor([1, 0]),
    )
    return views, weak


def equal(a: PseudoLabel, b: PseudoLabel) -> bool:
    return all(
        torch.equal(x, y) for x, y in ((a.label, b.label), (a.valid, b.valid), (a.from_model, b.from_model))
    )


def enhanced(views: Views, weak: Tensor) -> PseudoLabel:
    assert views.zero_shot is not None
    assert views.padding is not None
    return enhanced_label(weak, views.zero_shot, 0.7, padding=views.padding)


def own(views: Views, weak: Tensor) -> PseudoLabel:
    assert views.padding is not None
    return pseudo_label(weak, 0.7, padding=views.padding)


def test_the_paper_s_recipe_is_equation_7_in_every_step(batch: tuple[Views, Tensor]) -> None:
    assert PseudoConfig() == PseudoConfig(
        posterior="switch", segments=False, dynamic_tau=False, soft=0, start=0, until=None
    )
    recipe = labels(10)
    assert all(equal(recipe(*batch, step), enhanced(*batch)) for step in range(10))


def test_after_until_the_network_teaches_itself(batch: tuple[Views, Tensor]) -> None:
    guided = labels(10, "pseudo.until=0.5")
    assert [equal(guided(*batch, step), enhanced(*batch)) for step in (0, 4, 5, 9)] == [
        True,
        True,
        False,
        False,
    ]
    assert equal(guided(*batch, 5), own(*batch))


def test_a_posterior_is_less_and_less_guided(batch: tuple[Views, Tensor]) -> None:
    views, weak = batch
    assert views.zero_shot is not None
    assert views.padding is not None
    matrix = torch.full((C, C), 0.1) + 0.6 * torch.eye(C)
    guided = labels(4, "pseudo.posterior=transition", transition=matrix)
    for step, beta in ((0, 1.0), (1, 0.75), (3, 0.25)):
        expected = posterior_label(weak, views.zero_shot, matrix, beta, 0.7, padding=views.padding)
        assert equal(guided(views, weak, step), expected)


@pytest.mark.parametrize(
    "overrides",
    [[], ["pseudo.until=0.5"], ["pseudo.segments=true"], ["pseudo.min_confidence=1"], ["method=unimatch"]],
    ids=str,
)
def test_what_is_by_hand_is_never_the_network_s(batch: tuple[Views, Tensor], overrides: list[str]) -> None:
    views, weak = batch
    assert views.zero_shot is not None
    assert views.padding is not None
    by_hand = (torch.arange(8) < 4).expand(3, 8, 8) & ~views.padding
    without = labels(10, *overrides)(views, weak * 9, 7)
    label = labels(10, *overrides)(replace(views, by_hand=by_hand), weak * 9, 7)
    assert (without.label != views.zero_shot)[by_hand].any()
    assert torch.equal(label.label[by_hand], views.zero_shot[by_hand])
    assert label.valid[by_hand].all()
    assert not label.from_model[by_hand].any()
    for one, other in zip(vars(label).values(), vars(without).values(), strict=True):
        assert torch.equal(one[~by_hand], other[~by_hand])


def test_the_soft_loss_leaves_out_what_is_by_hand(batch: tuple[Views, Tensor]) -> None:
    views, weak = batch
    assert views.padding is not None
    config = load(TrainConfig, None, ["out=x", "data.root=x", "pseudo.tau=0", "pseudo.soft=1"])
    objective = Objective(config, TinySegmenter(C), C, CPU)
    some = replace(views, boxes=((torch.arange(8) < 3).expand(2, 8, 8),))
    every = replace(some, by_hand=~views.padding)
    strong, label = (torch.randn(2, C, 8, 8),), enhanced(views, weak)
    assert objective._soft(some, strong, weak, label) > 0
    assert objective._soft(every, strong, weak, label) == 0


def test_segments_settle_labels(batch: tuple[Views, Tensor]) -> None:
    views, weak = batch
    weak = weak.clone()
    weak[:, :, 2:4] = 0
    weak[:, 2, 2:4] = 9
    label = labels(4, "pseudo.segments=true")(views, weak, 0)
    assert (label.label[:, 2:4] == 2).all()
    assert label.from_model[:, 2:4].all()


def test_a_dynamic_threshold_ignores_partners_and_padding(batch: tuple[Views, Tensor]) -> None:
    views, weak = batch
    assert views.padding is not None
    moving = labels(4, "pseudo.dynamic_tau=true", "pseudo.tau=0.5")
    expected = torch.tensor(0.5, dtype=torch.float64)
    for step in range(2):
        moving(views, weak, step)
        expected = next_tau(expected, greatest_confidences(weak[:2], ~views.padding[:2]))
        torch.testing.assert_close(moving.tau, expected)
    assert moving.tau > 0.5


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return book(tmp_path_factory.mktemp("book"))


OPTIONS = [
    "pseudo.dynamic_tau=true",
    "pseudo.soft=0.25",
    "pseudo.start=0.3",
    "pseudo.until=0.7",
    "pseudo.tau=0.1",
]


@pytest.mark.parametrize("method", ["segray", pytest.param("segray_v2", marks=pytest.mark.slow)])
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(
    data: tuple[Path, Path], tmp_path: Path, method: str
) -> None:
    words = [f"method={method}", *OPTIONS]
    history = trainer(config(tmp_path / "a", *data, *words), tmp_path / "a").run()
    assert [entry["unsupervised"] > 0 for entry in history] == [False, True, True]
    assert [entry["from_model"] is None for entry in history] == [True, False, False]
    (tmp_path / "b").mkdir()
    second = sorted((tmp_path / "a").glob("checkpoint_*"))[1]
    shutil.copytree(second, tmp_path / "b" / second.name)
    resumed = trainer(config(tmp_path / "b", *data, *words), tmp_path / "b")
    assert len(resumed.progress.history) == 2
    assert float(resumed.objective.labels.tau) != 0.1
    assert curve(resumed.run()) == curve(history)


@pytest.mark.slow
def test_a_run_learns_from_a_posterior_and_segments(tmp_path: Path) -> None:
    root = unpack(tmp_path)
    words = [
        "data.kind=picture_book",
        "data.labelled=4",
        f"data.root={root / 'book'}",
        f"data.labels={root / 'labels'}",
        "network.name=builtin",
        "augment.crop=32",
        "train.epochs=1",
        "train.batch=2",
        "trackers=",
    ]
    losses = set[str]()
    for name in (
        [],
        ["pseudo.segments=true", "pseudo.tau=0.3"],
        ["pseudo.posterior=transition", "data.calibrate=true"],
    ):
        out = tmp_path / f"run-{len(losses)}"
        run = load(TrainConfig, None, [f"out={out}", *words, *name])
        result = train.execute(run)
        assert result.last_epoch == 1
        losses.add((out / "history.json").read_text())
    assert len(losses) == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pseudo.posterior=transition"], r"pseudo\.posterior=transition: \S+ is not calibrated"),
        (
            ["pseudo.posterior=transition", "method=unimatch"],
            r"pseudo\.posterior needs a method that uses zero-shot",
        ),
        (
            ["pseudo.until=0.5", "method=unimatch"],
            r"pseudo\.until needs a method that uses zero-shot labels, not ",
        ),
        (
            ["pseudo.segments=true", "method=unimatch", "data.labels=null"],
            r"pseudo\.segments needs data\.labels",
        ),
        (
            ["pseudo.segments=true", "method=supervised"],
            r"pseudo\.segments needs a method that labels images",
        ),
        (
            ["pseudo.soft=1", "method=supervised"],
            r"pseudo\.soft needs a method with strong views, not method=sup",
        ),
        (["pseudo.start=0.5", "method=supervised"], r"pseudo\.start needs a method that labels images"),
        (["pseudo.dynamic_tau=true", "method=supervised"], r"pseudo\.dynamic_tau needs a method that labels"),
    ],
)
def test_options_that_would_be_ignored_are_refused(
    data: tuple[Path, Path], tmp_path: Path, words: list[str], message: str
) -> None:
    run = config(tmp_path / "run", *data, *words)
    with pytest.raises(UserError, match=message) as caught:
        train.check(run, open_data(run.data, run.seed))
    assert "\n" not in str(caught.value)


def test_the_stages_must_follow_each_other(data: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"until \(0\.4\) must be above start \(0\.5\)"):
        config(tmp_path, *data, "pseudo.start=0.5", "pseudo.until=0.4")

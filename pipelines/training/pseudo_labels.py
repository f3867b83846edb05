"""The labels of the unlabelled images in a step: Eq. 7, or what `pseudo.*` puts in its place."""

from __future__ import annotations

import torch
from torch import Tensor

from segray.models.semi.guidance import (
    Stages,
    agreeing_label,
    greatest_confidences,
    next_tau,
    posterior_label,
)
from segray.models.semi.methods import METHODS
from segray.models.semi.objective import PseudoLabel, default_epsilon, enhanced_label, pseudo_label
from segray.pipelines.config.commands.train import PseudoConfig, TrainConfig
from segray.pipelines.training.augmentation.views import Views
from segray.pipelines.training.session import max_over_workers


class PseudoLabels:
    """The labels of a run's unlabelled images, step by step.

    Attributes:
        tau: minimum probability of a class that the model predicts; with `pseudo.dynamic_tau` it moves.
        stages: which part of the run a step is in.

    Args:
        config: the run.
        device: of the views.
        total: steps of the run.
        transition: [C, C] for `pseudo.posterior=transition`, see `posterior_label`.
    """

    tau: Tensor

    def __init__(
        self, config: TrainConfig, device: torch.device, total: int = 1, transition: Tensor | None = None
    ) -> None:
        self._pseudo, self._method = config.pseudo, METHODS[config.method]
        self.stages = Stages(total, config.pseudo.start, config.pseudo.until)
        tau = self._method.default_tau if config.pseudo.tau is None else config.pseudo.tau
        self.tau = torch.tensor(tau, dtype=torch.float64, device=device)
        self._transition = None if transition is None else transition.to(device)

    def __call__(self, views: Views, weak: Tensor, step: int) -> PseudoLabel:
        """The labels of a step's unlabelled images, from the weak view's logits [U + P, C, S, S]."""
        assert views.padding is not None
        assert views.partner is not None
        if self._pseudo.dynamic_tau:
            own = len(views.partner)
            greatest = greatest_confidences(weak[:own], ~views.padding[:own])
            self.tau = next_tau(self.tau, max_over_workers(greatest))
        label = self._label(views, weak, step)
        if self._pseudo.segments and views.segments is not None:
            label = agreeing_label(label, weak, views.segments, self.tau)
        if views.by_hand is None or views.zero_shot is None:
            return label
        return label.with_given(views.zero_shot, views.by_hand)

    def _label(self, views: Views, weak: Tensor, step: int) -> PseudoLabel:
        assert views.padding is not None
        if self._method.pseudo == "model" or not self.stages.is_guided(step):
            return pseudo_label(weak, self.tau, padding=views.padding)
        assert views.zero_shot is not None
        if self._transition is not None:
            beta = self.stages.guidance(step)
            return posterior_label(
                weak, views.zero_shot, self._transition, beta, self.tau, padding=views.padding
            )
        return enhanced_label(
            weak,
            views.zero_shot,
            self.tau,
            padding=views.padding,
            confidence=views.confidence,
            min_confidence=self._pseudo.min_confidence,
        )


def epsilon_of(pseudo: PseudoConfig, classes: int) -> float:
    """The smoothing of enhanced labels (Eq. 8) for `classes` classes."""
    if pseudo.epsilon is not None:
        return pseudo.epsilon
    # Forward correction weighs probabilities against how often a label is wrong. Smoothing gives each class
    # epsilon / (C - 1) of every pixel, which is more than a rare one has.
    return 0.0 if pseudo.forward else default_epsilon(classes)

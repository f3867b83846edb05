"""The loss of a training step: views, forward pass, labels from the weak view (Eq. 7), loss (Eq. 8-10)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from segray.models.label_space import ignore_index_of
from segray.models.segmenters.registry import Segmenter
from segray.models.semi.forward import forward_cross_entropy
from segray.models.semi.guidance import soft_loss
from segray.models.semi.methods import METHODS
from segray.models.semi.objective import (
    PseudoLabel,
    smoothed_cross_entropy,
    total_loss,
)
from segray.models.semi.student import Drops, Logits, Maps, complementary_factors, drop_factors
from segray.models.semi.supervised import supervised_sums, weights_tensor
from segray.models.transfer import to_device
from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.training.augmentation.augment import normalise
from segray.pipelines.training.augmentation.views import Augmentation, Views
from segray.pipelines.training.build import uses_channels_last
from segray.pipelines.training.data.sampler import StepBatch, one_of_each_pair
from segray.pipelines.training.pseudo_labels import PseudoLabels, epsilon_of
from segray.pipelines.training.session import sum_over_workers


@dataclass
class StepMetrics:
    """Losses of a step, and counts of pixels, which add up exactly over workers and steps.

    `pixels` counts the unlabelled pixels in the loss, `from_model` those of them whose class is the model's
    prediction, `known` the pixels with a zero-shot class, `agree` those where the weak view's prediction
    equals it.
    """

    loss: Tensor
    supervised: Tensor
    unsupervised: Tensor
    counts: dict[str, Tensor] = field(default_factory=dict)

    def losses(self) -> Tensor:
        """The total, supervised and unsupervised loss as one tensor [3]."""
        return torch.stack([self.loss, self.supervised, self.unsupervised])


class Objective:
    """The loss of a step for one method; it holds no weights but those of the averaged teacher.

    Args:
        config: the run.
        network: the network that is trained; the teacher, where the method has one, starts as a copy of it.
        classes: how many.
        device: where the views are made.
        class_weights: of each class in the loss of labelled images; None: all the same.
        total: steps of the run.
        transition: see `PseudoLabels`.
        mistakes: [C, C] for `pseudo.forward`, see `mistake_matrix`.
    """

    def __init__(
        self,
        config: TrainConfig,
        network: Segmenter,
        classes: int,
        device: torch.device,
        class_weights: Sequence[float] | None = None,
        *,
        total: int = 1,
        transition: Tensor | None = None,
        mistakes: Tensor | None = None,
    ) -> None:
        self.weights = weights_tensor(class_weights, device)
        self.mistakes = None if mistakes is None else mistakes.to(device)
        self.config, self.network, self.device = config, network, device
        self.method = METHODS[config.method]
        self.labels = PseudoLabels(config, device, total, transition)
        self.epsilon = epsilon_of(config.pseudo, classes) if self.method.pseudo == "enhanced" else 0.0
        self.augment = Augmentation(config.augment, self.method.strong_views, config.seed, device)
        self.teacher = _frozen_copy(network) if self.method.teacher == "ema" else None
        self.dims = _perturbed_dims(network, device)
        self.mean, self.std = (torch.tensor(v, device=device) for v in (network.mean, network.std))
        self.channels_last = uses_channels_last(config, device)

    def __call__(self, student: Callable[..., Logits], batch: StepBatch) -> StepMetrics:
        """Loss and metrics of a batch; `student` is a `Student`, perhaps compiled or in DDP."""
        views, draws = self.augment(batch)
        drops = self._drops(draws, batch)
        # The student needs the weak view to label the images itself, or for the feature view.
        needs_weak = self.method.pseudo != "none" and (self.teacher is None or self.method.feature_view)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.train.precision == "bf16"):
            logits = student(
                self._input(views.labelled),
                self._input(views.weak) if needs_weak and views.weak is not None else None,
                tuple(self._input(view) for view in views.strong),
                drops,
                predict_weak=self.teacher is None,
            )
            weak = logits.weak if self.teacher is None else self.teacher_predict(views)
        return self._metrics(views, logits, weak, batch.step)

    def teacher_predict(self, views: Views) -> Tensor | None:
        """The teacher's logits [U + P, C, S, S] of the weak view; None without a teacher or such a view."""
        if self.teacher is None or views.weak is None:
            return None
        with torch.no_grad():
            return self.teacher(self._input(views.weak))

    def update_teacher(self, step: int) -> None:
        """Move the teacher towards the network, with decay min(1 - 1 / (step + 1), ema) as in UniMatch V2.

        Batch statistics are averaged as the weights are.
        """
        if self.teacher is None:
            return
        decay = min(1 - 1 / (step + 1), self.config.pseudo.ema)
        with torch.no_grad():
            means: list[Tensor] = list(self.teacher.parameters())
            torch._foreach_lerp_(means, list[Tensor](self.network.parameters()), 1 - decay)
            for mean, buffer in zip(self.teacher.buffers(), self.network.buffers(), strict=True):
                if buffer.is_floating_point():
                    mean.lerp_(buffer, 1 - decay)
                else:
                    mean.copy_(buffer)

    def _drops(self, draws: list[torch.Generator], batch: StepBatch) -> Drops:
        if batch.unlabelled is None:
            return Drops()
        feature = drop_factors(self.dims, self.config.pseudo.feature_dropout, draws)
        pair: tuple[Maps, ...] = ()
        if self.method.complementary_dropout:
            whole = one_of_each_pair(self.config.seed, batch.unlabelled.positions[: len(draws)])
            pair = complementary_factors(self.dims, draws, whole)
        return Drops(
            self._to_device(feature) if self.method.feature_view else (),
            tuple(self._to_device(view) for view in pair),
        )

    def _to_device(self, factors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(to_device(f, self.device) for f in factors)

    def _input(self, images: Tensor) -> Tensor:
        images = normalise(images, self.mean, self.std)
        return images.contiguous(memory_format=torch.channels_last) if self.channels_last else images

    def _metrics(self, views: Views, logits: Logits, weak: Tensor | None, step: int) -> StepMetrics:
        supervised = self._supervised(logits.labelled, views.mask)
        if weak is None:
            return StepMetrics(supervised, supervised.detach(), torch.zeros_like(supervised.detach()))
        pseudo = self.labels(views, weak, step)
        unsupervised = self._unsupervised(views, logits, pseudo)
        if self.config.pseudo.soft:
            unsupervised = unsupervised + self.config.pseudo.soft * self._soft(
                views, logits.strong, weak, pseudo
            )
        loss = total_loss(supervised, unsupervised)
        counts = _counts(views, weak, pseudo)
        return StepMetrics(loss, supervised.detach(), unsupervised.detach(), counts)

    def _supervised(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of the labelled images over all workers; OHEM chooses among each worker's pixels."""
        share = self.config.loss.ohem
        if self.weights is None and share is None:
            return self._mean(logits, labels, labels != ignore_index_of(logits.shape[1]), 0.0)
        loss, weight = supervised_sums(logits, labels, self.weights, share)
        all_weights, workers = sum_over_workers(torch.stack([weight, torch.ones_like(weight)]))
        return loss * workers / all_weights.clamp(min=1e-12)

    def _unsupervised(self, views: Views, logits: Logits, pseudo: PseudoLabel) -> Tensor:
        method = self.method
        partner = _required(views.partner)
        if self.mistakes is not None and views.by_hand is not None:
            # What a person gave is as sure as what the network is sure of.
            pseudo = replace(pseudo, from_model=pseudo.from_model | views.by_hand)
        own = pseudo.reordered(lambda batch: batch[: len(partner)])
        other = pseudo.reordered(lambda batch: batch.index_select(0, partner))
        parts = []
        if logits.feature is not None:
            parts.append(method.feature_weight * self._mean_of(logits.feature, own))
        for view, boxes in zip(logits.strong, views.boxes, strict=True):
            parts.append(method.strong_weight * self._mean_of(view, own.mixed(other, boxes)))
        return torch.stack(parts).sum()

    def _mean_of(self, logits: Tensor, target: PseudoLabel) -> Tensor:
        if self.mistakes is None:
            return self._mean(logits, target.label, target.valid, self.epsilon)
        mean = forward_cross_entropy(logits, target, self.mistakes, self.epsilon)
        return _over_workers(mean, target.valid)

    def _soft(self, views: Views, strong: tuple[Tensor, ...], weak: Tensor, pseudo: PseudoLabel) -> Tensor:
        """The divergence of the strong views from the weak view, mixed as they are: the mean over them."""
        partner = _required(views.partner)
        own, other = weak[: len(partner)], weak.index_select(0, partner)
        valid, valid_other = pseudo.valid[: len(partner)], pseudo.valid.index_select(0, partner)
        losses = []
        for view, boxes in zip(strong, views.boxes, strict=True):
            mixed = torch.where(boxes[:, None], other, own)
            counted = torch.where(boxes, valid_other, valid)
            sure = mixed.float().softmax(1).amax(1) >= self.labels.tau
            if views.by_hand is not None:
                by_hand = views.by_hand
                sure &= ~torch.where(boxes, by_hand.index_select(0, partner), by_hand[: len(partner)])
            losses.append(_over_workers(soft_loss(mixed, view, sure, counted), counted))
        return torch.stack(losses).mean()

    def _mean(self, logits: Tensor, labels: Tensor, valid: Tensor, epsilon: float) -> Tensor:
        """The mean over the valid pixels of all workers, once DDP has averaged the workers' gradients."""
        return _over_workers(smoothed_cross_entropy(logits, labels, epsilon, valid=valid), valid)


def _over_workers(mean: Tensor, valid: Tensor) -> Tensor:
    """A worker's mean over its valid pixels as its part of the mean over those of all workers."""
    pixels = valid.sum().float()
    all_pixels, workers = sum_over_workers(torch.stack([pixels, torch.ones_like(pixels)]))
    return mean * (pixels * workers / all_pixels.clamp(min=1))


def _counts(views: Views, weak: Tensor, pseudo: PseudoLabel) -> dict[str, Tensor]:
    own = len(_required(views.partner))
    zero_shot = _required(views.zero_shot)[:own]
    known = (zero_shot != ignore_index_of(weak.shape[1])) & ~_required(views.padding)[:own]
    pseudo = pseudo.reordered(lambda batch: batch[:own])
    return {
        "pixels": pseudo.valid.sum(),
        "from_model": (pseudo.from_model & pseudo.valid).sum(),
        "known": known.sum(),
        "agree": ((weak[:own].argmax(1) == zero_shot) & known).sum(),
    }


def _frozen_copy(network: Segmenter) -> Segmenter:
    teacher = copy.deepcopy(network).eval()
    return teacher.requires_grad_(False)


@torch.no_grad()
def _perturbed_dims(network: Segmenter, device: torch.device) -> list[int]:
    training = network.training
    network.eval()
    maps = network.encode(torch.zeros(1, 3, 64, 64, device=device))
    network.train(training)
    return [maps[i].shape[1] for i in network.perturbed]


def _required(value: Tensor | None) -> Tensor:
    assert value is not None
    return value

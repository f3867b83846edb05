"""Forward correction: zero-shot labels judged by the mistakes that they make on the labelled images.

A label z of a pixel need not be its class y. With the matrix M[y, z] = P(z | y) the loss of such a pixel is
the cross-entropy of z under sum_y p_y M[y, z], so that the network predicts true classes while it learns from
wrong labels: Patrini et al., "Making Deep Neural Networks Robust to Label Noise" (CVPR 2017), with M from
trusted labels as in Hendrycks et al. (NeurIPS 2018).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from segray.models.label_space import ignore_index_of
from segray.models.semi.objective import PseudoLabel, cross_entropies

_PRIOR = 1e-3
"""Weight of what is expected of a class, as a share of all counted pixels."""
_LEAST = 1e-6


def mistake_matrix(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """M [C, C], rows true classes: the share of each label among the pixels of a class.

    Each row is shrunk to what is expected of a class of which nothing is known: the label is right as often
    as those of the counted classes are on average, and otherwise any label, as frequent as it is anywhere.

    Args:
        confusion: [C, C], rows truth, columns labels, in pixels; at least one.
    """
    counts = confusion.astype(float)
    pixels = counts.sum(1)
    seen = pixels > 0
    right = float((counts.diagonal()[seen] / pixels[seen]).mean())
    anywhere = counts.sum(0) / counts.sum()
    expected = right * np.eye(len(counts)) + (1 - right) * anywhere
    weight = _PRIOR * counts.sum()
    matrix: NDArray[np.float64] = (counts + weight * expected) / (pixels + weight)[:, None]
    return matrix


def forward_cross_entropy(logits: Tensor, target: PseudoLabel, mistakes: Tensor, epsilon: float) -> Tensor:
    """The mean loss of unlabelled images whose zero-shot labels make the mistakes M.

    Pixels of `target.from_model` have Eq. 8, the others -log sum_y p_y M[y, label], without smoothing: the
    matrix says already how far a label is to be believed. Computed in float32 or better; 0 without valid
    pixels.

    Args:
        logits: [B, C, H, W].
        target: labels of these pixels.
        mistakes: M, see `mistake_matrix`.
        epsilon: of Eq. 8.
    """
    unknown = ignore_index_of(logits.shape[1])
    known = (target.label != unknown) & target.valid
    label = target.label.masked_fill(~known, 0)
    scores = F.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), 1)
    evidence = mistakes.clamp(min=_LEAST).log().t()[label].movedim(-1, 1)
    forward = -torch.logsumexp(scores + evidence, 1)
    loss = torch.where(target.from_model, cross_entropies(scores, label, epsilon), forward)
    return loss.masked_fill(~known, 0).sum() / target.valid.sum().clamp(min=1)

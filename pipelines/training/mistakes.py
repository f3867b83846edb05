"""The mistakes that a label set makes on the labelled images, for `pseudo.forward`."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segray.models.label_space import ignore_index_of
from segray.models.metrics import confusion_matrix
from segray.models.semi.forward import mistake_matrix
from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.errors import UserError
from segray.pipelines.training.data.samples import TrainingData
from segray.pipelines.training.masked_labels import masked_labels
from segray.pipelines.training.refine import refine_steps
from segray.pipelines.understood import line, name_some

_KEY = "pseudo.forward"
_SHOWN = 6


def mistakes_of(config: TrainConfig, data: TrainingData) -> Tensor | None:
    """The matrix of `mistake_matrix` of a run, float32 [C, C]; None where the run has no use for it.

    Raises:
        UserError: no labelled image has a label, or one of another size than its mask.
    """
    confusion = _confusion(config, data)
    return None if confusion is None else torch.from_numpy(mistake_matrix(confusion)).float()


def mistake_lines(config: TrainConfig, data: TrainingData) -> list[str]:
    """How many of a class's labels are right on the labelled images, for `pseudo.forward`; the worst classes.

    Raises:
        UserError: as `mistakes_of` raises.
    """
    confusion = _confusion(config, data)
    if confusion is None:
        return []
    given = confusion.sum(0)
    labelled = np.flatnonzero(given)
    share = confusion.diagonal()[labelled] / given[labelled]
    worst = np.argsort(share, kind="stable")
    texts = [f"{data.space.classes[labelled[i]]} {100 * share[i]:.1f} %" for i in worst]
    shown = name_some(texts, _SHOWN)
    return [line("labels", f"of their pixels on the labelled images are right: {shown}")]


def _confusion(config: TrainConfig, data: TrainingData) -> NDArray[np.int64] | None:
    """Pixels of the labelled images by class and label, [C, C]."""
    labels = config.data.labels
    if not config.pseudo.forward or labels is None:
        return None
    classes = len(data.space.classes)
    confusion = np.zeros((classes, classes), np.int64)
    for one in masked_labels(config, data, labels, _KEY, refine=refine_steps(config, data)):
        truth, label = one.truth[one.used], one.label[one.used]
        confusion += confusion_matrix(truth, label, classes, ignore_index_of(classes))
    if not confusion.any():
        raise UserError(f"{_KEY}: no pixel of the labelled images has both a class and a label")
    return confusion

"""The mistakes that a label set makes on the labelled images, for `pseudo.forward`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segray.models.label_space import ignore_index_of
from segray.models.metrics import confusion_matrix
from segray.models.semi.forward import mistake_matrix
from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.label_set.store import LabelStore
from segray.pipelines.training.calibrated import labelled_with_labels
from segray.pipelines.training.data.datasets import UnlabelledImages, read_mask
from segray.pipelines.training.data.label_join import list_images
from segray.pipelines.training.data.samples import TrainingData
from segray.pipelines.understood import line, name_some

MOST_IMAGES = 512
"""Labelled images that are counted, evenly spread."""
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
    if not config.pseudo.forward or config.data.labels is None:
        return None
    classes, store = data.space.classes, LabelStore(config.data.labels)
    if "calibration" in store.provenance:
        where = storage.display(store.root)
        raise UserError(
            f"pseudo.forward: data.labels={where} was corrected by masks, on which its mistakes say little; "
            "give a label set that no mask has corrected, or pseudo.forward=false"
        )
    found = labelled_with_labels(config, data, list_images(store), "pseudo.forward")
    counted = found[:: -(-len(found) // MOST_IMAGES)]
    # What a person gave is no mistake of the label set.
    stored = UnlabelledImages([replace(sample, by_hand=None) for sample in counted], store.root, classes)
    unknown = ignore_index_of(len(classes))
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    for i, sample in enumerate(counted):
        if (pair := stored.labels(i)) is None:
            continue
        (label, confidence), truth = (tensor.numpy() for tensor in pair), read_mask(sample)
        if label.shape != truth.shape:
            sizes = " and ".join(f"{w}x{h}" for h, w in (truth.shape, label.shape))
            raise UserError(f"pseudo.forward: mask and label of {sample.shown_mask} are {sizes} pixels")
        used = (label != unknown) & (confidence >= 255 * config.pseudo.min_confidence)
        confusion += confusion_matrix(truth[used], label[used], len(classes), unknown)
    if not confusion.any():
        raise UserError("pseudo.forward: no pixel of the labelled images has both a class and a label")
    return confusion

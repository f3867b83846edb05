"""The labels of the labelled images beside their masks: what they are worth where the truth is known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from segray.models.label_map import LabelMap, label_dtype
from segray.models.label_space import ignore_index_of
from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.label_set.store import LabelStore
from segray.pipelines.training.calibrated import labelled_with_labels
from segray.pipelines.training.data.datasets import LabelledImages, UnlabelledImages
from segray.pipelines.training.data.label_join import list_images
from segray.pipelines.training.data.samples import TrainingData

MOST_IMAGES = 512
"""Labelled images that are read, evenly spread."""


@dataclass(frozen=True)
class MaskedLabel:
    """A labelled image with its label.

    Attributes:
        image: uint8 [3, H, W].
        truth: its mask, [H, W], void as `ignore_index_of`.
        label: of the label set, [H, W], without what a person gave.
        used: bool [H, W], where the label has a class and `pseudo.min_confidence`.
    """

    image: Tensor
    truth: NDArray[np.integer]
    label: LabelMap
    used: NDArray[np.bool_]


def masked_labels(
    config: TrainConfig,
    data: TrainingData,
    labels: str,
    key: str,
    *,
    refine: int = 0,
    most: int = MOST_IMAGES,
) -> Iterator[MaskedLabel]:
    """The labelled images of a run that have a label.

    Args:
        config: the run.
        data: what it trains on.
        labels: folder or URI of the label set.
        key: what needs them, for messages.
        refine: see `UnlabelledImages`.
        most: images, evenly spread.

    Raises:
        UserError: the label set was calibrated, no labelled image has a label, or one of another size than
            its mask.
    """
    classes, store = data.space.classes, LabelStore(labels)
    unknown = ignore_index_of(len(classes))
    if "calibration" in store.provenance:
        raise UserError(
            f"{key}: data.labels={storage.display(store.root)} was corrected by masks, on which its mistakes "
            f"say little; give the label set that it was made from, or leave out {key}"
        )
    found = labelled_with_labels(config, data, list_images(store), key)
    counted = found[:: -(-len(found) // most)]
    images = LabelledImages(counted)
    # What a person gave is no mistake of the label set.
    stored = [replace(sample, by_hand=None) for sample in counted]
    labelled = UnlabelledImages(stored, store.root, classes, refine=refine)
    for i, sample in enumerate(counted):
        image, mask = images[i]
        if (pair := labelled.labels(i, image)) is None:
            continue
        (label, confidence), truth = (tensor.numpy() for tensor in pair), mask.numpy()
        if label.shape != truth.shape:
            sizes = " and ".join(f"{w}x{h}" for h, w in (truth.shape, label.shape))
            raise UserError(f"{key}: mask and label of {sample.shown_mask} are {sizes} pixels")
        used = (label != unknown) & (confidence >= 255 * config.pseudo.min_confidence)
        yield MaskedLabel(image, truth, label.astype(label_dtype(unknown)), used)

"""How far the labels of a run follow the edges of their images: `pseudo.refine`."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from segray.models.label_space import ignore_index_of
from segray.models.metrics import class_sums, iou_of_sums
from segray.models.semi.refinement import refined_labels
from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.errors import UserError
from segray.pipelines.training.data.samples import TrainingData
from segray.pipelines.training.masked_labels import masked_labels
from segray.pipelines.understood import line

STEPS = (0, 2, 5, 10, 20)
"""Numbers of steps of which the labelled images choose one."""
MOST_IMAGES = 64
"""Labelled images that choose, evenly spread."""
_KEY = "pseudo.refine=null"


def refine_steps(config: TrainConfig, data: TrainingData) -> int:
    """Steps by which the zero-shot labels of a run are refined, see `refined_labels`.

    With `pseudo.refine=null` those after which the labels of the labelled images have the highest mIoU, the
    fewest of several.

    Raises:
        UserError: see `masked_labels`; or no pixel has both a class and a label.
    """
    if config.pseudo.refine is not None:
        return config.pseudo.refine
    return STEPS[int(np.argmax(_scores(config, data)))]


def refine_lines(config: TrainConfig, data: TrainingData) -> list[str]:
    """What `pseudo.refine=null` chose, and by which mIoU.

    Raises:
        UserError: as `refine_steps` raises.
    """
    if config.pseudo.refine is not None or config.data.labels is None:
        return []
    scores = _scores(config, data)
    tried = ", ".join(f"{100 * s:.1f} % ({n})" for n, s in zip(STEPS, scores, strict=True))
    chosen = STEPS[int(np.argmax(scores))]
    how = f"follow the images' edges, {chosen} steps" if chosen else "stay as they are"
    return [line("labels", f"{how}: mIoU on the labelled images by steps: {tried}")]


def _scores(config: TrainConfig, data: TrainingData) -> NDArray[np.float64]:
    """The mIoU of the labels of the labelled images after each of `STEPS`."""
    labels, classes = config.data.labels, len(data.space.classes)
    assert labels is not None
    unknown = ignore_index_of(classes)
    sums = torch.zeros(len(STEPS), 3, classes, dtype=torch.int64)
    for one in masked_labels(config, data, labels, _KEY, most=MOST_IMAGES):
        truth = torch.from_numpy(one.truth[one.used]).long()
        for i, (label, _) in enumerate(refined_labels(one.image, one.label, STEPS, unknown)):
            sums[i] += class_sums(truth, torch.from_numpy(label[one.used]).long(), classes, unknown)
    if not sums.any():
        raise UserError(f"{_KEY}: no pixel of the labelled images has both a class and a label")
    return np.array([np.nanmean(iou_of_sums(*of_steps)) for of_steps in sums.numpy()])

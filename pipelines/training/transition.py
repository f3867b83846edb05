"""What a calibrated label set says of its own mistakes, for `pseudo.posterior=transition`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segray.models.label_space import ignore_index_of
from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.strict_json import parse_json
from segray.pipelines.training.calibrated import labels_of
from segray.pipelines.training.data.class_names import class_id_table

_BAD = (ValueError, TypeError, AttributeError, OverflowError, RecursionError)
_ROUNDING = 1e-3
"""By how much the shares of a row, which are rounded, may miss 1."""


def transition_of(config: TrainConfig, classes: Sequence[str]) -> Tensor | None:
    """`read_transition` of a run's label set, float32 [C, C]; None where the run has no use for it.

    Raises:
        UserError: as `read_transition`.
    """
    labels = labels_of(config)
    if config.pseudo.posterior == "switch" or labels is None:
        return None
    return torch.from_numpy(read_transition(labels, classes)).float()


def read_transition(labels: str, classes: Sequence[str]) -> NDArray[np.float64]:
    """How many times as frequent a true class (columns) is where a label (rows) stands as anywhere.

    With the data set's ids: T[z, y] / pi_y of `posterior_label`. 1 for a class that no mask has, of which
    nothing is known.

    Args:
        labels: folder or URI of a calibrated label set.
        classes: the data set's.

    Raises:
        UserError: the label set is not calibrated, the file is damaged, or it has other classes.
    """
    from segray.pipelines.calibration.description import FILE

    where = storage.join(labels, FILE)
    try:
        stored, shares, prior = _parsed(parse_json(storage.read_bytes(where)))
    except FileNotFoundError:
        raise UserError(
            f"pseudo.posterior=transition: {storage.display(labels)} is not calibrated; run `segray "
            "calibrate`, or set data.calibrate=true"
        ) from None
    except KeyError as error:
        raise UserError(
            f"{storage.display(where)} has no {error}: an earlier version wrote it; run the same "
            "`segray calibrate` again"
        ) from None
    except _BAD as error:
        raise UserError(f"{storage.display(where)} is damaged ({str(error)[:100]})") from None
    table = class_id_table(stored, classes, ignore_index_of(len(stored)), storage.display(labels))
    known = np.flatnonzero(table[: len(stored)] != ignore_index_of(len(classes)))
    kept, anywhere = shares[np.ix_(known, known)], prior[known]
    kept = kept / np.maximum(kept.sum(1, keepdims=True), 1e-12)
    anywhere = anywhere / max(anywhere.sum(), 1e-12)
    return np.divide(kept, anywhere, out=np.ones_like(kept), where=anywhere > 0)


def _parsed(content: Any) -> tuple[list[str], NDArray[np.float64], NDArray[np.float64]]:
    told = content["transition"]
    classes, shares, prior = told["classes"], told["shares"], np.array(told["prior"], np.float64)
    if not all(isinstance(name, str) for name in classes):
        raise ValueError("a class without a name")
    matrix = np.array(shares, np.float64)
    if matrix.shape != (len(classes), len(classes)):
        raise ValueError(f"shares of shape {list(matrix.shape)} for {len(classes)} classes")
    if prior.shape != (len(classes),):
        raise ValueError(f"a prior of shape {list(prior.shape)} for {len(classes)} classes")
    rows = np.vstack([matrix, prior])
    if not ((rows >= 0).all() and (abs(rows.sum(1) - 1) < _ROUNDING).all()):
        raise ValueError("shares that do not add up to 1")
    return list(classes), matrix, prior

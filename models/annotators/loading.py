"""Models that find segments, with their weights."""

from __future__ import annotations

from segray.models.annotators.protocols import MaskModel
from segray.models.annotators.registry import mask_entry
from segray.models.weights import Checkpoint, UnavailableError, resolve


def find_weights(name: str, weights: str | None = None, sha256: str | None = None) -> Checkpoint:
    """The weights of a model: those that are named, or the official ones.

    Args:
        name: of the model.
        weights: anything `models.weights.resolve` takes; None for the model's official (or built-in) file.
        sha256: the expected digest of `weights`; that of some official files is known.

    Raises:
        ValueError: unknown model.
        WeightsError: the weights cannot be had, or are not what was expected.
    """
    entry = mask_entry(name)
    if weights is None:
        weights, sha256 = entry.source, sha256 or entry.sha256
    try:
        return resolve(weights, sha256=sha256)
    except UnavailableError as error:
        raise error.for_model("sam") from error


def open_model(
    name: str, weights: str | None = None, *, sha256: str | None = None
) -> tuple[MaskModel, Checkpoint]:
    """A model on the CPU, and the checkpoint that its weights came from; see `find_weights`.

    Raises:
        ValueError: unknown model, or a package that is not installed.
        WeightsError: as `find_weights`, or weights that do not fit the model.
    """
    family = mask_entry(name).open_family()
    checkpoint = find_weights(name, weights, sha256)
    return family.load(name, checkpoint), checkpoint


def check_model(
    name: str, weights: str | None = None, *, sha256: str | None = None
) -> tuple[int, Checkpoint]:
    """Raise what `open_model` would raise; where the family can, without loading the weights.

    Returns:
        The long side of the input in pixels, and the checkpoint.
    """
    family = mask_entry(name).open_family()
    checkpoint = find_weights(name, weights, sha256)
    return family.check(name, checkpoint), checkpoint

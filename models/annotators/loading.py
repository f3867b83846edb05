"""Models that annotate, with their weights."""

from __future__ import annotations

from segray.models.annotators.protocols import LabelModel, MaskModel
from segray.models.annotators.registry import Entry, LabelEntry, label_entry, mask_entry
from segray.models.weights import Checkpoint, UnavailableError, WeightsError, parse_hub, resolve


def find_weights(name: str, weights: str | None = None, sha256: str | None = None) -> Checkpoint:
    """The weights of a model that finds segments: those that are named, or the official ones.

    Args:
        name: of the model.
        weights: anything `models.weights.resolve` takes; None for the model's official (or built-in) file.
        sha256: the expected digest of `weights`; that of some official files is known.

    Raises:
        ValueError: unknown model.
        WeightsError: the weights cannot be had, or are not what was expected.
    """
    try:
        return _resolve(mask_entry(name), weights, sha256)
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


def open_labeller(
    name: str, weights: str | None = None, *, sha256: str | None = None
) -> tuple[LabelModel, Checkpoint]:
    """As `open_model`, of a model that finds segments of named classes."""
    family = label_entry(name).open_family()
    checkpoint = _labeller_weights(name, weights, sha256)
    return family.load(name, checkpoint), checkpoint


def check_labeller(
    name: str, weights: str | None = None, *, sha256: str | None = None
) -> tuple[int, Checkpoint]:
    """As `check_model`, of a model that finds segments of named classes."""
    family = label_entry(name).open_family()
    checkpoint = _labeller_weights(name, weights, sha256)
    return family.check(name, checkpoint), checkpoint


def _labeller_weights(name: str, weights: str | None, sha256: str | None) -> Checkpoint:
    entry = label_entry(name)
    try:
        return _resolve(entry, weights, sha256)
    except UnavailableError as error:
        ask = _where_to_ask(entry) if entry.gated and weights is None else "go online once"
        raise WeightsError(
            f"no weights for annotator={name}: {error.args[0]}; {ask}, or give a file, "
            "labeller.weights=FILE (see docs/real-models.md)"
        ) from error


def _where_to_ask(entry: LabelEntry) -> str:
    page = f"https://huggingface.co/{parse_hub(entry.source).repo}"
    return f"they are given on request: ask at {page}, then run `hf auth login` or set HF_TOKEN"


def _resolve(entry: Entry, weights: str | None, sha256: str | None) -> Checkpoint:
    if weights is None:
        weights, sha256 = entry.source, sha256 or entry.sha256
    return resolve(weights, sha256=sha256)

"""SAM by name: how it is built, and its weights read."""

from __future__ import annotations

from collections.abc import Callable

from segment_anything.build_sam import build_sam_vit_b, build_sam_vit_h, build_sam_vit_l, sam_model_registry
from segment_anything.modeling import Sam

from segray.models.annotators.loading import find_weights
from segray.models.annotators.registry import MASK_MODELS, MaskEntry
from segray.models.architectures import is_like
from segray.models.builtin.arch import SAM_ARCH, build_builtin_sam
from segray.models.uninitialised import uninitialised
from segray.models.weights import Checkpoint, WeightsError, fitting_state, load_into, read_card


def _build_builtin(checkpoint: Checkpoint) -> Sam:
    arch = read_card(checkpoint).get("arch", SAM_ARCH)
    if not is_like(arch, SAM_ARCH):
        keys = ", ".join(SAM_ARCH)
        raise WeightsError(
            f"{checkpoint.path}: its metadata 'arch' must have whole numbers for {keys}, up to 16 times the "
            "built-in model's"
        )
    return build_builtin_sam(arch)


_BUILD: dict[str, Callable[[Checkpoint], Sam]] = {
    "vit_b": lambda _: build_sam_vit_b(),
    "vit_l": lambda _: build_sam_vit_l(),
    "vit_h": lambda _: build_sam_vit_h(),
    "builtin": _build_builtin,
}
SAM_MODELS: dict[str, MaskEntry] = {name: MASK_MODELS[name] for name in _BUILD}
"""The models of segment_anything among those that find segments."""


def build_sam(model: str, weights: str | None = None, *, sha256: str | None = None) -> tuple[Sam, Checkpoint]:
    """A SAM in evaluation mode on the CPU, and the checkpoint its weights came from.

    Args:
        model: a key of `SAM_MODELS`.
        weights: see `find_weights`.
        sha256: see `find_weights`.

    Raises:
        ValueError: unknown model.
        WeightsError: the weights cannot be had, are not what was expected, or do not fit the model.
    """
    if model not in SAM_MODELS:
        raise ValueError(f"unknown SAM model {model!r}; choose one of {', '.join(SAM_MODELS)}")
    checkpoint = find_weights(model, weights, sha256)
    return load_sam(model, checkpoint), checkpoint


def load_sam(model: str, checkpoint: Checkpoint) -> Sam:
    """A SAM in evaluation mode on the CPU.

    Raises:
        WeightsError: the weights do not fit the model.
    """
    with uninitialised():
        sam = _BUILD[model](checkpoint)
    load_into(sam, checkpoint, model)
    return sam.eval()


def untrained_sam(model: str) -> Sam:
    """A SAM with random weights, in evaluation mode on the CPU."""
    return (build_builtin_sam(SAM_ARCH) if model == "builtin" else sam_model_registry[model]()).eval()


def check_weights(model: str, checkpoint: Checkpoint) -> int:
    """Compare the names and shapes of the tensors; their values are not read.

    Returns:
        The long side of the input in pixels.

    Raises:
        WeightsError: as `load_sam`.
    """
    with uninitialised():
        sam = _BUILD[model](checkpoint)
    fitting_state(sam, checkpoint, model, mapped=True)
    return sam.image_encoder.img_size

"""SAM by name: its weights, how it is built, and the prompts and thresholds it is used with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from segment_anything.build_sam import build_sam_vit_b, build_sam_vit_h, build_sam_vit_l
from segment_anything.modeling import Sam

from segray.models.builtin.arch import SAM_ARCH, build_builtin_sam
from segray.models.uninitialised import uninitialised
from segray.models.weights import (
    Checkpoint,
    UnavailableError,
    WeightsError,
    fitting_state,
    load_into,
    read_card,
    resolve,
)

_OFFICIAL = "https://dl.fbaipublicfiles.com/segment_anything/"


@dataclass(frozen=True)
class SamEntry:
    """A SAM by name: its weights, how to build it empty, and the prompts and thresholds it is used with."""

    url: str
    sha256: str | None
    build: Callable[[Checkpoint], Sam]
    points_per_side: int = 32
    pred_iou_thresh: float = 0.88
    stability_score_thresh: float = 0.95


def _build_builtin(checkpoint: Checkpoint) -> Sam:
    arch = read_card(checkpoint).get("arch", SAM_ARCH)
    if not isinstance(arch, dict) or {key for key, n in arch.items() if isinstance(n, int)} != set(SAM_ARCH):
        keys = ", ".join(SAM_ARCH)
        raise WeightsError(f"{checkpoint.path}: its metadata 'arch' must have whole numbers for {keys}")
    return build_builtin_sam(arch)


SAM_MODELS: dict[str, SamEntry] = {
    "vit_b": SamEntry(
        _OFFICIAL + "sam_vit_b_01ec64.pth",
        "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
        lambda _: build_sam_vit_b(),
    ),
    "vit_l": SamEntry(
        _OFFICIAL + "sam_vit_l_0b3195.pth",
        "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
        lambda _: build_sam_vit_l(),
    ),
    "vit_h": SamEntry(
        _OFFICIAL + "sam_vit_h_4b8939.pth",
        "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
        lambda _: build_sam_vit_h(),
    ),
    "builtin": SamEntry(
        "builtin:sam",
        None,
        _build_builtin,
        points_per_side=16,
        pred_iou_thresh=0.5,
        stability_score_thresh=0.8,
    ),
}


def build_sam(model: str, weights: str | None = None, *, sha256: str | None = None) -> tuple[Sam, Checkpoint]:
    """A SAM in evaluation mode on the CPU, and the checkpoint its weights came from.

    Args:
        model: a key of `SAM_MODELS`.
        weights: anything `models.weights.resolve` takes; None for the model's official (or built-in) file.
        sha256: the expected digest of `weights`; the official file's is known.

    Raises:
        ValueError: unknown model.
        WeightsError: the weights cannot be had, are not what was expected, or do not fit the model.
    """
    checkpoint = _find(model, weights, sha256)
    with uninitialised():
        sam = SAM_MODELS[model].build(checkpoint)
    load_into(sam, checkpoint, model)
    return sam.eval(), checkpoint


def check_sam(model: str, weights: str | None = None, *, sha256: str | None = None) -> tuple[int, Checkpoint]:
    """Raise what `build_sam` would raise, without loading the weights.

    The file is found, or fetched, and hashed; the names and shapes of its tensors are compared.

    Args:
        model: see `build_sam`.
        weights: see `build_sam`.
        sha256: see `build_sam`.

    Returns:
        The long side of the input in pixels, and the checkpoint.

    Raises:
        ValueError: see `build_sam`.
        WeightsError: see `build_sam`.
    """
    checkpoint = _find(model, weights, sha256)
    with uninitialised():
        sam = SAM_MODELS[model].build(checkpoint)
    fitting_state(sam, checkpoint, model, mapped=True)
    return sam.image_encoder.img_size, checkpoint


def _find(model: str, weights: str | None, sha256: str | None) -> Checkpoint:
    if model not in SAM_MODELS:
        raise ValueError(f"unknown SAM model {model!r}; choose one of {', '.join(SAM_MODELS)}")
    entry = SAM_MODELS[model]
    if weights is None:
        weights, sha256 = entry.url, sha256 or entry.sha256
    try:
        return resolve(weights, sha256=sha256)
    except UnavailableError as error:
        raise error.for_model("sam") from error

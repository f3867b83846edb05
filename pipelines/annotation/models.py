"""The models of a run before its first image: checked for a cluster, loaded for a run in this process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from segray.pipelines.annotation.stages.features import check_clip_options, with_proxy
from segray.pipelines.annotation.stages.segment import check_sam_options
from segray.pipelines.config.commands.annotate import AnnotateConfig

if TYPE_CHECKING:  # torch and open_clip take seconds to import
    from segray.models.annotators.protocols import MaskModel
    from segray.models.clip.model import ClipModel


@dataclass(frozen=True)
class Loaded:
    """Both models on the CPU; `sam` is None in a run without SAM."""

    sam: MaskModel | None
    clip: ClipModel


@dataclass(frozen=True)
class Models:
    """The models of a run.

    Attributes:
        clip: embeds texts. Its image tower has values only if the models are loaded.
        sam_sha256: checksum of SAM's weights; None without SAM.
        sam_size: long side of SAM's input in pixels; 0 without SAM.
        loaded: both, if the run is to use them in this process.
    """

    clip: ClipModel
    sam_sha256: str | None
    sam_size: int
    loaded: Loaded | None


def open_models(config: AnnotateConfig, *, load: bool) -> Models:
    """Find, or fetch, the weights of both models and check that they, and the options, fit.

    An option that a model does not support would make an error row of every image.

    Args:
        config: of the run.
        load: load both models. Otherwise only CLIP's text tower is loaded.

    Raises:
        ValueError: weights or an option that do not fit.
    """
    from segray.models.clip.model import build_clip, build_text_clip

    clip = (build_clip if load else build_text_clip)(
        config.clip.model, config.clip.weights, sha256=config.clip.sha256
    )
    clip = with_proxy(clip, config.clip)
    sam, sha256, size = None, None, 0
    if config.sam.model != "none":
        sam, sha256, size = _open_sam(config, load)
        check_sam_options(config.sam)
    check_clip_options(clip, config.clip)
    return Models(clip, sha256, size, Loaded(sam, clip) if load else None)


def _open_sam(config: AnnotateConfig, load: bool) -> tuple[MaskModel | None, str, int]:
    """The model if it is loaded, the checksum of its weights, the long side of its input."""
    from segray.models.annotators.loading import check_model, open_model

    model, weights, sha256 = config.sam.model, config.sam.weights, config.sam.sha256
    if not load:
        size, checkpoint = check_model(model, weights, sha256=sha256)
        return None, checkpoint.sha256, size
    sam, checkpoint = open_model(model, weights, sha256=sha256)
    return sam, checkpoint.sha256, sam.size

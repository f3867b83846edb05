"""The models of a run before its first image: checked for a cluster, loaded for a run in this process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from segray.pipelines.annotation.stages.features import check_clip_options, with_proxy
from segray.pipelines.annotation.stages.label import check_labeller_options
from segray.pipelines.annotation.stages.segment import check_sam_options
from segray.pipelines.config.commands.annotate import SAM_CLIP, AnnotateConfig

if TYPE_CHECKING:  # torch and open_clip take seconds to import
    from segray.models.annotators.protocols import AnnotatorModel
    from segray.models.clip.model import ClipModel


@dataclass(frozen=True)
class Models:
    """The models of a run.

    Attributes:
        sha256: checksums of the weights, by stage; None: a model without.
        size: long side of the input of the first model in pixels; 0 if CLIP alone labels.
        clip: embeds texts; None with a labeller. Its image tower has values only if the models are loaded.
        loaded: by stage, on the CPU, if the run is to use them in this process.
    """

    sha256: Mapping[str, str | None]
    size: int
    clip: ClipModel | None
    loaded: Mapping[str, object] | None


def open_models(config: AnnotateConfig, *, load: bool) -> Models:
    """Find, or fetch, the weights of all models and check that they, and the options, fit.

    An option that a model does not support would make an error row of every image.

    Args:
        config: of the run.
        load: load the models. Otherwise only CLIP's text tower is loaded.

    Raises:
        ValueError: weights or an option that do not fit.
    """
    return (_open_sam_clip if config.annotator == SAM_CLIP else _open_labeller)(config, load)


def _open_sam_clip(config: AnnotateConfig, load: bool) -> Models:
    from segray.models.clip.model import build_clip, build_text_clip

    clip = (build_clip if load else build_text_clip)(
        config.clip.model, config.clip.weights, sha256=config.clip.sha256
    )
    clip = with_proxy(clip, config.clip, load=load)
    sam, sha256, size = None, None, 0
    if config.sam.model != "none":
        sam, sha256, size = _open_sam(config, load)
        check_sam_options(config.sam)
    check_clip_options(clip, config.clip)
    loaded = {"sam": sam, "clip": clip} if load else None
    return Models({"sam": sha256, "clip": clip.checkpoint.sha256}, size, clip, loaded)


def _open_sam(config: AnnotateConfig, load: bool) -> tuple[AnnotatorModel | None, str, int]:
    """The model if it is loaded, the checksum of its weights, the long side of its input."""
    from segray.models.annotators.loading import check_model, open_model

    model, weights, sha256 = config.sam.model, config.sam.weights, config.sam.sha256
    if not load:
        size, checkpoint = check_model(model, weights, sha256=sha256)
        return None, checkpoint.sha256, size
    sam, checkpoint = open_model(model, weights, sha256=sha256)
    return sam, checkpoint.sha256, sam.size


def _open_labeller(config: AnnotateConfig, load: bool) -> Models:
    from segray.models.annotators.loading import check_labeller, open_labeller

    check_labeller_options(config.annotator, config.labeller, config.label.threshold)
    weights, sha256 = config.labeller.weights, config.labeller.sha256
    if not load:
        size, checkpoint = check_labeller(config.annotator, weights, sha256=sha256)
        return Models({"labeller": checkpoint.sha256}, size, None, None)
    labeller, checkpoint = open_labeller(config.annotator, weights, sha256=sha256)
    return Models({"labeller": checkpoint.sha256}, labeller.size, None, {"labeller": labeller})

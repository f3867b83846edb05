"""The stages of a run that hold a model, between reading and encoding; no other module chooses them.

A source of masks and CLIP in two stages (or both in one, to share a GPU), CLIP alone, or a labeller.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from segray.pipelines.annotation.prepared import Prepared
from segray.pipelines.annotation.stages.classify import ClassifySegments
from segray.pipelines.annotation.stages.label import LabelImages
from segray.pipelines.annotation.stages.segment import SegmentImages
from segray.pipelines.annotation.stages.segment_and_classify import SegmentAndClassify
from segray.pipelines.config.commands.annotate import ClipConfig, LabellerConfig, SamConfig

Model = TypeVar("Model", SamConfig, ClipConfig, LabellerConfig)


@dataclass(frozen=True)
class ModelStage:
    """A stage that holds a model.

    Attributes:
        name: of its pool, and of the model in this process.
        kind: its class; besides `arguments` it takes `plan` and `guard`.
        arguments: the same for each worker.
    """

    name: str
    kind: type
    arguments: Mapping[str, Any]


def model_stages(prepared: Prepared, *, shared: bool = False) -> list[ModelStage]:
    """The stages of a run, in their order.

    Args:
        prepared: the run.
        shared: one stage holds both models.
    """
    config = prepared.config
    makers = {"sam": _segment, "clip": _classify, "labeller": _label}
    if not shared:
        return [makers[name](prepared) for name in config.model_stages]
    sam, clip = _segment(prepared).arguments["config"], dict(_classify(prepared).arguments)
    arguments = {"sam": sam, "clip": clip.pop("config"), **clip}
    return [ModelStage("sam", SegmentAndClassify, arguments)]


def _segment(prepared: Prepared) -> ModelStage:
    config = prepared.config
    arguments = {"config": _pinned("sam", config.sam, prepared), "tiling": config.image.tiling()}
    return ModelStage("sam", SegmentImages, arguments)


def _classify(prepared: Prepared) -> ModelStage:
    arguments = {
        "config": _pinned("clip", prepared.config.clip, prepared),
        "text": prepared.text,
        "keep_embeddings": prepared.config.embeddings,
        "tiling": prepared.config.image.tiling(),
    }
    return ModelStage("clip", ClassifySegments, arguments)


def _label(prepared: Prepared) -> ModelStage:
    config = prepared.config
    arguments = {
        "model": config.annotator,
        "config": _pinned("labeller", config.labeller, prepared),
        "names": prepared.space.aliases,
        "threshold": config.label.threshold,
        "tiling": config.image.tiling(),
    }
    return ModelStage("labeller", LabelImages, arguments)


def _pinned(name: str, model: Model, prepared: Prepared) -> Model:
    """The model with exactly the weights that were checked: a file that changed since then is refused."""
    record = prepared.provenance[name]
    checksums = {"sha256": record["sha256"]}
    if proxy := record.get("proxy"):
        checksums["proxy_sha256"] = proxy["sha256"]
    return model.model_copy(update=checksums)

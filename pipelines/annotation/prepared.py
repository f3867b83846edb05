"""What a run of annotation knows before its first image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from segray.models.label_space import LabelSpace
from segray.pipelines.annotation.stages.classify import TextEmbeddings
from segray.pipelines.config.commands.annotate import AnnotateConfig
from segray.pipelines.io.images import ImageOptions


@dataclass(frozen=True)
class Prepared:
    """A run before its first image: checked, resolved and computed once.

    Attributes:
        config: of the command.
        space: the classes and their names.
        text: the names as CLIP embeds them; None with a labeller.
        dim: of an embedding; None: none is stored.
        options: of the decoder.
        provenance: what makes the labels.
        models: by stage, if they are loaded in this process.
        calibration: the content of calibration.json; None: no masks taught the names.
    """

    config: AnnotateConfig
    space: LabelSpace
    text: TextEmbeddings | None
    dim: int | None
    options: ImageOptions
    provenance: dict[str, Any]
    models: Mapping[str, Any] | None = None
    calibration: bytes | None = None

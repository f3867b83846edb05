"""What a run of annotation knows before its first image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from segray.models.label_space import LabelSpace
from segray.pipelines.annotation.stages.segment import Words
from segray.pipelines.config.commands.annotate import AnnotateConfig
from segray.pipelines.io.images import ImageOptions


@dataclass(frozen=True)
class Prepared:
    """Everything that is known before the first image: checked, resolved and computed once a run."""

    config: AnnotateConfig
    space: LabelSpace
    words: Words
    dim: int
    options: ImageOptions
    provenance: dict[str, Any]

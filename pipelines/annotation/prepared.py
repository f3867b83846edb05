"""What a run of annotation knows before its first image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from models.label_space import LabelSpace
from pipelines.annotation.workers import Words
from pipelines.config.settings import AnnotateConfig
from pipelines.images import ImageOptions


@dataclass(frozen=True)
class Prepared:
    """Everything that is known before the first image: checked, resolved and computed once a run."""

    config: AnnotateConfig
    space: LabelSpace
    words: Words
    dim: int
    options: ImageOptions
    provenance: dict[str, Any]

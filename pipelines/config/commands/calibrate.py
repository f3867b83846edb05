"""The configuration of `segray calibrate`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from segray.pipelines.config.schema import Config, Folder, RunOnly, Text
from segray.pipelines.config.shared import (
    LinksConfig,
    MaskBinary,
    MaskColors,
    MaskColumn,
    Masks,
    MaskSuffix,
    MaskVoid,
    OwnWeights,
)


class CandidatesConfig(Config):
    """Names and templates to try, besides those that the label set was made with."""

    aliases: dict[Text, tuple[Text, ...]] = Field(default={})
    """Further names to try for a class, such as candidates.aliases.person=people,man."""
    background_names: tuple[Text, ...] = ()
    """Further names to try for the background."""
    templates: tuple[Text, ...] = ("single", "imagenet80")
    """Sets of prompt templates to try: single, imagenet80, or templates with {}, each a set of its own."""


class CalibrateConfig(Config):
    """Correct the names of a label set by a few masks, from its stored embeddings, without images."""

    labels: Folder
    """The label set to read; it must hold embeddings."""
    masks: Masks
    """Masks of some images: a folder, archives, a list, Parquet files, or a label set with corrections."""
    split: Text | None = None
    """A split file: only its images, one per line, are learned from; null: all that have a mask."""
    out: Annotated[Folder, RunOnly]
    """Folder of the new label set."""
    alpha: float = Field(default=0.05, ge=0, lt=1)
    """Share of right labels that may become unknown (255) where a label is not trusted; 0: none."""
    candidates: CandidatesConfig = CandidatesConfig()
    """Names and templates to try, besides those that the label set was made with."""
    allow_missing: bool = False
    """Leave out masks whose image has no label instead of failing."""
    ignore_index: MaskVoid = 255
    binary: MaskBinary = None
    colors: MaskColors = None
    mask_suffix: MaskSuffix = None
    mask_column: MaskColumn = None
    image: LinksConfig = LinksConfig()
    """Whether symlinks are followed."""
    clip: OwnWeights = OwnWeights()
    """CLIP's weights, if the label set was made with a file or an address."""

"""The configuration of `segray relabel`."""

from __future__ import annotations

from typing import Annotated

from segray.pipelines.config.commands.annotate import LabelConfig
from segray.pipelines.config.schema import Config, Folder, RunOnly, Shown
from segray.pipelines.config.shared import Classes, OwnWeights


class RelabelConfig(Config):
    """Give a label set new classes, prompts or a new threshold, without SAM and without the images."""

    labels: Folder
    """The label set to read; it must hold embeddings, unless a labeller such as sam3 made it."""
    out: Annotated[Folder, RunOnly]
    """Folder of the new label set."""
    classes: Annotated[Classes, Shown("CLASSES")]
    """picture_book, voc, coco, a text file with one class per line, or the names: cat,dog."""
    label: LabelConfig = LabelConfig()
    """Prompts and threshold that turn segments into labels. Default templates: those of the label set."""
    clip: OwnWeights = OwnWeights()
    """CLIP's weights, if the label set was made with a file or an address."""

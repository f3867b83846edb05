"""The configuration of `segray verify`."""

from __future__ import annotations

from typing import Annotated

from segray.pipelines.config.schema import Config, Folder, RunOnly, Shown, Text
from segray.pipelines.config.shared import Classes, ImageRoots, Images, Masks, OwnWeights


class ClipWeights(OwnWeights):
    """Those of CLIP and of the vision model beside it."""

    proxy_weights: Annotated[Text | None, RunOnly] = None
    """Weights of clip.proxy, if they are a file or an address; null: a published name is known."""


class VerifyConfig(Config):
    """Check that a label set is complete: every image exactly once, every label readable."""

    out: Folder
    """The label set to check."""
    repair: bool = False
    """Label the images of damaged parts again, then remove these parts. The other keys are for this."""
    images: Annotated[Images | None, RunOnly] = None
    """The images; null: as in the label set's config.yaml, if that names a place below it or image.roots."""
    image: ImageRoots = ImageRoots()
    """Where the images of a manifest may be."""
    labels: Annotated[Folder | None, RunOnly] = None
    """The label set that a relabelled or calibrated one was made from; null: as in its config.yaml."""
    masks: Annotated[Masks | None, RunOnly] = None
    """The masks that a calibrated label set was made with; null: as in its config.yaml."""
    classes: Annotated[Classes | None, RunOnly, Shown("CLASSES")] = None
    """The class list, if it is a file outside of the label set; null: as in its config.yaml."""
    colors: Annotated[Text | None, RunOnly] = None
    """The table of colours of a calibrated label set's masks, if a file; null: as in its config.yaml."""
    split: Annotated[Text | None, RunOnly] = None
    """The split file that it was made with; null: as in its config.yaml."""
    sam: OwnWeights = OwnWeights()
    """SAM's weights, if they are a file or an address."""
    clip: ClipWeights = ClipWeights()
    """CLIP's weights, if they are a file or an address."""
    labeller: OwnWeights = OwnWeights()
    """The weights of a labeller such as sam3, if they are a file or an address."""
    address: Annotated[Text | None, RunOnly] = None
    """A running Ray cluster: auto or ray://HOST:10001; null: RAY_ADDRESS if set, or this machine."""

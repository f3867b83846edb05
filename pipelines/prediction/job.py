"""What all workers of a prediction must know: the network, how it predicts, and which files it writes."""

from __future__ import annotations

from dataclasses import dataclass

from segray.models.segmenters.inference import Inference
from segray.pipelines.io import storage
from segray.pipelines.io.images import ImageOptions

MASKS, OVERLAYS, CONFIDENCE = "masks", "overlays", "confidence"


@dataclass(frozen=True)
class Files:
    """What is written of each image besides its mask.

    Attributes:
        overlays: whether the image under the colours of its classes is.
        confidence: whether the probabilities are.
        coco: whether its objects are kept for coco.json.
        palette: whether the mask has a palette.
    """

    overlays: bool = True
    confidence: bool = False
    coco: bool = False
    palette: bool = False


@dataclass(frozen=True)
class Job:
    """What every worker of a run must know.

    Attributes:
        checkpoint: absolute path or URI of the checkpoint.
        sha256: of the weights that predict.
        classes: the name of each id.
        out: absolute path or URI of the output.
        files: which are written.
        inference: how an image is predicted.
        options: of the decoder.
    """

    checkpoint: str
    sha256: str
    classes: tuple[str, ...]
    out: str
    files: Files
    inference: Inference
    options: ImageOptions

    def mask(self, image_id: str) -> str:
        """Where the mask of an image goes; of `a.jpg` and `a.png` to different files."""
        return storage.join(self.out, MASKS, f"{image_id}.png")

    def overlay(self, image_id: str) -> str:
        """Where the overlay of an image goes."""
        return storage.join(self.out, OVERLAYS, f"{image_id}.jpg")

    def confidence(self, image_id: str) -> str:
        """Where the confidences of an image go."""
        return storage.join(self.out, CONFIDENCE, f"{image_id}.png")

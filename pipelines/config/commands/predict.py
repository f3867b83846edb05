"""The configuration of `segray predict`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from segray.pipelines.config.images import ImageConfig
from segray.pipelines.config.schema import Config, Folder, RunOnly, Text
from segray.pipelines.config.shared import GrowConfig, Images, Precision, ViewsConfig, Window


class PredictConfig(Config):
    """Label images with a trained network: masks as PNG, and overlays of masks and images."""

    checkpoint: Folder
    """A checkpoint, or a training run, of which the best checkpoint is used."""
    images: Images
    """Folder, glob, file, list (.txt, .csv), .tar, .zip, .parquet, the URI of one, or several: a,b."""
    out: Annotated[Folder, RunOnly]
    """Folder for masks/ and overlays/. Running the same command again predicts only what is missing."""
    overlays: Annotated[bool, RunOnly] = True
    """Also write each image as JPEG with the colours of its classes on top."""
    palette: bool = False
    """Masks as palette PNG: pixels are the same ids, and programs show them in the colours of the classes."""
    confidence: Annotated[bool, RunOnly] = False
    """Also write the probability of each pixel's class, as 8-bit PNG: value / 255."""
    coco: Annotated[bool, RunOnly] = False
    """Also write coco.json: connected pixels of a class as COCO instances, with their mean confidence."""
    window: Window = None
    """Sliding window in pixels, for large images; 0: whole images, null: as in the run's validation."""
    views: ViewsConfig = ViewsConfig()
    """Test-time augmentation."""
    precision: Precision = "auto"
    """bf16, fp16: autocast; auto: as in train, bf16 on GPUs that have it. What is resumed keeps it."""
    image: ImageConfig = ImageConfig()
    """Which images are accepted, and how they are decoded."""
    workers: Annotated[int | None, Field(ge=1, le=4096), RunOnly] = None
    """Actors that predict; null: one per GPU, or without GPUs one per CPU."""
    address: Annotated[Text | None, RunOnly] = None
    """A running Ray cluster: auto or ray://HOST:10001; null: RAY_ADDRESS if set, or this machine."""
    grow: GrowConfig = GrowConfig()
    """Machines to request from an autoscaling cluster."""

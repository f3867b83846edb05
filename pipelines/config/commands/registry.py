"""The configuration of each verb: every key with its type, range, default and help."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from segray.pipelines.config.commands.annotate import (
    TEMPLATE_SETS,
    AnnotateConfig,
    Classes,
    ClipConfig,
    ClipModel,
    ImageConfig,
    Images,
    LabelConfig,
    Pool,
    SamConfig,
    SamModel,
)
from segray.pipelines.config.commands.clusters import DoctorConfig, GrowConfig, SubmitConfig
from segray.pipelines.config.commands.plan import PlanConfig
from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.config.commands.tune import TuneConfig
from segray.pipelines.config.schema import Config, Folder, RunOnly, Shown, Text

__all__ = [
    "TEMPLATE_SETS",
    "AnnotateConfig",
    "ClipConfig",
    "ClipModel",
    "DemoConfig",
    "DoctorConfig",
    "EvaluateConfig",
    "ImageConfig",
    "LabelConfig",
    "PictureBookConfig",
    "PlanConfig",
    "Pool",
    "PredictConfig",
    "RelabelConfig",
    "ReportConfig",
    "SamConfig",
    "SamModel",
    "SamplesConfig",
    "SubmitConfig",
    "TrainConfig",
    "TuneConfig",
    "VerifyConfig",
]

_Masks = Annotated[str, Field(min_length=1), Shown("FOLDER")]
_Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]


def _check_window(value: int | None) -> int | None:
    if value is not None and value != 0 and value < 32:
        raise ValueError(f"{value} is out of range (allowed: 0, or at least 32)")
    return value


_Window = Annotated[int | None, AfterValidator(_check_window), Shown("PIXELS", "0, or at least 32")]


class RelabelConfig(Config):
    """Give a label set new classes, prompts or thresholds, without SAM and without images."""

    labels: Folder
    """The label set to start from; it must hold embeddings."""
    out: Annotated[Folder, RunOnly]
    """Where the new label set goes."""
    classes: Annotated[Classes, Shown("CLASSES")]
    """picture_book, voc, coco, a text file with one class a line, or the names themselves: cat,dog."""
    label: LabelConfig = LabelConfig()
    """How segments become labels."""


class VerifyConfig(Config):
    """Check that a label set is whole: every image once, every label readable."""

    out: Folder
    """The label set to check."""
    repair: bool = False
    """Take damaged parts out and label just their images again."""


class EvaluateConfig(Config):
    """Compare labels, or a network's predictions, with masks drawn by hand: IoU a class, and mIoU."""

    labels: Folder | None = None
    """A label set, or a folder of PNG label maps; null: `checkpoint` is given."""
    checkpoint: Folder | None = None
    """A checkpoint, or a training run, whose best is taken: it labels `images`; null: `labels` is given."""
    images: Images | None = None
    """Images for `checkpoint`: a folder, a glob, a file, or the same under s3:// or gs://; null: none."""
    window: _Window = None
    """Sliding window for `checkpoint`, in pixels; 0: each image whole, null: as the run validated."""
    masks: _Masks
    """A folder of 8-bit masks of class ids, named as the images are."""
    out: Folder | None = None
    """Where evaluation.json and evaluation.csv go; null: beside the labels, or in the training run."""
    ignore_index: int = Field(default=255, ge=0, le=255)
    """Pixels that have this id in the mask count for nothing."""
    allow_missing: bool = False
    """Leave images without a mask out of the figures, instead of refusing."""


class PredictConfig(Config):
    """Label images with a trained network: masks as PNG, and the images with the masks laid over them."""

    checkpoint: Folder
    """A checkpoint, or a training run, whose best is taken."""
    images: Images
    """The images: a folder, a glob such as `photos/**/*.jpg`, a file, or the same under s3:// or gs://."""
    out: Annotated[Folder, RunOnly]
    """Where masks/ and overlays/ go. The same command again does only what is missing."""
    overlays: Annotated[bool, RunOnly] = True
    """Also write each image as JPEG with the colours of its classes laid over it."""
    window: _Window = None
    """Sliding window in pixels, for large images; 0: each image whole, null: as the run validated."""
    image: ImageConfig = ImageConfig()
    """Which pictures are taken, and how they are read."""
    workers: Annotated[int | None, Field(ge=1, le=4096), RunOnly] = None
    """Actors that predict; null: one on every GPU, or without GPUs one on every CPU."""
    address: Annotated[Text | None, RunOnly] = None
    """A running Ray cluster: auto or ray://HOST:10001; null: RAY_ADDRESS if set, or this machine."""
    grow: GrowConfig = GrowConfig()
    """Machines to ask a cluster for that grows on request."""


class ReportConfig(Config):
    """Make a page of pictures and figures from a label set or a training run: one file, report.html."""

    out: Folder
    """The label set or the training run to show; report.html is written into it."""
    masks: _Masks | None = None
    """A folder of true masks to show beside the labels and to score them against; null: none."""
    n: int = Field(default=12, ge=1, le=1000)
    """How many of the least and of the most certain images (of a run: validation images) are on the page."""


class PictureBookConfig(Config):
    """Draw picture-book scenes with exact masks: images to try everything on."""

    out: Folder
    """Where the scenes go."""
    n: int = Field(default=200, ge=1, le=1_000_000)
    """How many scenes."""
    seed: _Seed = 0
    """The same seed draws the same scenes."""
    size: int = Field(default=256, ge=32, le=2048)
    """Side of a scene in pixels."""
    val: float = Field(default=0.2, ge=0, lt=1)
    """Share of the scenes put aside for validation."""


class SamplesConfig(Config):
    """Fetch a handful of real photographs that come with scikit-image."""

    out: Folder
    """Where the photographs go."""


class DemoConfig(Config):
    """Draw a picture book, label it, train on it, report both: the whole path in minutes on a CPU."""

    out: Folder = "demo"
    """Where everything goes."""
    n: int = Field(default=144, ge=24, le=100_000)
    """How many scenes; a fifth of them is held out."""
    labelled: int = Field(default=8, ge=1)
    """How many training scenes have hand-made masks."""
    epochs: int = Field(default=13, ge=1)
    """Passes of the training over the other scenes."""
    seed: _Seed = 0
    """The same seed gives the same demo."""

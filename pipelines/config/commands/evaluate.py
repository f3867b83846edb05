"""The configuration of `segray evaluate`."""

from __future__ import annotations

from pydantic import Field

from segray.pipelines.config.images import PixelConfig
from segray.pipelines.config.schema import Config, Folder, Text
from segray.pipelines.config.shared import (
    ColumnConfig,
    ImageRoots,
    Images,
    Masks,
    Precision,
    ViewsConfig,
    Window,
)


class EvaluateImageConfig(PixelConfig, ColumnConfig, ImageRoots):
    """Where the images of a manifest may be, and how they are decoded."""


class EvaluateConfig(Config):
    """Compare labels, or the predictions of a network, with ground-truth masks: IoU per class and mIoU."""

    labels: Folder | None = None
    """A label set, or a folder of PNG label maps; null: use `checkpoint`."""
    checkpoint: Folder | None = None
    """A checkpoint, or a training run for its best one, that labels `images`; null: use `labels`."""
    images: Images | None = None
    """Images for `checkpoint`: a folder, a glob, a file, or the same under s3:// or gs://; null: none."""
    image: EvaluateImageConfig = EvaluateImageConfig()
    """Where the images of a manifest may be, and how they are decoded."""
    window: Window = None
    """Sliding window for `checkpoint`, in pixels; 0: whole images, null: as in the run's validation."""
    views: ViewsConfig = ViewsConfig()
    """Test-time augmentation for `checkpoint`."""
    precision: Precision = "auto"
    """Precision of the network for `checkpoint`, as in predict."""
    masks: Masks
    """Masks of class ids with the names of the images: a folder, archives, a list, or Parquet files."""
    out: Folder | None = None
    """Folder for evaluation.json and evaluation.csv; null: next to the labels, or in the training run."""
    ignore_index: int = Field(default=255, ge=0, le=65535)
    """Mask pixels with this id are ignored. With more than 254 classes, 255 stands for 65535."""
    binary: bool | None = None
    """Masks of 0 and 255: true: 255 is class 1; false: 255 is ignored; null: stop where all masks are so."""
    colors: Text | None = None
    """Masks of colours: a table such as CVAT's labelmap.txt, or voc, cityscapes, gray; null: masks of ids."""
    mask_suffix: Text | None = None
    """What a mask's name adds to its image's, as _mask or mask_*; OLD:NEW replaces OLD; null: nothing."""
    mask_column: Text | None = None
    """Column of masks in Parquet and CSV files; null: found by its name, such as mask or label."""
    allow_missing: bool = False
    """Leave out images without a mask instead of failing."""

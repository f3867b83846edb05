"""The configuration of `segray evaluate`."""

from __future__ import annotations

from segray.pipelines.config.images import PixelConfig
from segray.pipelines.config.schema import Config, Folder
from segray.pipelines.config.shared import (
    ColumnConfig,
    ImageRoots,
    Images,
    MaskBinary,
    MaskColors,
    MaskColumn,
    Masks,
    MaskSuffix,
    MaskVoid,
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
    ignore_index: MaskVoid = 255
    binary: MaskBinary = None
    colors: MaskColors = None
    mask_suffix: MaskSuffix = None
    mask_column: MaskColumn = None
    allow_missing: bool = False
    """Leave out images without a mask instead of failing."""

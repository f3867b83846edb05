"""What the configurations of several commands share: types of their keys, and the `grow` section."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from segray.pipelines.config.schema import Config, RunOnly, Shown, Text


def _check_window(value: int | None) -> int | None:
    if value is not None and value != 0 and value < 32:
        raise ValueError(f"{value} is out of range (allowed: 0, or at least 32)")
    return value


def _check_scales(value: tuple[float, ...]) -> tuple[float, ...]:
    if not value:
        raise ValueError("empty (allowed: at least one scale, such as 1)")
    if bad := [scale for scale in value if not _LEAST_SCALE <= scale <= _MOST_SCALE]:
        raise ValueError(f"{bad[0]:g} is out of range (allowed: {_LEAST_SCALE:g} to {_MOST_SCALE:g})")
    if twice := [scale for scale in value if value.count(scale) > 1]:
        raise ValueError(f"{twice[0]:g} is listed twice")
    return value


_LEAST_SCALE, _MOST_SCALE = 0.25, 4.0

Classes = Annotated[Text | tuple[Text, ...], Shown("cat,dog")]
Images = Annotated[Text | tuple[Text, ...], Shown("FOLDER")]
Masks = Annotated[str, Field(min_length=1), Shown("FOLDER")]
Roots = Annotated[tuple[Text, ...], RunOnly, Shown("FOLDER,...")]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Precision = Literal["auto", "fp32", "tf32", "bf16", "fp16"]
Scales = Annotated[tuple[float, ...], AfterValidator(_check_scales), Shown("0.75,1,1.25", "0.25 to 4")]
Window = Annotated[int | None, AfterValidator(_check_window), Shown("PIXELS", "0, or at least 32")]

MaskVoid = Annotated[
    int,
    Field(
        ge=0,
        le=65535,
        description="Mask pixels with this id are ignored. With more than 254 classes, 255 stands for 65535.",
    ),
]
MaskBinary = Annotated[
    bool | None,
    Field(
        description="Masks of 0 and 255: true: 255 is class 1; false: 255 is ignored; "
        "null: stop where all masks are so."
    ),
]
MaskColors = Annotated[
    Text | None,
    Field(
        description="Masks of colours: a table such as CVAT's labelmap.txt, or voc, cityscapes, gray; "
        "null: masks of ids."
    ),
]
MaskSuffix = Annotated[
    Text | None,
    Field(
        description="What a mask's name adds to its image's, as _mask or mask_*; OLD:NEW replaces OLD; "
        "null: nothing."
    ),
]
MaskColumn = Annotated[
    Text | None,
    Field(
        description="Column of masks in Parquet and CSV files; null: found by its name, such as mask "
        "or label."
    ),
]


class LinksConfig(Config):
    """Whether symlinks are followed."""

    links: Annotated[Literal["follow", "refuse"], RunOnly] = "follow"
    """Symlinks in folders of images and masks: follow; or refuse those to folders or out of the folder."""

    @property
    def follow_links(self) -> bool:
        """Whether `links` is "follow"."""
        return self.links == "follow"


class ColumnConfig(Config):
    """Which column of a Parquet file holds the images."""

    column: Text | None = None
    """Column of images in Parquet files; null: image, img, jpg or png, or else the only one of bytes."""


class ImageRoots(LinksConfig):
    """Where the images of a manifest may be."""

    roots: Roots = ()
    """Folders or buckets whose files a manifest may name, besides those in its own folder."""


class ViewsConfig(Config):
    """Test-time augmentation: the mean of the probabilities of several views of an image."""

    flip: bool = False
    """Also predict the mirror image, left and right exchanged. Each view takes as long as the image."""
    scales: Scales = (1.0,)
    """Predict the image at these sizes, relative to its own."""


class GrowConfig(Config):
    """Machines to request from an autoscaling cluster before the run starts."""

    gpus: Annotated[int | None, Field(ge=1, le=100_000), RunOnly] = None
    """GPUs to request before the run, of the kinds that accelerator names; null: use those that are there."""
    cpus: Annotated[int | None, Field(ge=1, le=1_000_000), RunOnly] = None
    """CPUs to request before the run; null: use the CPUs that are there."""
    wait: Annotated[int, Field(ge=1, le=86_400), RunOnly] = 900
    """Seconds to wait for them. After that the run starts with what has arrived, or ends if nothing has."""


class OwnWeights(Config):
    """Weights that a label set names only by a path or an address: the user has to name them."""

    weights: Annotated[Text | None, RunOnly] = None
    """Weights that made the label set, if they are a file or an address; null: a published name is known."""

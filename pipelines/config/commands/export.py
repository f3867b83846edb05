"""The configuration of `segray export`."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator, Field, model_validator

from segray.pipelines.config.schema import Config, Folder, RunOnly, Shown, Text
from segray.pipelines.config.shared import GrowConfig, Roots, Seed


def _names(value: object) -> object:
    """Names as they were written: the loader reads the entries of a mapping as lists with commas."""
    if not isinstance(value, dict):
        return value
    return {k: ",".join(map(str, v)) if isinstance(v, list | tuple) else v for k, v in value.items()}


Repo = Annotated[
    str, Field(pattern=r"^[\w.-]+/[\w.-]+$", max_length=96), Shown("USER/NAME", "the form USER/NAME")
]
_LabelFormat = Literal[
    "png",
    "voc",
    "cityscapes",
    "coco",
    "coco-panoptic",
    "yolo-seg",
    "huggingface",
    "webdataset",
    "fiftyone",
    "cvat",
    "labelstudio",
]
_CheckpointFormat = Literal["safetensors", "onnx", "torchscript", "torch-export"]
LABEL_FORMATS: tuple[str, ...] = get_args(_LabelFormat)
CHECKPOINT_FORMATS: tuple[str, ...] = get_args(_CheckpointFormat)
_OF_LABELS = (
    *("min_confidence", "classes", "val", "seed", "images", "instances", "image"),
    *("workers", "address", "grow"),
)
_OF_CHECKPOINTS = ("pixels",)


class ExportImageConfig(Config):
    """Where the images may be."""

    roots: Roots = ()
    """Folders or buckets of the images, needed where the label set has no checksum of an image."""


class ExportConfig(Config):
    """Write a label set as the files of another tool, or a trained network as one file."""

    labels: Annotated[Folder | None, RunOnly] = None
    """The label set to read; it is not changed. null: export `checkpoint`."""
    checkpoint: Annotated[Folder | None, RunOnly] = None
    """A checkpoint, or a training run for its best one; null: export `labels`."""
    out: Annotated[Folder, RunOnly]
    """A new folder; of a checkpoint a file. The same command resumes an export that was stopped."""
    format: Literal[_LabelFormat, _CheckpointFormat] = "png"
    """Layout of the files; png is mmsegmentation's: images/ and annotations/. The last four: checkpoints."""
    min_confidence: float = Field(default=0.0, ge=0, le=1)
    """Pixels with a lower confidence are ignored; it is 0 where no segment has a class."""
    classes: Annotated[dict[Text, Text | None], BeforeValidator(_names), Shown("NAME")] = Field(default={})
    """New names: classes.car=vehicle; equal names are merged, background: no class, null: ignored pixels."""
    val: Text | None = None
    """Validation images: a share such as 0.1 or 1/10, or a file with one image_id per line; null: none."""
    seed: Seed = 0
    """Seed of the choice of validation images."""
    images: Literal["copy", "link", "none"] = "copy"
    """Image files: copies, symlinks to where the label set's manifest says they are, or none."""
    instances: Literal["connected", "segments"] = "connected"
    """Objects of coco, coco-panoptic, yolo-seg and cvat: connected pixels, or SAM's visible segments."""
    image: ExportImageConfig = ExportImageConfig()
    """Where the images may be."""
    push_to_hub: Annotated[Repo | None, RunOnly] = None
    """Also push to this repository of the Hugging Face hub: a checkpoint, or format=huggingface. null: no."""
    private: Annotated[bool, RunOnly] = True
    """Whether only you see a repository that push_to_hub makes."""
    pixels: Annotated[Literal["uint8", "float32"], RunOnly] = "uint8"
    """What a network in a file of `checkpoint` takes: uint8 in 0 to 255, or float32 in 0 to 1."""

    workers: Annotated[int | None, Field(ge=1, le=4096), RunOnly] = None
    """Ray tasks that write at a time; null: one per CPU, and up to 5,000 images are written without Ray."""
    address: Annotated[Text | None, RunOnly] = None
    """A running Ray cluster: auto or ray://HOST:10001; null: RAY_ADDRESS if set, or this machine."""
    grow: GrowConfig = GrowConfig()
    """Machines to request from an autoscaling cluster."""

    @model_validator(mode="after")
    def _labels_or_checkpoint(self) -> ExportConfig:
        if (self.labels is None) == (self.checkpoint is None):
            raise ValueError("give labels=DIR or checkpoint=DIR, and not both")
        if self.push_to_hub and not (self.checkpoint or self.format == "huggingface"):
            raise ValueError(f"push_to_hub: goes with checkpoint= or format=huggingface, not {self.format}")
        of_checkpoint = self.checkpoint is not None
        if (self.format in CHECKPOINT_FORMATS) != of_checkpoint:
            allowed = CHECKPOINT_FORMATS if of_checkpoint else LABEL_FORMATS
            source = "checkpoint" if of_checkpoint else "labels"
            raise ValueError(
                f"format: must be one of {', '.join(allowed)} with {source}=, not {self.format!r}"
            )
        other = _OF_LABELS if of_checkpoint else _OF_CHECKPOINTS
        fields = type(self).model_fields
        if wrong := [key for key in other if getattr(self, key) != fields[key].default]:
            source = "labels" if of_checkpoint else "checkpoint"
            raise ValueError(f"{wrong[0]}: goes with {source}= alone")
        return self

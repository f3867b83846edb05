"""The configuration of `segray annotate`; its sections serve other verbs too."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from segray.pipelines.config.commands.clusters import GrowConfig
from segray.pipelines.config.schema import Config, Folder, RunOnly, Sha256, Shown, Text

Images = Annotated[str, Field(min_length=1), Shown("FOLDER")]
Classes = Text | tuple[Text, ...]
_Channel = Annotated[int, Field(ge=0, le=255)]
_Colour = Shown("R,G,B", "3 whole numbers from 0 to 255")

Precision = Literal["fp32", "bf16", "fp16"]

TEMPLATE_SETS = ("single", "imagenet80")
"""Names that stand for whole sets of prompt templates."""


class Pool(Config):
    """How many actors run a stage, and on what."""

    workers: Annotated[int | None, Field(ge=1, le=4096), RunOnly] = None
    """Actors that run this stage; null: as many as the cluster has room for."""
    max_workers: Annotated[int | None, Field(ge=1, le=4096), RunOnly] = None
    """Let the pool grow up to this many actors; null: it stays at `workers`."""
    num_gpus: Annotated[float | None, Field(ge=0, le=64), RunOnly] = None
    """GPUs for one actor, a share such as 0.5 included; null: a share where the cluster has GPUs, else 0."""
    num_cpus: Annotated[float | None, Field(ge=0, le=1024), RunOnly] = None
    """CPUs for one actor, a share such as 0.5 included; null: chosen from what the cluster has."""
    batch_size: Annotated[int | None, Field(ge=1, le=1024), RunOnly] = None
    """Images that one actor takes at a time, halved where memory runs out; null: 4 for each thread."""

    @model_validator(mode="after")
    def _pool_can_grow(self) -> Pool:
        if self.workers is not None and self.max_workers is not None and self.max_workers < self.workers:
            raise ValueError(f"max_workers ({self.max_workers}) is less than workers ({self.workers})")
        return self


class SamModel(Config):
    """Which SAM finds the segments, and how."""

    model: Literal["picture_book", "vit_b", "vit_l", "vit_h", "none"] = "picture_book"
    """SAM's size; picture_book: a small one, knows nothing else; none: CLIP names pixels, not segments."""
    weights: Text | None = None
    """Weights: a file, an https:// address or hf-hub:OWNER/REPO:FILE; null: the model's official ones."""
    sha256: Sha256 | None = None
    """Refuse weights with any other checksum; null: the official checksum where it is known."""
    points_per_side: int | None = Field(default=None, ge=1, le=256)
    """Side of the grid of point prompts; null: the model's own, 32 for vit_b, vit_l and vit_h."""
    points_per_batch: Annotated[int | None, Field(ge=1, le=65536), RunOnly] = None
    """Point prompts that the mask decoder takes at a time, a matter of memory; null: the model's own."""
    pred_iou_thresh: float | None = Field(default=None, ge=0, le=1)
    """Drop masks whose IoU the model itself predicts to be lower; null: the model's own, 0.88 in SAM."""
    stability_score_thresh: float | None = Field(default=None, ge=0, le=1)
    """Drop masks less stable under another cut-off, an IoU; null: the model's own, 0.95 in SAM."""
    stability_score_offset: float = Field(default=1.0, ge=0)
    """How far the cut-off moves to either side for the stability score, in logits."""
    box_nms_thresh: float = Field(default=0.7, ge=0, le=1)
    """Of two masks whose boxes overlap with a greater IoU, keep the better one."""
    crop_n_layers: int = Field(default=0, ge=0, le=4)
    """Also search crops of the image: layer i has 2^i by 2^i of them. 0: the whole image only."""
    crop_nms_thresh: float = Field(default=0.7, ge=0, le=1)
    """As box_nms_thresh, between masks of different crops."""
    crop_overlap_ratio: float = Field(default=512 / 1500, ge=0, lt=1)
    """How far crops overlap, as a share of the image's shorter side."""
    crop_n_points_downscale_factor: int = Field(default=1, ge=1, le=16)
    """Divide points_per_side by this to the power of the layer in crops."""
    min_mask_region_area: int = Field(default=0, ge=0)
    """Remove holes and islands of fewer pixels from each mask; 0: leave masks as they are."""
    precision: Precision = "fp32"
    """Of SAM's large products; bf16 and fp16 are for GPUs, and move masks a little."""
    compile: Annotated[bool, RunOnly] = False
    """Have torch.compile fuse SAM's operations: minutes at the start, for long runs on GPUs."""


class SamConfig(Pool, SamModel):
    """SAM finds the segments."""


class ClipModel(Config):
    """Which CLIP names the segments, and how."""

    model: Text = "picture_book"
    """CLIP by its open_clip name, such as ViT-B-16-quickgelu; picture_book is the small built-in model."""
    weights: Text | None = None
    """Weights: an open_clip tag such as openai, a file, https:// or hf-hub:OWNER/REPO; null: built-in."""
    sha256: Sha256 | None = None
    """Refuse weights with any other checksum; null: no check beyond the library's own."""
    features: Literal["gem", "clip"] = "gem"
    """gem: self-self attention in the last blocks, for dense features; clip: the plain encoder's patches."""
    depth: int | None = Field(default=None, ge=2, le=64)
    """Self-self attention runs beside the last depth - 1 blocks; null: the model's own, 7 as in GEM."""
    iterations: int = Field(default=1, ge=0, le=16)
    """Rounds of self-self attention in a block."""
    temperature: float | None = Field(default=None, gt=0)
    """Temperature of the self-self attention; null: GEM's adaptive one."""
    image_size: int | None = Field(default=None, ge=32, le=4096)
    """Side of the square that an image is resized to for CLIP, in pixels; null: the model's own."""
    precision: Precision = "fp32"
    """Of CLIP's image tower; bf16 and fp16 are for GPUs. Pooling and naming stay in fp32."""


class ClipConfig(Pool, ClipModel):
    """GEM-CLIP names the segments."""


class LabelConfig(Config):
    """How segments become labels."""

    threshold: float = Field(default=0.0, ge=-1, le=1)
    """A segment whose best cosine similarity is not above this gets no class."""
    background_names: tuple[Text, ...] | None = None
    """Names of the background. One close to a class costs that class; null: a list fit for the classes."""
    templates: Text | tuple[Text, ...] = "single"
    """Prompts: single ("a photo of a {}."), imagenet80 (CLIP's 80), or your own templates with {} in them."""
    aliases: dict[Text, tuple[Text, ...]] = Field(default={})
    """Names that stand for a class in the prompts, such as label.aliases.person=person,people."""

    @field_validator("templates")
    @classmethod
    def _templates_take_a_name(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for template in (value,) if isinstance(value, str) else value:
            if template.count("{}") != 1 and value not in TEMPLATE_SETS:
                sets = ", ".join(TEMPLATE_SETS)
                raise ValueError(
                    f"{template[:100]!r} has no place for a name (allowed: {sets}, or text with one {{}})"
                )
        if not value:
            raise ValueError("no template (allowed: at least one)")
        return value


class ImageConfig(Config):
    """Which pictures are taken, and how they are read."""

    max_pixels: int = Field(default=100_000_000, ge=1)
    """A picture with more pixels is an error row; told from its header, before it is unpacked."""
    min_size: int = Field(default=8, ge=1)
    """A picture with a shorter side below this many pixels is an error row."""
    frames: Literal["skip", "first"] = "skip"
    """Pictures of several frames (GIF, APNG, TIFF): skip them, with a reason, or take the first frame."""
    matte: Annotated[tuple[_Channel, _Channel, _Channel], _Colour] = (255, 255, 255)
    """The colour (red, green, blue) that transparent pictures are laid on."""


class AnnotateImageConfig(ImageConfig):
    """Which pictures are labelled, and how they are read."""

    reduce_jpeg: bool = False
    """Unpack large JPEGs at 1/2, 1/4 or 1/8, no smaller than the models see them; labels stay full size."""


class AnnotateConfig(Config):
    """Label a pile of images with SAM and CLIP."""

    images: Images
    """The images: a folder, a glob such as `photos/**/*.jpg`, a file, or the same under s3:// or gs://."""
    out: Annotated[Folder, RunOnly]
    """Where the label set goes. The same command again does only what is missing."""
    classes: Classes = "picture_book"
    """picture_book, voc, coco, a text file with one class a line, or the names themselves: cat,dog."""
    sam: SamConfig = SamConfig()
    """SAM finds the segments."""
    clip: ClipConfig = ClipConfig()
    """GEM-CLIP names the segments."""
    label: LabelConfig = LabelConfig()
    """How segments become labels."""
    image: AnnotateImageConfig = AnnotateImageConfig()
    """Which pictures are taken, and how they are read."""
    embed_images: bool = False
    """Put the image files themselves into the label set too, which makes it complete in itself."""
    embeddings: bool = True
    """Keep each segment's embedding, so that `segray relabel` can change classes without SAM and CLIP."""
    max_bad: Annotated[float | None, Field(ge=0, le=1), RunOnly] = None
    """Exit with status 3 where a greater share of the images is bad; null: never."""
    rows_per_part: Annotated[int | None, Field(ge=1, le=100_000), RunOnly] = None
    """Images in one Parquet file; null: chosen from how many there are."""
    max_tries: Annotated[int, Field(ge=1, le=100), RunOnly] = 3
    """An image that brings its actor down this often becomes an error row."""
    auto: Annotated[bool, RunOnly] = False
    """Size both pools by a short probe; what you set goes before it, with sam.model=none there is none."""
    new_run: Annotated[bool, RunOnly] = False
    """Where another configuration made what is in `out`: start in a new folder beside it, do not refuse."""
    address: Annotated[Text | None, RunOnly] = None
    """A running Ray cluster: auto or ray://HOST:10001; null: RAY_ADDRESS if set, or this machine."""
    grow: GrowConfig = GrowConfig()
    """Machines to ask a cluster for that grows on request."""

    @model_validator(mode="after")
    def _crops_are_of_whole_pictures(self) -> AnnotateConfig:
        if self.image.reduce_jpeg and self.sam.crop_n_layers:
            raise ValueError("image.reduce_jpeg leaves out what sam.crop_n_layers looks at; use one of them")
        return self

"""The configuration of `segray annotate`; other commands use some of its sections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from segray.models.annotators.registry import LABEL_MODELS, MASK_MODELS, label_entry, mask_entry
from segray.pipelines.config.images import ImageConfig
from segray.pipelines.config.schema import Config, Folder, RunOnly, Sha256, Shown, Text
from segray.pipelines.config.shared import (
    Classes,
    GrowConfig,
    Images,
    MaskBinary,
    MaskColors,
    MaskColumn,
    Masks,
    MaskSuffix,
    MaskVoid,
)

if TYPE_CHECKING:  # its readers take time to import
    from segray.models.tiling import Tiling


Precision = Literal["auto", "fp32", "bf16", "fp16"]

TEMPLATE_SETS = ("single", "imagenet80", "tipsv2")
"""Names of built-in sets of prompt templates."""

PROXIES = ("proxy", "corr")
"""Features that another vision model guides."""
DEFAULT_PROXY = "vit_base_patch8_224.dino"
"""DINO ViT-B/8 of timm: Apache-2.0, 85.8 M parameters; the choice of CorrCLIP."""
DEFAULT_TIPS = "tipsv2_b14"

MOST_REFINE = 100
"""Of `clip.refine`."""

REAL_CLIP = "ViT-B-16-quickgelu"
"""The default CLIP, with the weights `openai` and the templates `imagenet80`."""


class Pool(Config):
    """How many actors run a stage, and with which resources."""

    workers: Annotated[int | None, Field(ge=1, le=4096), RunOnly] = None
    """Actors that run this stage; null: as many as fit on the cluster."""
    max_workers: Annotated[int | None, Field(ge=1, le=4096), RunOnly] = None
    """Maximum size of an autoscaling pool; null: the pool stays at `workers`."""
    num_gpus: Annotated[float | None, Field(ge=0, le=64), RunOnly] = None
    """GPUs per actor, fractions such as 0.5 included; null: a fraction if the cluster has GPUs, else 0."""
    num_cpus: Annotated[float | None, Field(ge=0, le=1024), RunOnly] = None
    """CPUs per actor, fractions such as 0.5 included; null: chosen from the resources of the cluster."""
    accelerator: Annotated[Text | None, RunOnly] = None
    """Label ray.io/accelerator-type of its machines, such as A100; null: any. If set, auto has no effect."""
    batch_size: Annotated[int | None, Field(ge=1, le=1024), RunOnly] = None
    """Images per batch of an actor, halved when memory runs out; null: 4 per thread."""

    @model_validator(mode="after")
    def _pool_can_grow(self) -> Pool:
        if self.workers is not None and self.max_workers is not None and self.max_workers < self.workers:
            raise ValueError(f"max_workers ({self.max_workers}) is less than workers ({self.workers})")
        return self


_MASK_NAMES = (*MASK_MODELS, "none")


def _known_model(name: str) -> str:
    if name != "none":
        mask_entry(name, also=("none",))
    return name


class SamModel(Config):
    """The SAM model that finds the segments, and its options."""

    model: Annotated[str, AfterValidator(_known_model), Shown("MODEL", choices=_MASK_NAMES)] = "vit_b"
    """What finds segments. builtin: small, default of classes=picture_book; none: CLIP labels pixels."""
    weights: Text | None = None
    """Weights: a file, an https:// URL or hf-hub:OWNER/REPO:FILE; null: the official weights of the model."""
    sha256: Sha256 | None = None
    """Required checksum of the weights; null: the official checksum where it is known."""
    points_per_side: int | None = Field(default=None, ge=1, le=256)
    """Points per side of the grid of point prompts; null: the model's default, 32 for vit_b, vit_l, vit_h."""
    points_per_batch: Annotated[int | None, Field(ge=1, le=65536), RunOnly] = None
    """Point prompts per batch of the mask decoder, limited by memory; null: the model's default."""
    pred_iou_thresh: float | None = Field(default=None, ge=0, le=1)
    """Minimum IoU of a mask as the model predicts it; null: the model's default, 0.88 in SAM."""
    stability_score_thresh: float | None = Field(default=None, ge=0, le=1)
    """Minimum stability of a mask: IoU between two cutoffs; null: the model's default, 0.95 in SAM."""
    stability_score_offset: float = Field(default=1.0, ge=0)
    """Distance of these two cutoffs from the mask threshold, in logits."""
    box_nms_thresh: float = Field(default=0.7, ge=0, le=1)
    """Keep the better of two masks whose boxes overlap with a greater IoU."""
    crop_n_layers: int = Field(default=0, ge=0, le=4)
    """Layers of image crops that are searched too; layer i has 2^i by 2^i crops. 0: the whole image only."""
    crop_nms_thresh: float = Field(default=0.7, ge=0, le=1)
    """Same as box_nms_thresh, between masks of different crops."""
    crop_overlap_ratio: float = Field(default=512 / 1500, ge=0, lt=1)
    """Overlap of neighbouring crops as a fraction of the image's shorter side."""
    crop_n_points_downscale_factor: int = Field(default=1, ge=1, le=16)
    """In the crops of layer i, points_per_side is divided by this to the power of i."""
    min_mask_region_area: int = Field(default=0, ge=0)
    """Remove holes and islands with fewer pixels from each mask; 0: keep masks unchanged."""
    precision: Precision = "auto"
    """Precision of SAM's large matrix products; auto: fp16 on a GPU, fp32 on a CPU, what it was on resume."""
    compile: Annotated[bool, RunOnly] = False
    """Compile SAM with torch.compile, which takes minutes: for long runs on GPUs."""


class SamConfig(Pool, SamModel):
    """SAM, which finds the segments."""


class ClipModel(Config):
    """The CLIP model that classifies the segments, and its options."""

    model: Text = REAL_CLIP
    """CLIP by its open_clip name. builtin: the small built-in model, default of classes=picture_book."""
    weights: Text | None = None
    """Weights: an open_clip tag, a file, https:// or hf-hub:OWNER/REPO; null: openai if no model is set."""
    sha256: Sha256 | None = None
    """Required checksum of the weights; null: no check other than the library's."""
    features: Literal["gem", "clip", "proxy", "corr", "tipsv2"] = "gem"
    """gem: self-self attention; clip: plain patches; proxy: ProxyCLIP; corr: CorrCLIP; tipsv2: TIPSv2."""
    proxy: Text | None = None
    """Vision model that guides proxy and corr: a timm name, sam; null: vit_base_patch8_224.dino."""
    proxy_weights: Text | None = None
    """Weights of that model: a file, an https:// URL or hf-hub:OWNER/REPO; null: the official ones."""
    proxy_sha256: Sha256 | None = None
    """Required checksum of these weights; null: no check other than the library's."""
    depth: int | None = Field(default=None, ge=2, le=64)
    """Self-self attention runs beside the last depth - 1 blocks; null: the model's default, 7 as in GEM."""
    iterations: int = Field(default=1, ge=0, le=16)
    """Iterations of self-self attention in a block."""
    temperature: float | None = Field(default=None, gt=0)
    """Temperature of the self-self attention; null: the adaptive temperature of GEM."""
    image_size: int | None = Field(default=None, ge=32, le=4096)
    """Side of CLIP's square input in pixels, with proxy, corr and tipsv2 of its window; null: the default."""
    refine: int = Field(default=0, ge=0, le=MOST_REFINE)
    """Steps by which pixels' classes follow the image's edges (PAMR); 0: none, published work: 10."""
    precision: Precision = "auto"
    """Precision of CLIP's image tower; auto as in sam.precision. Pooling and scores stay in fp32."""

    @model_validator(mode="after")
    def _keys_have_an_effect(self) -> ClipModel:
        guided, gem = self.features in PROXIES, self.features in ("gem", "clip")
        useless = [] if guided else ["proxy", "proxy_weights", "proxy_sha256"]
        useless += [] if gem else ["depth", "iterations", "temperature"]
        for name in useless:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no effect with features={self.features}; leave it out")
        return self


class ClipConfig(Pool, ClipModel):
    """GEM-CLIP, which classifies the segments."""


SAM_CLIP = "sam_clip"
"""The default annotator: SAM finds segments, GEM-CLIP classifies them."""
_ANNOTATORS = (SAM_CLIP, *LABEL_MODELS)
FOR_CLIP = ("templates", "pool", "unsegmented")
"""Keys of `label.` that mean nothing to a labeller."""


def _known_annotator(name: str) -> str:
    if name != SAM_CLIP:
        label_entry(name, also=(SAM_CLIP,))
    return name


class LabellerModel(Config):
    """The model that `annotator` names, which finds segments of the classes, and its options."""

    weights: Text | None = None
    """Weights: a file, an https:// URL or hf-hub:OWNER/REPO:FILE; null: the official weights of the model."""
    sha256: Sha256 | None = None
    """Required checksum of the weights; null: the official checksum where it is known."""
    instance_score: float = Field(default=0.3, ge=0, le=1)
    """Instances whose score is not above this are left out; the semantic map of their name stays."""
    max_instances: int = Field(default=30, ge=1, le=1000)
    """At most so many instances of each name, those with the best score."""
    min_presence: float = Field(default=0.1, ge=0, le=1)
    """No masks of names whose presence is not above this; never more than label.threshold, so labels stay."""
    prompts_per_batch: Annotated[int | None, Field(ge=1, le=4096), RunOnly] = None
    """Names per batch of the decoder; null: the model's default."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 on a GPU, fp32 on a CPU, what it was on resume. SAM 3's image encoder does not bear fp16."""


class LabellerConfig(Pool, LabellerModel):
    """The model that `annotator` names, if it is not sam_clip."""


class LabelConfig(Config):
    """Prompts and threshold that turn segments into labels."""

    threshold: float = Field(default=0.0, ge=-1, le=1)
    """A segment whose best cosine (of sam3: score, 0.5 by default) is not above this gets no class."""
    background_names: tuple[Text, ...] | None = None
    """Prompts of the background. One similar to a class takes its pixels. null: a list; of sam3 none."""
    templates: Text | tuple[Text, ...] = "single"
    """single ("a photo of a {}."), imagenet80 (default of annotate's default CLIP), tipsv2, or your own."""
    pool: Literal["mean", "vote"] = "mean"
    """A segment's class: that of the mean of its features, or the one that most of its pixels have."""
    unsegmented: Literal["background", "pixels"] = "background"
    """Pixels in no segment: no class, or (pixels, for stuff such as sky) the class of their own features."""
    aliases: dict[Text, tuple[Text, ...]] = Field(default={})
    """Names used for a class in the prompts, such as label.aliases.person=person,people."""

    @field_validator("templates")
    @classmethod
    def _templates_take_a_name(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for template in (value,) if isinstance(value, str) else value:
            if template.count("{}") != 1 and value not in TEMPLATE_SETS:
                sets = ", ".join(TEMPLATE_SETS)
                raise ValueError(
                    f"{template[:100]!r} has no {{}} for the name (allowed: {sets}, or text with one {{}})"
                )
        if not value:
            raise ValueError("no template (allowed: at least one)")
        return value


class AnnotateImageConfig(ImageConfig):
    """Which images are labelled, and how they are decoded."""

    reduce_jpeg: bool = False
    """Decode large JPEGs at 1/2, 1/4 or 1/8, never below what the models need; labels keep full size."""
    tile: int | None = Field(default=None, ge=64, le=16_384)
    """Label larger images in overlapping tiles of this side, in pixels; null: every image in one piece."""
    tile_overlap: float = Field(default=0.25, ge=0.01, le=0.5)
    """Overlap of neighbouring tiles as a fraction of their side."""

    def tiling(self) -> Tiling | None:
        """How large images are cut; None: they are not."""
        from segray.models.tiling import Tiling

        return Tiling(self.tile, self.tile_overlap) if self.tile else None


class CalibrateMasksConfig(Config):
    """Masks of some images, which teach the names of pixels; for sam.model=none."""

    masks: Masks | None = None
    """Masks of some images: a folder, archives, a list, or a label set with corrections; null: none teach."""
    split: Text | None = None
    """A split file: only its images, one per line, are learned from; null: all that have a mask."""
    allow_missing: bool = False
    """Leave out masks without an image, and images that cannot be read, instead of failing."""
    ignore_index: MaskVoid = 255
    binary: MaskBinary = None
    colors: MaskColors = None
    mask_suffix: MaskSuffix = None
    mask_column: MaskColumn = None


class AnnotateConfig(Config):
    """Label images with SAM and CLIP."""

    images: Images
    """Folder, glob, file, list (.txt, .csv), .tar, .zip, .parquet, the URI of one, or several: a,b."""
    out: Annotated[Folder, RunOnly]
    """Folder of the label set. Running the same command again labels only the images that are missing."""
    classes: Classes
    """picture_book, voc, coco, the names: cat,dog, or a file: one class per line, or another tool's."""
    annotator: Annotated[str, AfterValidator(_known_annotator), Shown("MODEL", choices=_ANNOTATORS)] = (
        SAM_CLIP
    )
    """sam_clip: SAM finds segments, GEM-CLIP classifies them; sam3: SAM 3 finds what the class names say."""
    sam: SamConfig = SamConfig()
    """SAM, which finds the segments."""
    clip: ClipConfig = ClipConfig()
    """GEM-CLIP, which classifies the segments."""
    labeller: LabellerConfig = LabellerConfig()
    """The model that `annotator` names, if it is not sam_clip."""
    label: LabelConfig = LabelConfig()
    """Prompts and threshold that turn segments into labels."""
    calibrate: CalibrateMasksConfig = CalibrateMasksConfig()
    """Masks of some images, which teach the names of pixels; for sam.model=none."""
    image: AnnotateImageConfig = AnnotateImageConfig()
    """Which images are accepted, and how they are decoded."""
    embed_images: bool = False
    """Store the image files in the label set too, so that it is self-contained."""
    embeddings: bool = True
    """Store the embedding of each segment, so that `segray relabel` can change classes without SAM."""
    max_bad: Annotated[float | None, Field(ge=0, le=1), RunOnly] = None
    """Exit with status 3 if a greater fraction of the images is bad; null: never."""
    rows_per_part: Annotated[int | None, Field(ge=1, le=100_000), RunOnly] = None
    """Images per Parquet file; null: chosen from the number of images."""
    max_tries: Annotated[int, Field(ge=1, le=100), RunOnly] = 3
    """An image that crashes its actor this often becomes an error row."""
    auto: Annotated[bool, RunOnly] = False
    """Size both pools from a short probe run. Explicit settings win. No effect where one model does all."""
    new_run: Annotated[bool, RunOnly] = False
    """If `out` was written with another configuration, write to OUT-2 instead of failing."""
    address: Annotated[Text | None, RunOnly] = None
    """A running Ray cluster: auto or ray://HOST:10001; null: RAY_ADDRESS if set, or this machine."""
    grow: GrowConfig = GrowConfig()
    """Machines to request from an autoscaling cluster."""

    @model_validator(mode="before")
    @classmethod
    def _with_default_models(cls, values: object) -> object:
        sections = (
            (values.get(name) for name in ("sam", "clip", "label")) if isinstance(values, Mapping) else ()
        )
        # Anything else than sections is left to the validation that follows.
        if isinstance(values, Mapping) and all(isinstance(s, Mapping | Config | None) for s in sections):
            return with_default_models(values)
        return values

    @property
    def model_stages(self) -> dict[str, Pool]:
        """The stages that hold a model, by name, in their order."""
        if self.annotator != SAM_CLIP:
            return {"labeller": self.labeller}
        return {"clip": self.clip} if self.sam.model == "none" else {"sam": self.sam, "clip": self.clip}

    @model_validator(mode="after")
    def _no_setting_is_ignored(self) -> AnnotateConfig:
        unused = ("labeller",) if self.annotator == SAM_CLIP else ("sam", "clip")
        ignored = [f"{name}.{key}" for name in unused for key in _changed(getattr(self, name))]
        if self.annotator != SAM_CLIP:
            ignored += [f"label.{key}" for key in _changed(self.label) if key in FOR_CLIP]
        if ignored:
            raise ValueError(f"{ignored[0]} has no effect with annotator={self.annotator}; leave it out")
        return self

    @model_validator(mode="after")
    def _crops_need_full_images(self) -> AnnotateConfig:
        if self.image.reduce_jpeg and self.sam.crop_n_layers:
            raise ValueError(
                "image.reduce_jpeg removes the detail that sam.crop_n_layers needs; set only one of them"
            )
        if self.image.reduce_jpeg and self.image.tile:
            raise ValueError(
                "image.reduce_jpeg removes the detail that image.tile is for; set only one of them"
            )
        return self

    @model_validator(mode="after")
    def _masks_teach_pixels(self) -> AnnotateConfig:
        if self.calibrate.masks is None:
            if changed := _changed(self.calibrate):
                key = f"calibrate.{changed[0]}"
                raise ValueError(f"{key} has no effect without calibrate.masks; leave it out")
        elif self.annotator != SAM_CLIP or self.sam.model != "none":
            raise ValueError(
                "calibrate.masks teaches the names of pixels: set sam.model=none, or leave it out and run "
                "`segray calibrate` on the label set"
            )
        return self

    @model_validator(mode="after")
    def _segments_are_there(self) -> AnnotateConfig:
        for name in ("pool", "unsegmented"):
            given = getattr(self.label, name) != LabelConfig.model_fields[name].default
            if given and self.sam.model == "none":
                raise ValueError(f"label.{name} has no effect with sam.model=none; leave it out")
        of_segments = self.label.pool == "mean" and self.label.unsegmented == "background"
        if self.clip.refine and self.annotator == SAM_CLIP and self.sam.model != "none" and of_segments:
            raise ValueError(
                "clip.refine has no effect without labels of pixels; leave it out, or set sam.model=none, "
                "label.pool=vote or label.unsegmented=pixels"
            )
        return self


def with_default_models(values: Mapping[str, object]) -> dict[str, object]:
    """Values of `AnnotateConfig` with the models that the user has not chosen.

    The picture book gets the built-in models. All other classes get SAM ViT-B and OpenAI's CLIP ViT-B/16 with
    the 80 ImageNet templates. A CLIP that the user names keeps the defaults of its own keys. TIPSv2 goes with
    its own templates. Any other annotator gets its own threshold.
    """
    if (annotator := values.get("annotator", SAM_CLIP)) != SAM_CLIP:
        return {**values, **_threshold_of(annotator, values)}
    sam, clip, label = (_set_values(values.get(name)) for name in ("sam", "clip", "label"))
    builtin = values.get("classes") == "picture_book"
    sam.setdefault("model", "builtin" if builtin else "vit_b")
    clip = _with_proxy(clip, sam)
    if clip.get("features") == "tipsv2" or str(clip.get("model")).startswith("tipsv2"):
        clip = {"model": DEFAULT_TIPS, "features": "tipsv2", **clip}
        label = {"templates": "tipsv2", **label}
    elif "model" not in clip and builtin:
        clip["model"] = "builtin"
    elif "model" not in clip:
        clip = {"model": REAL_CLIP, "weights": "openai", **clip}
        label = {"templates": "imagenet80", **label}
    return {**values, "sam": sam, "clip": clip, "label": label}


def _threshold_of(annotator: object, values: Mapping[str, object]) -> dict[str, object]:
    """The section `label` with the threshold of a labeller; none of a name that is refused later."""
    try:
        entry = label_entry(str(annotator))
    except ValueError:
        return {}
    return {"label": {"threshold": entry.threshold, **_set_values(values.get("label"))}}


def _changed(section: Config) -> list[str]:
    """Keys whose value is not the default."""
    default = type(section)()
    return [key for key in type(section).model_fields if getattr(section, key) != getattr(default, key)]


def _with_proxy(clip: dict[str, object], sam: Mapping[str, object]) -> dict[str, object]:
    """CLIP's section with its proxy; `sam` stands for the model that finds the segments, and its weights."""
    if clip.get("features") not in PROXIES:
        return clip
    if clip.get("proxy") == "sam":
        taken = {"proxy_weights": sam.get("weights"), "proxy_sha256": sam.get("sha256")}
        return {**{key: value for key, value in taken.items() if value}, **clip, "proxy": sam["model"]}
    return {**clip, "proxy": clip.get("proxy") or DEFAULT_PROXY}


def _set_values(section: object) -> dict[str, object]:
    """The values of a section that the user has set."""
    if isinstance(section, Config):
        return section.model_dump(exclude_unset=True)
    return dict(section) if isinstance(section, Mapping) else {}

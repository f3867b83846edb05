"""The configuration of `segray train`; the defaults are the paper's recipe where it states one."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from segray.pipelines.config.schema import Config, Folder, RunOnly, Text
from segray.pipelines.config.shared import GrowConfig

Method = Literal["supervised", "fixmatch", "unimatch", "unimatch_v2", "segray", "segray_v2"]
Network = Literal[
    "picture_book",
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
    "clip_b16_dpt",
]
_Share = Annotated[float, Field(ge=0, le=1)]
_Part = Annotated[float, Field(gt=0, le=1)]
_Factor = Annotated[float, Field(gt=0)]


class DataConfig(Config):
    """What a training run learns from, and what it is measured on."""

    kind: Literal["folder", "voc", "coco", "picture_book"] = "folder"
    """folder, picture_book: images/ and masks/; voc: PASCAL VOC's folders; coco: instances_*.json."""
    root: Folder
    """The data set's folder."""
    classes: Text | tuple[Text, ...] | None = None
    """As in annotate; null: the data set's own (class_names.txt, line by line from id 0; the JSON file)."""
    ignore_index: int = Field(default=255, ge=0, le=255)
    """Pixels that have this id in the masks count for nothing."""
    labels: Folder | None = None
    """The label set of `segray annotate`, zero-shot labels of the unlabelled images; null: there is none."""
    labelled: Text = "all"
    """Images whose masks are learnt from: a split file, a count such as 92, a share such as 1/16, or all."""
    unlabelled: Text | None = None
    """A split file of the images without masks; null: all other training images, masks or not."""
    validation: Text | None = None
    """A split file, a count or a share; null: the data set's val part, without one 1/5 of the masks."""


class NetworkConfig(Config):
    """Which network learns."""

    name: Network = "segformer_b4"
    """The segmentation network; picture_book is small and starts from the built-in CLIP."""
    weights: Text | None = None
    """Encoder weights to start from: a file, https:// or hf-hub:OWNER/REPO; null: the official ones."""
    pretrained: bool = True
    """Start from pretrained encoder weights; false: from random ones."""


class PseudoConfig(Config):
    """How unlabelled images teach."""

    tau: float | None = Field(default=None, ge=0)
    """Confidence that makes the model's own class the label (Eq. 7); null: the method's, 0.7 in segray."""
    epsilon: float | None = Field(default=None, ge=0, lt=1)
    """Label smoothing on enhanced labels (Eq. 8); null: 1 / number of classes, 0: none."""
    min_confidence: _Share = 0.0
    """Leave out zero-shot pixels less confident than this; 0: believe them all, as the paper does."""
    feature_dropout: float = Field(default=0.5, ge=0, lt=1)
    """Share of channels that the feature perturbation drops."""
    ema: float = Field(default=0.996, ge=0, lt=1)
    """Decay of the averaged teacher in unimatch_v2 and segray_v2."""


class AugmentConfig(Config):
    """The weak and the strong views."""

    crop: int = Field(default=321, ge=32, le=4096)
    """Side of a training crop in pixels."""
    scale: tuple[_Factor, _Factor] = (0.5, 2.0)
    """The long side is resized by a factor from this range."""
    flip: _Share = 0.5
    """Chance of a horizontal flip."""
    jitter: _Share = 0.8
    """Chance of a colour jitter in a strong view."""
    brightness: float = Field(default=0.5, ge=0)
    """Greatest change of brightness in the jitter."""
    contrast: float = Field(default=0.5, ge=0)
    """Greatest change of contrast in the jitter."""
    saturation: float = Field(default=0.5, ge=0)
    """Greatest change of saturation in the jitter."""
    hue: float = Field(default=0.25, ge=0, le=0.5)
    """Greatest turn of the hue in the jitter, in full circles."""
    gray: _Share = 0.2
    """Chance that a strong view loses its colours."""
    blur: _Share = 0.5
    """Chance of a Gaussian blur in a strong view."""
    blur_sigma: tuple[_Factor, _Factor] = (0.1, 2.0)
    """Range of the blur's sigma in pixels."""
    cutmix: _Share = 0.5
    """Chance that a box of another image is pasted into a strong view."""
    cutmix_area: tuple[_Part, _Part] = (0.02, 0.4)
    """Range of that box's area, as a share of the crop."""
    cutmix_aspect: tuple[_Factor, _Factor] = (0.3, 1 / 0.3)
    """Range of that box's height over its width."""

    @model_validator(mode="after")
    def _ranges_rise(self) -> AugmentConfig:
        for name in ("scale", "blur_sigma", "cutmix_area", "cutmix_aspect"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} ({low:g}, {high:g}) runs backwards")
        return self


class LearnConfig(Config):
    """How long, how fast and on how many workers."""

    epochs: int = Field(default=80, ge=1)
    """Passes over the unlabelled images."""
    batch: int = Field(default=8, ge=1)
    """Labelled images a step, over all workers; and as many unlabelled ones."""
    optimiser: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum 0.9, or AdamW."""
    lr: float = Field(default=0.001, gt=0)
    """Learning rate of the encoder at a batch of 8; it is scaled by batch / 8."""
    decoder_lr: float = Field(default=10.0, gt=0)
    """The decoder's learning rate as a multiple of the encoder's."""
    power: float = Field(default=0.9, ge=0)
    """The learning rate falls as (1 - step / steps) to this power."""
    warmup: int = Field(default=0, ge=0)
    """Steps in which the learning rate rises from 0."""
    weight_decay: float = Field(default=1e-4, ge=0)
    """Weight decay, on all parameters of two and more dimensions."""
    workers: Annotated[int, Field(ge=1, le=4096), RunOnly] = 1
    """Processes that share each batch; with GPUs, one GPU each."""
    num_cpus: Annotated[float | None, Field(gt=0), RunOnly] = None
    """CPUs for one worker; null: chosen from what the cluster has."""
    loaders: Annotated[int, Field(ge=0, le=64), RunOnly] = 0
    """Processes that read images for one worker; 0: the worker reads them itself, a step ahead."""
    accumulate: int = Field(default=1, ge=1)
    """Parts in which a worker takes its share of a batch, one after another, to save memory."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: autocast to bfloat16."""
    channels_last: Annotated[bool, RunOnly] = False
    """Memory format that convolutions on GPUs like."""
    compile: Annotated[bool, RunOnly] = False
    """Compile the network with torch.compile."""
    validate_every: int = Field(default=1, ge=1)
    """Epochs from one validation to the next; the last epoch is always validated."""
    window: int | None = Field(default=None, ge=32)
    """Validate with a sliding window of this side; null: each image whole, at its own size."""
    max_failures: Annotated[int, Field(ge=0), RunOnly] = 3
    """How often lost workers are replaced before the run gives up."""

    @model_validator(mode="after")
    def _batch_divides(self) -> LearnConfig:
        if self.batch % (self.workers * self.accumulate):
            raise ValueError(
                f"batch ({self.batch}) is no multiple of workers x accumulate "
                f"({self.workers} x {self.accumulate})"
            )
        return self


class TrainConfig(Config):
    """Train a segmentation network on a few masks and many zero-shot labels."""

    out: Annotated[Folder, RunOnly]
    """Where checkpoints, curves and the report go. The same command again goes on where it stopped."""
    data: DataConfig
    """What it learns from."""
    method: Method = "segray"
    """How unlabelled images are used; segray: the zero-shot label, enhanced by the model's own prediction."""
    network: NetworkConfig = NetworkConfig()
    """Which network learns."""
    pseudo: PseudoConfig = PseudoConfig()
    """How unlabelled images teach."""
    augment: AugmentConfig = AugmentConfig()
    """The weak and the strong views."""
    train: LearnConfig = LearnConfig()
    """How long, how fast and on how many workers."""
    trackers: Annotated[tuple[Literal["tensorboard", "mlflow", "wandb"], ...], RunOnly] = ("tensorboard",)
    """Where curves go besides history.json."""
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    """The same seed gives the same split, order and augmentation."""
    address: Annotated[Text | None, RunOnly] = None
    """A running Ray cluster: auto or ray://HOST:10001; null: RAY_ADDRESS if set, or this machine."""
    grow: GrowConfig = GrowConfig()
    """Machines to ask a cluster for that grows on request."""

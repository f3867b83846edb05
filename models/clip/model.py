"""A CLIP ready for use: network, weights, tokenizer and preprocessing always come together."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from segray.models import weights as files
from segray.models.architectures import is_like
from segray.models.builtin.arch import CLIP_ARCH, CLIP_DEPTH, CLIP_INPUT, build_builtin_clip
from segray.models.clip.tipsv2 import INPUT as TIPS_INPUT
from segray.models.clip.tipsv2 import TIPS_MODELS, load_tips
from segray.models.clip.towers import check_config
from segray.models.clip.weights import OPENAI_MEAN, OPENAI_STD, Triple, find_weights
from segray.models.messages import first_line
from segray.models.precision import DTYPES, Precision
from segray.models.transfer import to_device
from segray.models.uninitialised import uninitialised
from segray.models.weights import Checkpoint, UnavailableError, WeightsError

if TYPE_CHECKING:
    from segray.models.clip.vision import ProxyTower

BUILTIN = "builtin"
GEM_INPUT = 448
"""Side of GEM's square input in pixels (Bousselham et al., CVPR 2024): 28 x 28 patches of 16 px."""

GEM_DEPTH = 7
"""GEM's published depth for ViT-B/16: the last 6 of 12 blocks."""

Tokenizer = Callable[[list[str]], Tensor]


class _StateFor(Protocol):
    """Gives the tensors of a weight file that fit a network."""

    def __call__(self, network: Any, *, mapped: bool = False) -> dict[str, Tensor]:
        """See `_Clip.state_for`."""
        ...


# Constants of the network that state dicts taken from OpenAI's archives, and old ones of text towers, list.
_NO_PARAMETERS = (
    "input_resolution",
    "context_length",
    "vocab_size",
    "text.transformer.embeddings.position_ids",
)


@dataclass(frozen=True)
class ClipModel:
    """A CLIP with all that its inputs need, in evaluation mode, its parameters frozen.

    Attributes:
        name: `builtin` or the open_clip name.
        model: the open_clip model; `model.visual` is what `models.clip.gem.dense_features` takes.
        tokenizer: texts -> int64 [N, context length].
        mean: of the RGB channels in [0, 1], for `preprocess`.
        std: of the RGB channels, as `mean`.
        image_size: side of the default square input in pixels, a multiple of the patch size.
        checkpoint: the weight file.
        depth: of GEM, where the user names none: the last `depth - 1` blocks.
        proxy: another vision model, for features that need one.
    """

    name: str
    model: Any
    tokenizer: Tokenizer
    mean: Triple
    std: Triple
    image_size: int
    checkpoint: Checkpoint
    depth: int = GEM_DEPTH
    proxy: ProxyTower | None = None

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        device: torch.device = self.model.logit_scale.device
        return device


def build_clip(
    model: str,
    weights: str | None = None,
    *,
    sha256: str | None = None,
    device: str | torch.device = "cpu",
    precision: Precision = "fp32",
) -> ClipModel:
    """Build a CLIP and load its weights.

    Args:
        model: `builtin`, an open_clip model name with a plain vision transformer (`ViT-B-16`), or a key of
            `tipsv2.TIPS_MODELS`.
        weights: None for the built-in weights; every other model needs one of open_clip's
            pretrained tags (`openai`, `laion2b_s34b_b88k`), a local file (.safetensors, or a state dict as
            .pt, .pth or .bin), an https:// URL, or `hf-hub:owner/repo[:filename]`.
        sha256: refuse any other file.
        device: where the model goes.
        precision: of the image tower; the text tower stays in float32.

    The networks of OpenAI, MetaCLIP and DFN use QuickGELU. For a tag, and for a hub repository with an
    open_clip_config.json, that and the mean and std are read from the published configuration. A plain file
    does not say: it gets OpenAI's mean and std, and for QuickGELU weights name the `-quickgelu` model
    (`ViT-B-16-quickgelu`), or every feature is a little wrong.

    Raises:
        ValueError: an unknown or unsupported model or tag.
        segray.models.weights.WeightsError: the file cannot be had, is not what it should be, or does not fit.
    """
    if model in TIPS_MODELS:
        return move(_tips(model, weights, sha256), device, precision)
    clip = _find(model, weights, sha256)
    with uninitialised():
        network = clip.build()
    network.load_state_dict(clip.state_for(network))
    return move(clip.with_network(network), device, precision)


def _tips(model: str, weights: str | None, sha256: str | None, *, text_only: bool = False) -> ClipModel:
    try:
        network, tokenizer, checkpoint = load_tips(model, weights, sha256, text_only=text_only)
    except UnavailableError as error:
        raise error.for_model("clip") from error
    return ClipModel(model, network, tokenizer, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), TIPS_INPUT, checkpoint)


def build_text_clip(model: str, weights: str | None = None, *, sha256: str | None = None) -> ClipModel:
    """As `build_clip` on a CPU, but with an image tower on the device "meta", without values.

    It embeds texts. All tensors of the file are compared with the network; those of the image tower are not
    read. That of a TIPSv2 stays in the file instead.

    Args:
        model: see `build_clip`.
        weights: see `build_clip`.
        sha256: see `build_clip`.

    Raises:
        ValueError: see `build_clip`.
        segray.models.weights.WeightsError: see `build_clip`.
    """
    if model in TIPS_MODELS:
        return _tips(model, weights, sha256, text_only=True)
    clip = _find(model, weights, sha256)
    with uninitialised():
        network = clip.build()
    state = clip.state_for(network, mapped=True)
    network.visual.to("meta")
    # What this leaves out is known to fit.
    network.load_state_dict(
        {key: value for key, value in state.items() if not key.startswith("visual.")}, strict=False
    )
    return clip.with_network(network)


def move(clip: ClipModel, device: str | torch.device, precision: Precision) -> ClipModel:
    """The CLIP itself, moved to a device; its image tower is rounded, its text tower stays in float32.

    So does another vision model.
    """
    clip.model.visual.to(DTYPES[precision])
    clip.model.to(device)
    if clip.proxy:
        clip.proxy.to(torch.device(device))
    return clip


def preprocess(
    images: Sequence[NDArray[np.uint8]],
    size: int | tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device | str = "cpu",
) -> Tensor:
    """RGB images, uint8 [H, W, 3] of any sizes, as one float32 batch [B, 3, height, width] on a device.

    Each image is resampled to `size` (a square's side, or (height, width)) with an antialiased bicubic that
    does not keep the aspect ratio, as GEM's input is; then scaled to [0, 1] and normalised by mean and std.
    A GPU resamples its images itself: a core takes longer for one than the GPU for all of CLIP.

    Raises:
        ValueError: an array that is not uint8 [H, W, 3] with at least one pixel.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if not images:
        return torch.zeros(0, 3, height, width, device=device)
    device = torch.device(device)
    pixels = (to_device(_pixels(image), device) for image in images)
    resample = _resampled if device.type == "cpu" else resampled_in_float
    batch = torch.cat([resample(image, height, width) for image in pixels]).float() / 255
    shift, scale = (to_device(torch.tensor(values).view(3, 1, 1), device) for values in (mean, std))
    return (batch - shift) / scale


def _pixels(image: NDArray[np.uint8]) -> Tensor:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"an image must be uint8 [H, W, 3], this one is {image.dtype} {list(image.shape)}")
    # A copy of what is read-only, as in Ray's object store: torch.from_numpy warns about it.
    return torch.from_numpy(np.require(image, requirements=["C", "W"])).permute(2, 0, 1)[None]


def _resampled(pixels: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(pixels, (height, width), mode="bicubic", antialias=True, align_corners=False)


def resampled_in_float(pixels: Tensor, height: int, width: int) -> Tensor:
    """uint8 [1, 3, H, W] resampled to whole values of float32, as a GPU can."""
    return _resampled(pixels.float().contiguous(), height, width).round_().clamp_(0, 255)


@dataclass(frozen=True)
class _Clip:
    """A CLIP whose weight file is known, before its network is built.

    Attributes:
        build: a network with random weights.
        state_for: a network on any device -> the tensors of the file, which fit it; `mapped` as in
            `segray.models.weights.load_state_dict`.
        with_network: a network with the tensors loaded -> the model.
    """

    build: Callable[[], Any]
    state_for: _StateFor
    with_network: Callable[[Any], ClipModel]


def _find(model: str, weights: str | None, sha256: str | None) -> _Clip:
    if model == BUILTIN:
        return _find_builtin(weights, sha256)
    config = _config(model)
    # Before the weights, a possibly long download: this can fail where a package is missing.
    tokenizer = _tokenizer(model)
    try:
        source = find_weights(model, weights, sha256)
    except UnavailableError as error:
        raise error.for_model("clip") from error
    config["quick_gelu"] = config.get("quick_gelu", False) or source.quick_gelu
    size = _input_size(config["vision_cfg"])
    return _Clip(
        partial(_network, model, config),
        partial(_fitting_state, checkpoint=source.checkpoint, name=model),
        lambda network: ClipModel(
            model, _frozen(network), tokenizer, source.mean, source.std, size, source.checkpoint
        ),
    )


def _find_builtin(weights: str | None, sha256: str | None) -> _Clip:
    from open_clip.tokenizer import SimpleTokenizer

    checkpoint = files.resolve(weights or "builtin:clip", sha256=sha256)
    arch: dict[str, Any] = files.read_card(checkpoint).get("arch", CLIP_ARCH)
    if not is_like(arch, CLIP_ARCH):
        raise WeightsError(f"{checkpoint.path}: its metadata 'arch' is not that of the built-in CLIP")
    tokenizer = SimpleTokenizer(context_length=arch["text_cfg"]["context_length"])
    parts = (tokenizer, OPENAI_MEAN, OPENAI_STD, CLIP_INPUT, checkpoint, CLIP_DEPTH)
    return _Clip(
        partial(build_builtin_clip, arch),
        partial(files.fitting_state, checkpoint=checkpoint, name=BUILTIN),
        lambda network: ClipModel(BUILTIN, _frozen(network), *parts),
    )


def _config(name: str) -> dict[str, Any]:
    """open_clip's configuration of a supported model."""
    from segray.models.clip.catalogue import get_model_config, list_models

    names: list[str] = list_models()
    if name not in names:
        close = difflib.get_close_matches(name, [BUILTIN, *names], n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(f"unknown CLIP model {name!r}{hint} (builtin, or a name of open_clip.list_models())")
    config: dict[str, Any] = get_model_config(name)
    check_config(name, config)
    return config


def _network(name: str, config: dict[str, Any]) -> Any:
    from open_clip.model import CLIP, CustomTextCLIP

    text = dict(config["text_cfg"])
    custom = "hf_model_name" in text
    if custom:
        # Only the text tower's own configuration comes from the hub: its weights are in the checkpoint.
        text["hf_model_pretrained"] = False
    try:
        return (CustomTextCLIP if custom else CLIP)(**{**config, "text_cfg": text})
    except (ImportError, OSError, RuntimeError) as error:
        raise ValueError(f"cannot build the text tower of CLIP model {name}: {first_line(error)}") from error


def _tokenizer(name: str) -> Tokenizer:
    from segray.models.clip.catalogue import get_tokenizer

    try:
        tokenizer: Tokenizer = get_tokenizer(name)
    except (ImportError, OSError, RuntimeError) as error:
        raise ValueError(f"cannot load the tokenizer of CLIP model {name}: {first_line(error)}") from error
    return tokenizer


def _fitting_state(
    network: Any, *, checkpoint: Checkpoint, name: str, mapped: bool = False
) -> dict[str, Tensor]:
    """Any state dict that open_clip itself reads, older layouts included, as `network` takes it.

    Raises:
        WeightsError: the file is damaged, or does not fit.
    """
    from open_clip.model import convert_to_custom_text_state_dict

    state = files.load_state_dict(checkpoint, mapped=mapped)
    state = {key: value for key, value in state.items() if key not in _NO_PARAMETERS}
    if "positional_embedding" in state and not hasattr(network, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)
    if state.get("logit_scale", torch.zeros(0)).numel() == 1:
        state["logit_scale"] = state["logit_scale"].reshape(network.logit_scale.shape)
    problem = _misfit(network, state)
    if problem:
        raise WeightsError(f"{checkpoint.path} does not fit the CLIP model {name}: {problem}")
    return state


def _misfit(network: nn.Module, state: dict[str, Tensor]) -> str | None:
    expected = network.state_dict()
    missing, unexpected = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    shapes = [key for key in expected if key in state and expected[key].shape != state[key].shape]
    if shapes:
        key = shapes[0]
        return f"{key} is {list(state[key].shape)}, expected {list(expected[key].shape)} ({len(shapes)} such)"
    if missing:
        return f"{missing[0]} is missing ({len(missing)} such)"
    return f"{unexpected[0]} is unexpected ({len(unexpected)} such)" if unexpected else None


def _frozen(network: Any) -> Any:
    return network.eval().requires_grad_(False)


def _input_size(vision: dict[str, Any]) -> int:
    """GEM's input, or the network's own where that is larger, as a multiple of the patch size."""
    patch: int = vision["patch_size"]
    return max(vision["image_size"], GEM_INPUT) // patch * patch

"""Other vision models whose features say which patches belong together: timm's towers, and SAM's encoder."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from segray.models import weights as files
from segray.models.annotators.protocols import MaskModel
from segray.models.annotators.registry import mask_entry, mask_names
from segray.models.architectures import check_numbers, check_size
from segray.models.clip.windows import AT_ONCE, Corner, cut
from segray.models.messages import first_line
from segray.models.weights import Checkpoint, UnavailableError, WeightsError

_SAM_UNIT = 8
_LARGEST_UNIT = 64


class ProxyTower(ABC):
    """A vision model with dense features.

    Attributes:
        name: of the model.
        checkpoint: its weight file.
        unit: side of a cell of its features in pixels.
    """

    name: str
    checkpoint: Checkpoint
    unit: int

    @abstractmethod
    def to(self, device: torch.device) -> None:
        """Move to a device."""

    @abstractmethod
    def features(self, image: Tensor, corners: list[Corner], side: int, *, keys: bool) -> Tensor:
        """L2-normalised features of windows, float32 [B, side / unit, side / unit, C].

        Args:
            image: RGB in 0..1, [3, H, W].
            corners: (top, left) of the windows.
            side: of the windows.
            keys: queries plus keys of the last block, where the model has such; else its last features.
        """


class TimmTower(ProxyTower):
    """A tower of timm.

    Args:
        name: of the model.
        network: in evaluation mode.
        checkpoint: its weight file.
    """

    def __init__(self, name: str, network: Any, checkpoint: Checkpoint) -> None:
        self.name, self.checkpoint, self._network = name, checkpoint, network
        self.unit = int(network.feature_info[-1]["reduction"])
        config = network.pretrained_cfg
        self._mean, self._std = (torch.tensor(config[key])[:, None, None] for key in ("mean", "std"))

    def to(self, device: torch.device) -> None:
        """See `ProxyTower`."""
        self._network.to(device)
        self._mean, self._std = self._mean.to(device), self._std.to(device)

    def features(self, image: Tensor, corners: list[Corner], side: int, *, keys: bool) -> Tensor:
        """See `ProxyTower`."""
        normalised = (image - self._mean) / self._std
        parts = [corners[start : start + AT_ONCE] for start in range(0, len(corners), AT_ONCE)]
        maps = [self._maps(cut(normalised, part, side), keys) for part in parts]
        return F.normalize(torch.cat(maps).float(), dim=-1)

    def _maps(self, images: Tensor, keys: bool) -> Tensor:
        qkv = self._last_qkv() if keys else None
        if qkv is None:
            last: Tensor = self._network.forward_intermediates(images, 1, norm=True, intermediates_only=True)[
                0
            ]
            return last.permute(0, 2, 3, 1)
        before = len(self._network.blocks) - 2
        (tokens,) = self._network.forward_intermediates(
            images, [before], intermediates_only=True, stop_early=True
        )
        queries, others, _ = qkv(self._network.blocks[-1].norm1(tokens.permute(0, 2, 3, 1))).chunk(3, -1)
        return queries + others

    def _last_qkv(self) -> Any:
        """The joint projection of the last block's attention; None where the tower has none."""
        blocks: Any = getattr(self._network, "blocks", ())
        return getattr(getattr(blocks[-1], "attn", None), "qkv", None) if len(blocks) > 1 else None


class SamTower(ProxyTower):
    """The image encoder of a model that finds segments; it sees the whole image, once.

    Args:
        name: of the model.
        model: with an `embedding`; None: only checked, without features.
        checkpoint: its weight file.
    """

    unit = _SAM_UNIT

    def __init__(self, name: str, model: MaskModel | None, checkpoint: Checkpoint) -> None:
        self.name, self.checkpoint, self._model = name, checkpoint, model
        self._device = torch.device("cpu")

    def to(self, device: torch.device) -> None:
        """See `ProxyTower`."""
        self._device = device

    def features(self, image: Tensor, corners: list[Corner], side: int, *, keys: bool) -> Tensor:  # noqa: ARG002
        """See `ProxyTower`."""
        assert self._model is not None, "loaded, where features are computed"
        pixels = (image * 255).round().byte().permute(1, 2, 0).cpu().numpy()
        grid = (image.shape[1] // self.unit, image.shape[2] // self.unit)
        whole = self._model.embedding(np.ascontiguousarray(pixels), grid, str(self._device))
        cells = [(y // self.unit, x // self.unit) for y, x in corners]
        maps = cut(whole.permute(2, 0, 1).to(image.device), cells, side // self.unit)
        return F.normalize(maps.float().permute(0, 2, 3, 1), dim=-1)


def open_proxy(
    name: str, weights: str | None = None, sha256: str | None = None, *, load: bool = True
) -> ProxyTower:
    """A vision model with its weights, on the CPU.

    Args:
        name: of timm, or a model that finds segments and has an image embedding (`vit_b`, `builtin`).
        weights: anything `models.weights.resolve` takes; None for the official ones.
        sha256: refuse any other file.
        load: False: only compare the names and shapes of the tensors, whose values are not read. The model
            has no features then.

    Raises:
        ValueError: an unknown model, or one without dense features.
        WeightsError: the weights cannot be had, or do not fit.
    """
    if name in mask_names():
        from segray.models.annotators.loading import check_model, open_model

        if not mask_entry(name).open_family().has_embedding:
            raise ValueError(f"clip.proxy={name} has no image embedding that could be used; SAM's vit_b has")
        if not load:
            return SamTower(name, None, check_model(name, weights, sha256=sha256)[1])
        model, checkpoint = open_model(name, weights, sha256=sha256)
        return SamTower(name, model, checkpoint)
    return _timm_tower(name, weights, sha256, load)


def _timm_tower(name: str, weights: str | None, sha256: str | None, load: bool) -> TimmTower:
    import timm

    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"unknown clip.proxy {name!r}{hint} (sam, or a name of timm.list_models())")
    checkpoint = _weights(name, weights, sha256)
    network = _network(name, checkpoint, load)
    return TimmTower(name, network, checkpoint)


def _weights(name: str, weights: str | None, sha256: str | None) -> Checkpoint:
    try:
        return files.resolve(weights or _published(name), sha256=sha256)
    except UnavailableError as error:
        advice = "fetch the file elsewhere and give clip.proxy_weights=FILE, or take clip.proxy=sam"
        raise WeightsError(f"no weights for clip.proxy: {error.args[0]}; {advice}") from error


def _published(name: str) -> str:
    import timm

    try:
        found = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise ValueError(f"clip.proxy={name}: {first_line(error)}") from error
    if not (found and found.hf_hub_id):
        raise ValueError(f"clip.proxy={name} has no published weights; give clip.proxy_weights=FILE")
    return f"hf-hub:{found.hf_hub_id}"


def _network(name: str, checkpoint: Checkpoint, load: bool) -> Any:
    """The network without its classifier, whose tensors in the file do not matter; perhaps without values."""
    import timm

    arch = files.read_card(checkpoint).get("arch", {})
    state = files.load_state_dict(checkpoint, mapped=not load)
    try:
        check_numbers(arch, None)
        check_size(lambda: _created(timm, name, arch), state)
        with torch.device("cpu" if load else "meta"):
            network = _created(timm, name, arch)
        if not hasattr(network, "forward_intermediates"):
            raise ValueError("it has no dense features")
        if int(network.feature_info[-1]["reduction"]) > _LARGEST_UNIT:
            raise ValueError("its features are too coarse")
        found = network.load_state_dict(state, strict=False, assign=not load)
    except Exception as error:  # an architecture of somebody else's file raises almost anything
        line = first_line(error)[:200]
        raise WeightsError(f"{checkpoint.path} does not fit clip.proxy={name}: {line}") from error
    if found.missing_keys:
        missing = found.missing_keys[0]
        raise WeightsError(f"{checkpoint.path} does not fit clip.proxy={name}: {missing} is missing")
    return network.eval().requires_grad_(False)


def _created(timm: Any, name: str, arch: dict[str, Any]) -> Any:
    """With images of any size, where the architecture knows such an option."""
    try:
        return timm.create_model(name, pretrained=False, num_classes=0, dynamic_img_size=True, **arch)
    except TypeError:
        return timm.create_model(name, pretrained=False, num_classes=0, **arch)

"""TIPSv2 as a CLIP: transformers' model, whose patches are in the text space by the values of its last layer.

The formulas are those of TIPS (Maninis et al., ICLR 2025, arXiv 2410.16512) and its second version. Google's
weights are Apache-2.0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segray.models import weights as files
from segray.models.annotators.registry import FEATURE_MODELS
from segray.models.annotators.transformers_weights import Blueprint, load_pretrained
from segray.models.messages import first_line
from segray.models.weights import Checkpoint, UnavailableError, WeightsError

CONTEXT = 64
"""Tokens of a text, padded."""
INPUT = 448
"""Side of a window in pixels."""
PREFIX = 2
"""Tokens before the patches: a class token and a register."""
_PAD = 0
_TOKENIZERS = ("tokenizer.json", "tokenizer.model")


@dataclass(frozen=True)
class Tips:
    """A published size.

    Attributes:
        width: of both towers.
        layers: of the image tower; the text tower has twelve.
        heads: of each layer.
    """

    width: int
    layers: int
    heads: int

    def arch(self) -> dict[str, Any]:
        """Arguments of transformers' `Tipsv2Config`."""
        sizes = {
            "hidden_size": self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
        }
        text = {**sizes, "num_hidden_layers": 12, "intermediate_size": 4 * self.width}
        return {"vision_config": sizes, "text_config": text}


TIPS_MODELS: dict[str, Tips] = {
    "tipsv2_b14": Tips(768, 12, 12),
    "tipsv2_l14": Tips(1024, 24, 16),
}


class TipsV2(nn.Module):
    """A `Tipsv2Model` of transformers with the attributes that are used of an open_clip model.

    Args:
        network: the model.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        scale = -math.log(network.temperature.item())
        self.logit_scale = nn.Parameter(torch.tensor(scale), requires_grad=False)

    @property
    def visual(self) -> Any:
        """The image tower."""
        return self.network.vision_model

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Text features [N, D] of padded tokens [N, L]."""
        output = self.network.get_text_features(input_ids=tokens, attention_mask=(tokens != _PAD).long())
        features: Tensor = output.pooler_output
        return features


class Tokens:
    """Texts to int64 [N, `CONTEXT`], padded with 0.

    Args:
        tokenizer: of transformers.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __call__(self, texts: list[str]) -> Tensor:
        """The tokens of texts."""
        encoded = self._tokenizer(
            texts, padding="max_length", truncation=True, max_length=CONTEXT, return_tensors="pt"
        )
        tokens: Tensor = encoded["input_ids"]
        return tokens


def tips_features(visual: Any, images: Tensor) -> Tensor:
    """Patch features in the text space, L2-normalised: [B, h, w, D].

    In the last layer each patch keeps its own values instead of attending; residual and feed-forward stay.

    Args:
        visual: transformers' image tower of a TIPSv2.
        images: RGB in 0..1, [B, 3, H, W], sides multiples of the patch; not normalised otherwise.
    """
    patch = visual.config.patch_size
    grid = (images.shape[-2] // patch, images.shape[-1] // patch)
    x = visual.embeddings(images.to(visual.embeddings.patch_embeddings.projection.weight.dtype))
    for layer in visual.encoder.layer[:-1]:
        x = _hidden(layer(x))
    last = visual.encoder.layer[-1]
    values = last.attention.o_proj(last.attention.v_proj(last.norm1(x)))
    x = x + last.layer_scale1(values)
    x = x + last.layer_scale2(last.mlp(last.norm2(x)))
    return F.normalize(visual.layernorm(x)[:, PREFIX:].float(), dim=-1).unflatten(1, grid)


def _hidden(output: Any) -> Tensor:
    """A layer's hidden states: versions of transformers return them alone or first of a tuple."""
    return output if isinstance(output, Tensor) else output[0]


def load_tips(
    name: str, weights: str | None, sha256: str | None, *, text_only: bool = False
) -> tuple[TipsV2, Tokens, Checkpoint]:
    """A model with its tokenizer, in evaluation mode on the CPU.

    Args:
        name: a key of `TIPS_MODELS`.
        weights: anything `models.weights.resolve` takes, with the tokenizer beside the file; None for the
            official ones.
        sha256: refuse any other file of weights.
        text_only: leave the values of the image tower in the file, if it has float32.

    Raises:
        ValueError: transformers is not installed.
        UnavailableError: the files cannot be fetched.
        WeightsError: files that do not fit.
    """
    try:
        from transformers import Tipsv2Config, Tipsv2Model
    except ImportError as error:
        raise ValueError(f'clip.model={name} needs transformers: pip install "segray[sam2]"') from error
    spec = weights or FEATURE_MODELS[name].source
    checkpoint = files.resolve(spec, sha256=sha256)
    tokenizer = _tokenizer(spec, checkpoint)
    blueprint = Blueprint(Tipsv2Model, Tipsv2Config, TIPS_MODELS[name].arch())
    # In another type the text tower would round its positions, too.
    network: Any = load_pretrained(blueprint, checkpoint, name, mapped=text_only, dtype=torch.float32)
    if not (temperature := network.temperature.item()) > 0:
        raise WeightsError(f"{checkpoint.path}: its temperature is {temperature:g} (allowed: above 0)")
    return TipsV2(network).eval().requires_grad_(False), tokenizer, checkpoint


def _tokenizer(spec: str, checkpoint: Checkpoint) -> Tokens:
    from transformers import Tipsv2Tokenizer

    folder = _fetched(spec) if spec.startswith("hf-hub:") else checkpoint.path.parent
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        raise WeightsError(f"no tokenizer ({' or '.join(_TOKENIZERS)}) beside {checkpoint.path}")
    try:
        return Tokens(Tipsv2Tokenizer.from_pretrained(str(folder), local_files_only=True))
    except Exception as error:  # a damaged file raises almost anything
        raise WeightsError(f"{folder}: its tokenizer cannot be read: {first_line(error)[:150]}") from error


def _fetched(spec: str) -> Path:
    """The folder of a hub repository's tokenizer in the cache."""
    file = files.parse_hub(spec)
    repo = f"{file.repo}@{file.revision}" if file.revision else file.repo
    first, second = (f"hf-hub:{repo}:{name}" for name in _TOKENIZERS)
    try:
        return files.resolve(first).path.parent
    except UnavailableError as error:
        if error.offline:
            raise
        return files.resolve(second).path.parent

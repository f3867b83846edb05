"""CLIP's dense features in the text space: the Grounding Everything Module (GEM) on open_clip towers.

GEM (Bousselham et al., "Grounding Everything: Emerging Localization Properties in Vision-Language
Transformers", CVPR 2024) runs a second stream beside the last blocks of a CLIP vision transformer. Its
attention is self-self (v-v, k-k and q-q, averaged), and it skips the feed-forward layers. Everything here is
a pure function of an untouched `open_clip` tower: no hooks, no replaced modules, and gradients flow.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segray.models.clip.model import ClipModel, build_clip, preprocess
from segray.models.clip.towers import check_tower
from segray.models.recording import records_graph, resample_bicubic

if TYPE_CHECKING:
    from open_clip.transformer import VisionTransformer

__all__ = [
    "ClipModel",
    "Features",
    "build_clip",
    "check_features",
    "clip_tokens",
    "dense_features",
    "gem_tokens",
    "preprocess",
]

Features = Literal["gem", "clip"]


def dense_features(
    visual: VisionTransformer,
    images: Tensor,
    *,
    features: Features = "gem",
    depth: int = 7,
    iterations: int = 1,
    temperature: float | None = None,
) -> Tensor:
    """Patch features in the text space, L2-normalised: [B, h, w, D] with h, w = H, W over the patch size.

    Args:
        visual: `model.visual` of an open_clip model (`open_clip.transformer.VisionTransformer`).
        images: [B, 3, H, W], normalised with the model's mean and std; H, W multiples of the patch size. A
            tower whose weights are bfloat16 or float16 computes in that; the features are float32.
        features: "gem" for the GEM stream, "clip" for the tower's own patch tokens.
        depth: GEM runs beside the last `depth - 1` blocks, from 2 to the number of blocks + 1.
        iterations: how often each self-self attention smooths its own input before it weighs the values.
        temperature: the factor on the cosines of a self-self attention; None adapts it to each image.

    Raises:
        ValueError: an unsupported tower, image size or option.
    """
    size = (images.shape[-2], images.shape[-1])
    rows, columns = check_features(
        visual, size, features=features, depth=depth, iterations=iterations, temperature=temperature
    )
    if features == "gem":
        tokens = gem_tokens(visual, images, depth=depth, iterations=iterations, temperature=temperature)
    else:
        tokens = clip_tokens(visual, images)
    return F.normalize(tokens[:, 1:].to(_at_least_float32(tokens)), dim=-1).unflatten(1, (rows, columns))


def check_features(
    visual: VisionTransformer,
    size: tuple[int, int],
    *,
    features: Features = "gem",
    depth: int = 7,
    iterations: int = 1,
    temperature: float | None = None,
) -> tuple[int, int]:
    """Check the arguments of `dense_features` without computing anything.

    Args:
        visual: see `dense_features`; its weights may be on any device, "meta" included.
        size: (height, width) of the images in pixels.
        features: see `dense_features`.
        depth: see `dense_features`.
        iterations: see `dense_features`.
        temperature: see `dense_features`.

    Returns:
        The grid of patches, (h, w).

    Raises:
        ValueError: see `dense_features`.
    """
    check_tower(visual)
    if features == "gem":
        _check_options(visual, depth, iterations, temperature)
    elif features != "clip":
        raise ValueError(f'unknown features "{features}": use "gem" or "clip"')
    return _grid(visual, *size)


def gem_tokens(
    visual: VisionTransformer,
    images: Tensor,
    *,
    depth: int = 7,
    iterations: int = 1,
    temperature: float | None = None,
) -> Tensor:
    """The GEM stream after the final norm and projection, not L2-normalised: [B, 1 + h * w, D].

    Row 0 is the class token. The arguments are those of `dense_features`.
    """
    _check_options(visual, depth, iterations, temperature)
    blocks = visual.transformer.resblocks
    first = len(blocks) - (depth - 1)
    x = embed(visual, images)
    for block in blocks[:first]:
        x = block(x)
    gem = x
    for i, block in enumerate(blocks[first:], first):
        y = block.ln_1(x)
        q, k, v = split_heads(block.attn, y)
        gem = gem + block.ls_1(merge_heads(block.attn, _self_self(q, k, v, y, iterations, temperature)))
        # The original stream only feeds the next block's attention: after the last one nothing reads it.
        if i + 1 < len(blocks):
            x = x + block.ls_1(merge_heads(block.attn, F.scaled_dot_product_attention(q, k, v)))
            x = x + block.ls_2(block.mlp(block.ln_2(x)))
    return visual.ln_post(gem) @ visual.proj


def clip_tokens(visual: VisionTransformer, images: Tensor) -> Tensor:
    """The tower's own tokens after the final norm and projection, not L2-normalised: [B, 1 + h * w, D]."""
    x = embed(visual, images)
    for block in visual.transformer.resblocks:
        x = block(x)
    return visual.ln_post(x) @ visual.proj


def _check_options(visual: VisionTransformer, depth: int, iterations: int, temperature: float | None) -> None:
    blocks = len(visual.transformer.resblocks)
    if not 2 <= depth <= blocks + 1:
        raise ValueError(
            f"depth {depth} is not possible: this tower has {blocks} blocks, use 2 to {blocks + 1}"
        )
    if iterations < 0:
        raise ValueError(f"iterations must be 0 or more, not {iterations}")
    if temperature is not None and not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature must be a positive number or null, not {temperature}")


def _grid(visual: VisionTransformer, height: int, width: int) -> tuple[int, int]:
    patch_height, patch_width = visual.patch_size
    if not height or not width or height % patch_height or width % patch_width:
        raise ValueError(
            f"an input of {width}x{height} px does not fit patches of {patch_width}x{patch_height} px: "
            "use multiples of the patch size"
        )
    return height // patch_height, width // patch_width


def embed(visual: VisionTransformer, images: Tensor) -> Tensor:
    """Tokens before the first block, [B, 1 + h * w, C]. Patch dropout is left out: every patch is wanted."""
    grid = _grid(visual, *images.shape[-2:])
    patches = visual.conv1(images.to(visual.conv1.weight.dtype)).flatten(2).transpose(1, 2)
    class_token = visual.class_embedding.to(patches.dtype).expand(images.shape[0], 1, -1)
    positions = resampled_positions(visual.positional_embedding, visual.grid_size, grid).to(patches.dtype)
    return visual.ln_pre(torch.cat([class_token, patches], 1) + positions)


def resampled_positions(embedding: Tensor, source: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """Positional embedding [1 + h * w, C] resampled to another grid; the class token's row stays."""
    if not records_graph() and tuple(source) == tuple(target):
        return embedding
    grid = embedding[1:].float().unflatten(0, tuple(source)).permute(2, 0, 1)[None]
    if records_graph():
        grid = resample_bicubic(grid, target)
    else:
        grid = F.interpolate(grid, target, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([embedding[:1].float(), grid[0].flatten(1).T])


def split_heads(attention: nn.MultiheadAttention, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of the normed tokens y [B, N, C]: three [B, heads, N, C / heads]."""
    projected = F.linear(y, attention.in_proj_weight, attention.in_proj_bias)
    q, k, v = projected.unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    return q, k, v


def merge_heads(attention: nn.MultiheadAttention, values: Tensor) -> Tensor:
    """The attention's output projection of per-head values: [B, heads, N, C / heads] -> [B, N, C]."""
    return attention.out_proj(values.transpose(1, 2).flatten(2))


def _self_self(
    q: Tensor, k: Tensor, v: Tensor, y: Tensor, iterations: int, temperature: float | None
) -> Tensor:
    """Mean of the v-v, k-k and q-q attentions over the values, [B, heads, N, C / heads].

    Without a fixed temperature the factor is mean_i ||y_i|| / sqrt(C / heads), taken for each image on its
    own, so that an image's features do not depend on what it is batched with.
    """
    if temperature is None:
        norms = torch.linalg.vector_norm(y, dim=-1, dtype=_at_least_float32(y))
        factor = (norms.mean(-1)[:, None, None, None] / math.sqrt(q.shape[-1])).to(y.dtype)
    else:
        factor = y.new_tensor(temperature)
    return sum((_smoothed(s, v, factor, iterations) for s in (v, k, q)), torch.zeros_like(v)) / 3


def _smoothed(s: Tensor, v: Tensor, factor: Tensor, iterations: int) -> Tensor:
    """softmax(factor * s s^T) v with s L2-normalised, after `iterations` times the same with s for v."""
    for _ in range(iterations):
        s = F.normalize(s, dim=-1)
        s = F.scaled_dot_product_attention(s * factor, s, s, scale=1.0)
    s = F.normalize(s, dim=-1)
    return F.scaled_dot_product_attention(s * factor, s, v, scale=1.0)


def _at_least_float32(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)

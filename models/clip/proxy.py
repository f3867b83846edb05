"""Dense features of CLIP whose last attention follows another vision model: ProxyCLIP and CorrCLIP.

ProxyCLIP (Lan et al., ECCV 2024, arXiv 2408.04883) and CorrCLIP (Zhang et al., ICCV 2025, arXiv 2411.10086),
written from their formulas. CLIP's last block keeps its values; which patches they are gathered from is what
the other model finds similar. As in `gem`, the tower is untouched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from segray.models.clip.gem import embed, merge_heads, split_heads
from segray.models.clip.regions import NO_REGION, merge_similar

if TYPE_CHECKING:
    from open_clip.transformer import ResidualAttentionBlock, VisionTransformer

BETA, GAMMA = 1.2, 3.0
"""ProxyCLIP's shift, in means of the similarities, and its factor."""
TAU = 4.0
"""CorrCLIP's factor on similarities."""
SPATIAL, SEMANTIC = 1.0, 0.5
"""Weights of CorrCLIP's two further branches."""
_SPATIAL_BLOCKS = {12: 5, 24: 12, 32: 28}
LEAST_BLOCKS = 3
"""With fewer, CorrCLIP's spatial branch has no block to take values from."""


def proxy_features(visual: VisionTransformer, images: Tensor, phi: Tensor) -> Tensor:
    """ProxyCLIP's features, L2-normalised: [B, h', w', D] on the grid of the other model.

    Args:
        visual: a tower that `towers.check_tower` accepts.
        images: [B, 3, H, W], normalised for it.
        phi: [B, h', w', C], the other model's features, L2-normalised.
    """
    x = embed(visual, images)
    blocks = visual.transformer.resblocks
    for block in blocks[:-1]:
        x = block(x)
    attention = proxy_attention(similarities(phi))
    z = _gather(blocks[-1], _values(visual, x, images, phi), attention)
    return _projected(visual, visual.ln_post(z), phi)


def corr_features(
    visual: VisionTransformer,
    images: Tensor,
    phi: Tensor,
    regions: Tensor,
    *,
    spatial: float = SPATIAL,
    semantic: float = SEMANTIC,
) -> Tensor:
    """CorrCLIP's features, L2-normalised: [B, h', w', D] on the grid of the other model.

    Args:
        visual: see `proxy_features`; with at least `LEAST_BLOCKS` blocks.
        images: see `proxy_features`.
        phi: see `proxy_features`.
        regions: int64 [B, h', w'], the number of each cell's mask, `NO_REGION` where there is none. Masks
            that look alike are merged.
        spatial: weight of the branch with values of earlier blocks.
        semantic: weight of the branch with a class token of its own per region.
    """
    merged = torch.stack([merge_similar(*pair) for pair in zip(phi, regions, strict=True)])
    # Pixels in no mask are one more region for its class token.
    painted = torch.where(merged == NO_REGION, merged.amax() + 1, merged)
    last, earlier, copies = _run(visual, images, _members(painted, _grid(visual, images)))
    attention = corr_attention(similarities(phi), merged.flatten(1))
    block = visual.transformer.resblocks[-1]
    z = visual.ln_post(_gather(block, _values(visual, last, images, phi), attention))
    if spatial:
        values = _values(visual, earlier, images, phi)
        z = z + spatial * visual.ln_post(_gather(block, values, attention))
    if semantic:
        index = painted.flatten(1)[..., None].expand(-1, -1, copies.shape[-1])
        z = z + semantic * visual.ln_post(copies).gather(1, index)
    return _projected(visual, z, phi)


def similarities(phi: Tensor) -> Tensor:
    """S, the cosines between the cells of [B, h', w', C]: [B, N, N]."""
    cells = phi.flatten(1, 2).float()
    return cells @ cells.transpose(1, 2)


def proxy_attention(s: Tensor) -> Tensor:
    """ProxyCLIP's A [B, N, N] from S: similarities well below the image's mean have no part."""
    shifted = GAMMA * (s - BETA * s.mean((1, 2), keepdim=True))
    return _softmax_within(shifted, shifted >= 0)


def corr_attention(s: Tensor, regions: Tensor) -> Tensor:
    """CorrCLIP's A [B, N, N] from S: a cell in a region gathers from its own region.

    Where one of two cells is in no region, a similarity above the image's mean decides.

    Args:
        s: [B, N, N].
        regions: int64 [B, N]; `NO_REGION` for none.
    """
    free = regions == NO_REGION
    same = (regions[:, :, None] == regions[:, None]) & ~free[:, :, None]
    either = free[:, :, None] | free[:, None]
    return _softmax_within(TAU * s, same | (either & (s > s.mean((1, 2), keepdim=True))))


def _softmax_within(scores: Tensor, scope: Tensor) -> Tensor:
    """Softmax of each row within its scope; a row without a scope (in an image of one colour) is whole."""
    scope = scope | ~scope.any(-1, keepdim=True)
    return scores.masked_fill(~scope, -torch.inf).softmax(-1)


def _values(visual: VisionTransformer, tokens: Tensor, images: Tensor, phi: Tensor) -> Tensor:
    """V [B, N, C]: the last block's values of the patches, upsampled to the other model's grid."""
    block, width = visual.transformer.resblocks[-1], tokens.shape[-1]
    weight, bias = block.attn.in_proj_weight[2 * width :], block.attn.in_proj_bias[2 * width :]
    values = F.linear(block.ln_1(tokens[:, 1:]), weight, bias)
    maps = values.transpose(1, 2).unflatten(2, _grid(visual, images))
    maps = F.interpolate(maps, phi.shape[1:3], mode="bilinear", align_corners=False)
    return maps.flatten(2).transpose(1, 2)


def _gather(block: ResidualAttentionBlock, values: Tensor, attention: Tensor) -> Tensor:
    """(A V) W_o + b_o: one attention for all heads, no residual and no feed-forward."""
    gathered: Tensor = block.ls_1(block.attn.out_proj(attention.to(values.dtype) @ values))
    return gathered


def _projected(visual: VisionTransformer, z: Tensor, phi: Tensor) -> Tensor:
    return F.normalize((z @ visual.proj).float(), dim=-1).unflatten(1, phi.shape[1:3])


def _grid(visual: VisionTransformer, images: Tensor) -> tuple[int, int]:
    return images.shape[-2] // visual.patch_size[0], images.shape[-1] // visual.patch_size[1]


def _members(regions: Tensor, grid: tuple[int, int]) -> Tensor:
    """bool [B, R, h w]: which of CLIP's patches are in each region of [B, h', w']."""
    patches = F.interpolate(regions[:, None].float(), grid, mode="nearest").long().flatten(1)
    numbers = torch.arange(int(regions.amax()) + 1, device=regions.device)
    return patches[:, None] == numbers[:, None]


def _run(visual: VisionTransformer, images: Tensor, members: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """All blocks, with a copy of the class token per region beside the tokens.

    A copy looks at the class token and at its region's patches; nobody looks at a copy.

    Returns:
        The tokens before the last block; the mean of the outputs that the spatial branch takes; the copies
        [B, R, C] after the last block.
    """
    x = embed(visual, images)
    copies = x[:, :1].expand(-1, members.shape[1], -1)
    seen = F.pad(members, (1, 0), value=True)[:, None]
    blocks = visual.transformer.resblocks
    first, end = spatial_blocks(len(blocks))
    before_last, earlier = x, torch.zeros_like(x)
    for i, block in enumerate(blocks):
        before_last = x
        x, copies = _block(block, x, copies, seen)
        if first <= i < end:
            earlier = earlier + x / (end - first)
    return before_last, earlier, copies


def spatial_blocks(count: int) -> tuple[int, int]:
    """The blocks, first to before last, whose outputs the spatial branch averages in a tower of so many.

    Published for 12, 24 and 32; others take about half, as the first two of these nearly do.
    """
    taken = _SPATIAL_BLOCKS.get(count, max(1, count // 2 - 1))
    return count - 2 - taken, count - 2


def _block(block: ResidualAttentionBlock, x: Tensor, copies: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """One block over tokens [B, N, C], and over copies [B, R, C] that see of them [B, 1, R, N]."""
    count, both = x.shape[1], torch.cat([x, copies], 1)
    q, k, v = split_heads(block.attn, block.ln_1(both))
    k, v = k[:, :, :count], v[:, :, :count]
    tokens = F.scaled_dot_product_attention(q[:, :, :count], k, v)
    others = F.scaled_dot_product_attention(q[:, :, count:], k, v, attn_mask=seen)
    both = both + block.ls_1(merge_heads(block.attn, torch.cat([tokens, others], 2)))
    both = both + block.ls_2(block.mlp(block.ln_2(both)))
    return both[:, :count], both[:, count:]

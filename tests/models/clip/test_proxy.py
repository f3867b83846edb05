from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segray.models.clip.proxy import (
    corr_attention,
    corr_features,
    proxy_attention,
    proxy_features,
    similarities,
    spatial_blocks,
)
from segray.models.clip.regions import NO_REGION, merge_similar, region_map
from segray.models.masks import segment_from_mask
from tests.models.clip.tiny_clip import tiny_clip

NOTHING = torch.full((1, 4, 4), NO_REGION)


def unit(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def last_input(visual: Any, images: Tensor) -> Tensor:
    """The input of the last block, caught on its way."""
    caught: list[Tensor] = []
    hook = visual.transformer.resblocks[-1].register_forward_pre_hook(lambda _, args: caught.append(args[0]))
    visual(images)
    hook.remove()
    return caught[0]


def values_of(block: Any, tokens: Tensor) -> Tensor:
    """v of the patches, head by head."""
    y, width = block.ln_1(tokens)[:, 1:], tokens.shape[-1]
    size = block.attn.head_dim
    parts = []
    for head in range(block.attn.num_heads):
        rows = slice(2 * width + head * size, 2 * width + (head + 1) * size)
        parts.append(y @ block.attn.in_proj_weight[rows].T + block.attn.in_proj_bias[rows])
    return torch.cat(parts, -1)


def finished(visual: Any, z: Tensor) -> Tensor:
    features: Tensor = F.normalize(visual.ln_post(z) @ visual.proj, dim=-1)
    return features


@pytest.mark.parametrize("features", ["corr", "proxy"])
@torch.no_grad()
def test_where_nothing_is_alike_both_are_maskclip(features: str) -> None:
    """S = I: each patch keeps its own value (MaskCLIP, Zhou et al., ECCV 2022)."""
    visual, images = tiny_clip().visual, torch.randn(1, 3, 32, 32)
    phi = torch.eye(16).reshape(1, 4, 4, 16)
    if features == "corr":
        found = corr_features(visual, images, phi, NOTHING, spatial=0, semantic=0)
    else:
        found = proxy_features(visual, images, phi)
    block = visual.transformer.resblocks[-1]
    z = block.attn.out_proj(values_of(block, last_input(visual, images)))
    torch.testing.assert_close(found.flatten(1, 2), finished(visual, z), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("features", ["corr", "corr without masks", "proxy"])
@torch.no_grad()
def test_where_all_is_alike_every_patch_has_the_mean_value(features: str) -> None:
    visual, images = tiny_clip().visual, torch.randn(1, 3, 32, 32)
    phi = torch.ones(1, 4, 4, 1)
    if features == "proxy":
        found = proxy_features(visual, images, phi)
    else:
        regions = NOTHING if "without" in features else torch.zeros(1, 4, 4, dtype=torch.long)
        found = corr_features(visual, images, phi, regions, spatial=0, semantic=0)
    block = visual.transformer.resblocks[-1]
    mean = values_of(block, last_input(visual, images)).mean(1, keepdim=True)
    expected = finished(visual, block.attn.out_proj(mean)).expand(1, 16, -1)
    torch.testing.assert_close(found.flatten(1, 2), expected, rtol=1e-5, atol=1e-5)


def halves() -> Tensor:
    regions = torch.zeros(1, 4, 4, dtype=torch.long)
    regions[:, :, 2:] = 1
    return regions


def test_a_region_changes_another_only_before_the_last_block() -> None:
    """The last block's input of the right half has no part in the left half's features; the image has."""
    visual, images = tiny_clip().visual, torch.randn(1, 3, 32, 32, requires_grad=True)
    phi = unit(1, 2, 2, 8).repeat_interleave(2, 1).repeat_interleave(2, 2)
    caught: list[Tensor] = []
    block = visual.transformer.resblocks[-1]
    hook = block.ln_1.register_forward_pre_hook(lambda _, args: caught.append(args[0]))
    found = corr_features(visual, images, phi, halves(), spatial=0, semantic=0)
    hook.remove()
    left = found[0, :, :2].square().sum() + found[0, :, :2, 0].sum()
    of_image, of_last = torch.autograd.grad(left, [images, caught[-1]])
    assert of_image[..., 16:].abs().max() > 0
    patches = of_last[0].unflatten(0, (4, 4))
    assert patches[:, 2:].abs().max() == 0
    assert patches[:, :2].abs().max() > 0


def reference_corr(visual: Any, image: Tensor, phi: Tensor, regions: Tensor) -> Tensor:
    """The equations of CorrCLIP for one image whose two grids are the same, one row at a time."""
    blocks = list(visual.transformer.resblocks)
    count = phi.shape[0] * phi.shape[1]
    cells, region = phi.reshape(count, -1), regions.flatten()
    s = cells @ cells.T
    outputs: list[Tensor] = []
    hooks = [block.register_forward_hook(lambda _, __, out: outputs.append(out)) for block in blocks]
    visual(image[None])
    for hook in hooks:
        hook.remove()
    attention = torch.zeros(count, count)
    for i in range(count):
        scope = []
        for j in range(count):
            if region[i] >= 0 and region[j] >= 0:
                scope.append(bool(region[i] == region[j]))
            else:
                scope.append(bool(s[i, j] > s.mean()))
        weights = torch.exp(4 * s[i]) * torch.tensor(scope)
        attention[i] = weights / weights.sum()
    last = blocks[-1]

    def gathered(tokens: Tensor) -> Tensor:
        branch: Tensor = visual.ln_post(last.attn.out_proj(attention @ values_of(last, tokens)[0]))
        return branch

    first, end = spatial_blocks(len(blocks))
    z = gathered(outputs[-2]) + gathered(torch.stack(outputs[first:end]).mean(0))
    painted = torch.where(region < 0, region.max() + 1, region)
    for r in painted.unique():
        z[painted == r] += 0.5 * visual.ln_post(own_class_token(visual, image, painted == r))
    return F.normalize(z @ visual.proj, dim=-1)


def own_class_token(visual: Any, image: Tensor, inside: Tensor) -> Tensor:
    """The class token's copy after all blocks: a query of its own over the class token and its region."""
    blocks = list(visual.transformer.resblocks)
    inputs: list[Tensor] = []
    hooks = [block.register_forward_pre_hook(lambda _, args: inputs.append(args[0][0])) for block in blocks]
    visual(image[None])
    for hook in hooks:
        hook.remove()
    copy = inputs[0][0]
    keep = torch.cat([torch.tensor([True]), inside])
    for block, tokens in zip(blocks, inputs, strict=True):
        query, memory = block.ln_1(copy)[None, None], block.ln_1(tokens[keep])[None]
        copy = copy + block.attn(query, memory, memory)[0][0, 0]
        copy = copy + block.mlp(block.ln_2(copy))
    return copy


@torch.no_grad()
def test_corr_follows_its_equations() -> None:
    visual = tiny_clip(vision={"layers": 5}).visual
    images, phi = torch.randn(2, 3, 32, 32), unit(2, 4, 4, 6)
    regions = torch.tensor([0, 0, 1, 1] * 2 + [2, 2, -1, -1] * 2).reshape(4, 4)
    both = torch.stack([regions, torch.full_like(regions, NO_REGION)])
    found = corr_features(visual, images, phi, both)
    for i in range(2):
        merged = merge_similar(phi[i], both[i])
        expected = reference_corr(visual, images[i], phi[i], merged)
        torch.testing.assert_close(found[i].flatten(0, 1), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_proxy_follows_its_equations_on_a_finer_grid() -> None:
    visual, images, phi = tiny_clip().visual, torch.randn(2, 3, 32, 32), unit(2, 8, 8, 5)
    found = proxy_features(visual, images, phi)
    block = visual.transformer.resblocks[-1]
    for i in range(2):
        cells = phi[i].reshape(64, 5)
        s = cells @ cells.T
        shifted = 3.0 * (s - 1.2 * s.mean())
        weights = torch.where(shifted >= 0, shifted.exp(), 0.0)
        attention = weights / weights.sum(1, keepdim=True)
        values = values_of(block, last_input(visual, images[i : i + 1]))
        maps = values.transpose(1, 2).reshape(1, -1, 4, 4)
        fine = F.interpolate(maps, (8, 8), mode="bilinear", align_corners=False).flatten(2)[0].T
        expected = finished(visual, block.attn.out_proj(attention @ fine))
        torch.testing.assert_close(found[i].flatten(0, 1), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_no_image_depends_on_another() -> None:
    visual, images, phi = tiny_clip().visual, torch.randn(2, 3, 32, 32), unit(2, 4, 4, 6)
    regions = torch.cat([halves(), torch.arange(16).reshape(1, 4, 4)])
    together = corr_features(visual, images, phi, regions)
    alone = [corr_features(visual, images[i : i + 1], phi[i : i + 1], regions[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-5)


def test_attentions_by_hand() -> None:
    s = similarities(torch.tensor([[[[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]]]]))
    torch.testing.assert_close(s[0], torch.tensor([[1, 0.6, 0], [0.6, 1, 0.8], [0, 0.8, 1]]))
    # The mean is 5.8 / 9 = 0.644, times 1.2 = 0.773: 0.8 passes, 0.6 does not.
    passing = proxy_attention(s)[0] > 0
    assert passing.tolist() == [[True, False, False], [False, True, True], [False, True, True]]
    a = corr_attention(s, torch.tensor([[0, 0, NO_REGION]]))[0]
    assert (a > 0).tolist() == [[True, True, False], [True, True, True], [False, True, True]]
    assert a[0, 1] == pytest.approx(1 / (1 + 2.718281828**1.6), rel=1e-4)


def test_regions_that_look_alike_are_merged() -> None:
    """0 and 1, and 1 and 2, are within 0.2 of the greatest cosine, so all three are one; 3 is another."""
    angles = torch.tensor([0.0, 0.6, 1.2, 2.8, 0.0])
    phi = torch.stack([angles.cos(), angles.sin()], -1)[None]
    regions = torch.tensor([[4, 7, 5, 1, NO_REGION]])
    merged = merge_similar(phi, regions)
    assert merged.unique(return_counts=True)[1].tolist() == [1, 1, 3]
    assert merged[0, 4] == NO_REGION
    assert merged[0, 0] == merged[0, 1] == merged[0, 2] != merged[0, 3]
    assert merge_similar(phi, torch.full((1, 5), NO_REGION)).eq(NO_REGION).all()


def test_smaller_segments_lie_on_top_on_the_grid() -> None:
    mask = torch.zeros(30, 50, dtype=torch.bool).numpy()
    small, large = mask.copy(), mask.copy()
    large[5:30, 10:50] = True
    small[12:18, 20:30] = True
    found = region_map([segment_from_mask(small), segment_from_mask(large)], 30, 50, (6, 10))
    assert (found == 0).sum() == 4
    for row in range(6):
        for column in range(10):
            y, x = int((row + 0.5) * 5), int((column + 0.5) * 5)
            expected = 0 if small[y, x] else 1 if large[y, x] else NO_REGION
            assert found[row, column] == expected


@pytest.mark.parametrize(
    ("count", "expected"), [(12, (5, 10)), (24, (10, 22)), (32, (2, 30)), (8, (3, 6)), (3, (0, 1))]
)
def test_which_blocks_the_spatial_branch_averages(count: int, expected: tuple[int, int]) -> None:
    assert spatial_blocks(count) == expected

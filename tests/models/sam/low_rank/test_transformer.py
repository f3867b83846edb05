"""The low-rank form against segment_anything's own decoder, and which models it is taken for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from segment_anything import build_sam_vit_b
from torch import Tensor

from segray.models.sam.decoder import MaskDecoder
from segray.models.sam.low_rank.transformer import LowRankTransformer
from segray.models.sam.registry import build_sam
from segray.models.sam.transformer import FoldedTransformer
from tests.models.sam.small import small_decoder

pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.mark.parametrize(("channels", "heads", "grid"), [(64, 2, (5, 8)), (256, 8, (6, 16))])
def test_it_is_the_two_way_transformer(channels: int, heads: int, grid: tuple[int, int]) -> None:
    """In float64, where a wrong formula is far above 1e-12; prompt tokens end in float32."""
    sam = small_decoder(channels, heads, grid)
    sam.mask_decoder.double()
    encoder, embedding = sam.prompt_encoder, torch.randn(channels, *grid).double()
    decoder = MaskDecoder(sam, torch.float64)
    transform, prompts = decoder._transform, decoder.prompts(torch.rand(3, 2).double() * 64)
    assert isinstance(transform, LowRankTransformer)
    hidden, tokens = transform(transform.image(embedding), prompts)
    image = (embedding + encoder.no_mask_embed.weight[0, :, None, None]).expand(3, -1, -1, -1)
    positions = encoder.get_dense_pe().double().expand_as(image)
    queries, keys = sam.mask_decoder.transformer(image, positions, prompts)
    torch.testing.assert_close(hidden, queries[:, :4].float(), rtol=0, atol=1e-6)
    up = sam.mask_decoder.output_upscaling[0](keys.mT.unflatten(2, grid))
    # Four pixels of a token beside each other.
    expected = up.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).permute(0, 2, 4, 3, 5, 1).flatten(1, 2)
    expected, rows = expected.flatten(2), slice(3, 3 * grid[1])
    bias = sam.mask_decoder.output_upscaling[0].bias.repeat(4)
    for chosen in (None, torch.tensor([1]), torch.tensor([2, 0])):
        of_chosen = expected if chosen is None else expected[chosen]
        found = tokens.up(bias, chosen, rows)
        torch.testing.assert_close(found, of_chosen[:, rows], rtol=0, atol=1e-12)


def upstream(sam: Any, embedding: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [B, 3, 4 h, 4 w] and predicted IoU [B, 3] by segment_anything's modules."""
    labels = torch.ones(len(points), 1, dtype=torch.int)
    sparse, dense = sam.prompt_encoder(points=(points[:, None], labels), boxes=None, masks=None)
    positions = sam.prompt_encoder.get_dense_pe()
    logits, iou = sam.mask_decoder(embedding[None], positions, sparse, dense, True)
    return logits, iou


@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_masks_are_upstream_s(threshold: float) -> None:
    """Of all prompts and of the confident ones, all rows and the first ones."""
    sam = small_decoder(64, 2, (5, 8))
    embedding, points = torch.randn(64, 5, 8), torch.rand(6, 2, dtype=torch.float64) * 80
    logits, iou = upstream(sam, embedding, points)
    iou_bias = sam.mask_decoder.iou_prediction_head.layers[-1].bias
    iou_bias += 0.5 - iou.amax(1).median()
    iou = iou + (0.5 - iou.amax(1).median())
    decoder = MaskDecoder(sam)
    image = decoder.image_tokens(embedding)
    masks, scores, prompts = decoder(image, points, threshold, 5)
    keep = iou > threshold if threshold else torch.ones_like(iou, dtype=torch.bool)
    assert 0 < keep.any(1).sum() < (7 if threshold == 0 else 6)
    assert prompts.tolist() == keep.nonzero()[:, 0].tolist()
    torch.testing.assert_close(scores, iou[keep], rtol=0, atol=1e-5)
    torch.testing.assert_close(masks, logits[keep], rtol=1e-4, atol=1e-5)
    every, scores = decoder.all_masks(image, decoder.prompts(points), 3)
    torch.testing.assert_close(every, logits[:, :, :12], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scores, iou, rtol=0, atol=1e-5)


def test_models_in_float32_have_it() -> None:
    with torch.device("meta"):
        released = build_sam_vit_b().eval()
        assert isinstance(MaskDecoder(released)._transform, LowRankTransformer)
        assert isinstance(MaskDecoder(released, torch.bfloat16)._transform, FoldedTransformer)
    builtin, _ = build_sam("builtin")
    assert isinstance(MaskDecoder(builtin)._transform, LowRankTransformer)


def test_tokens_that_are_narrow_for_their_heads_do_without_it() -> None:
    """A head has 7 weights a token: of 8 heads there are 56, which 64 channels are hardly more than."""
    assert not LowRankTransformer.fits(small_decoder(64, 8, (4, 8)).mask_decoder)


def test_a_decoder_of_other_depth_does_without_it() -> None:
    decoder = small_decoder(64, 2, (4, 8)).mask_decoder
    assert LowRankTransformer.fits(decoder)
    decoder.transformer.layers.append(decoder.transformer.layers[1])
    assert not LowRankTransformer.fits(decoder)


def test_torch_compiles_it() -> None:
    """Without Inductor, which takes a minute: what cannot be compiled fails before it."""
    sam = small_decoder(64, 2, (5, 8))
    decoder = MaskDecoder(sam)
    image = decoder.image_tokens(torch.randn(64, 5, 8))
    prompts = decoder.prompts(torch.rand(6, 2, dtype=torch.float64) * 80)
    compiled = torch.compile(decoder.all_masks, backend="aot_eager", dynamic=False, fullgraph=True)
    for found, expected in zip(
        compiled(image, prompts, 4), decoder.all_masks(image, prompts, 4), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)

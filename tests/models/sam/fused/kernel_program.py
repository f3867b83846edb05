"""The kernels by Triton's interpreter against the eager path; run by `test_kernels.py`, a name per run."""

from __future__ import annotations

import sys
from dataclasses import replace
from unittest import mock

import torch
from torch import Tensor
from transformers import Sam2Config, Sam2Model

from segray.models.sam.decoder import MaskDecoder
from segray.models.sam.fused import check
from segray.models.sam.fused import decoder as fused_decoder
from segray.models.sam.fused.check import disagreement, rms
from segray.models.sam.fused.config import BlockConfig, DecoderConfig, EncoderConfig, FusedConfig, TileConfig
from segray.models.sam.fused.decoder import FusedDecoder
from segray.models.sam.fused.encoder import FusedEncoder
from segray.models.sam.fused.norm import residual_norm
from segray.models.sam.fused.second_block import second_block
from segray.models.sam.low_rank.operands import centred
from segray.models.sam.prompted import PromptedSam
from segray.models.sam.registry import build_sam
from segray.models.sam2.decoder import Sam2Decoder, joined, segment_anything_heads
from segray.models.sam2.model import PromptedSam2
from tests.models.annotators.tiny import wider_sam2, with_biases
from tests.models.sam.small import small_decoder, small_encoder

EXACT = DecoderConfig(masks=replace(DecoderConfig().masks, gelu="erf", programs=3), asked_slots=8)


def decode(
    channels: int, heads: int, grid: tuple[int, int], config: DecoderConfig, rows: int, threshold: float = 0.0
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(logits, predicted IoU) of the eager decoder and of the kernels, float32."""
    sam = small_decoder(channels, heads, grid)
    embedding, points = torch.randn(channels, *grid), torch.rand(3, 2, dtype=torch.float64) * 64
    eager = MaskDecoder(sam)
    ours = FusedDecoder(sam, eager, threshold, config)
    expected = eager.all_masks(eager.image_tokens(embedding), eager.prompts(points), rows)
    return expected, ours.all_masks(ours.image_tokens(embedding), ours.prompts(points), rows)


def close(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    for ours, eager in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, eager, rtol=1e-4, atol=2e-6)


def decoders() -> None:
    """The built-in model's channels and heads, and ViT-B's; tiles that do not fit; one launch and two."""
    one = BlockConfig(TileConfig(32), None)
    for channels, heads, grid, rows in [(64, 2, (5, 8), 4), (256, 8, (6, 16), 5)]:
        for config in (EXACT, replace(EXACT, first=one, second=one)):
            expected, found = decode(channels, heads, grid, config, rows)
            close(found, expected)
    expected, found = decode(256, 8, (2, 16), replace(EXACT, asked_slots=4), 2)
    close(found, expected)


def sam2() -> None:
    """Eight tokens a prompt, and finer maps added to both products of the upscaling."""
    network = with_biases(Sam2Model(Sam2Config(**wider_sam2())).eval())
    for name, parameter in network.mask_decoder.named_parameters():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            parameter.mul_(3)
    eager = Sam2Decoder(network)
    ours = FusedDecoder(segment_anything_heads(network), eager, 0.0, EXACT)
    embedding = joined(network.get_image_embeddings(torch.randn(1, 3, 128, 128)))[0]
    points = torch.rand(3, 2, dtype=torch.float64) * 32
    expected = eager.all_masks(eager.image_tokens(embedding), eager.prompts(points), 5)
    close(ours.all_masks(ours.image_tokens(embedding), ours.prompts(points), 5), expected)
    model = PromptedSam2(network)
    assert disagreement(model, model.kernels(torch.float16, 0.0, FusedConfig()), torch.float16) is None


def thresholds() -> None:
    """Prompts without a confident mask have their predicted IoU all the same, and the others their logits."""
    expected, _ = decode(64, 2, (4, 8), EXACT, 4)
    best = expected[1].amax(1)
    threshold = float(best.sort().values[1]) - 1e-6
    _, (logits, iou) = decode(64, 2, (4, 8), EXACT, 4, threshold)
    kept = best > threshold
    assert kept.sum() == 2
    close((logits[kept], iou), (expected[0][kept], expected[1]))


def approximate_gelu() -> None:
    """The form without erf: an error far below that of 16-bit operands."""
    expected, (logits, _) = decode(64, 2, (4, 8), replace(EXACT, masks=DecoderConfig().masks), 4)
    assert 0 < rms(logits - expected[0]) < 1e-4 * rms(expected[0])


def encoders() -> None:
    """Windows that do not fill the grid, heads of 64 and 80 channels, grids that no block divides."""
    config = EncoderConfig(window_keys=32)
    for width, heads, grid, window in [(64, 1, 16, 14), (160, 2, 10, 6), (128, 2, 7, 3)]:
        encoder = small_encoder(width, heads, grid, window)
        images = torch.randn(2, 3, 8 * grid, 8 * grid)
        found, expected = FusedEncoder(encoder, torch.float32, config)(images), encoder(images)
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


def norms() -> None:
    """With and without something added, rows that are no power of 2."""
    x, added, weight, bias = torch.randn(5, 48), torch.randn(5, 48), torch.randn(48), torch.randn(48)
    total = x + added
    expected = torch.nn.functional.layer_norm(total, (48,), weight, bias, 1e-6)
    torch.testing.assert_close(residual_norm(x, added, weight, bias, 1e-6), expected)
    assert torch.equal(x, total)
    torch.testing.assert_close(residual_norm(x, None, weight, bias, 1e-6), expected)
    assert abs(float(centred(x, 1).mean())) < 1e-6


def checks() -> None:
    """The built-in model in fp16 agrees with the eager path; with a wrong kernel it does not."""
    sam, _ = build_sam("builtin")
    config = FusedConfig(decoder=DecoderConfig(asked_slots=8))
    model = PromptedSam(sam)
    fused = model.kernels(torch.float16, 0.5, config)
    embeddings = list[Tensor]()

    def encode(images: Tensor) -> Tensor:
        """Once: the second check is of the decoder, and the interpreter takes half a minute for an image."""
        if not embeddings:
            embeddings.append(fused.encode(images))
        return embeddings[0]

    checked = replace(fused, encode=encode)
    assert disagreement(model, checked, torch.float16) is None
    own = second_block

    def wrong(*args: object) -> tuple[Tensor, Tensor, Tensor]:
        weights, rstd, read = own(*args)  # type: ignore[arg-type]
        return weights, rstd, read.flip(1)

    with mock.patch.object(fused_decoder, "second_block", wrong):
        problem = disagreement(model, checked, torch.float16)
    assert problem is not None
    assert problem.startswith("logits are off by"), problem


if __name__ == "__main__":
    # A worker's check has more prompts, which the interpreter would take a minute for.
    with torch.no_grad(), mock.patch.object(check, "_PROMPTS", 4):
        globals()[sys.argv[1]]()
    sys.stdout.write("the same\n")

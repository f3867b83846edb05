"""The decoder, in both forms of its image tokens, against transformers' own, and Meta's names of tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from segray.models.sam import transformer
from segray.models.sam.geometry import point_grid
from segray.models.sam.low_rank.transformer import LowRankTransformer
from segray.models.sam2.decoder import Sam2Decoder, joined
from segray.models.sam2.original import transformers_state
from tests.models.annotators.tiny import tiny_network, with_biases

pytestmark = pytest.mark.usefixtures("no_gradients")


def encoded(network: Any, seed: int = 0) -> list[Tensor]:
    pixels = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(seed))
    return network.get_image_embeddings(pixels)


def transformers_masks(network: Any, maps: list[Tensor], points: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [P, 3, 32, 32] and predicted IoU [P, 3]; points in pixels of the input."""
    labels = torch.ones(1, len(points), 1, dtype=torch.int64)
    output = network(
        image_embeddings=maps, input_points=points[None, :, None], input_labels=labels, multimask_output=True
    )
    return output.pred_masks[0], output.iou_scores[0]


@pytest.mark.parametrize("values", [16 * 32, 24 * 32, 1 << 18])
@pytest.mark.parametrize("threshold", [0.0, 0.5])
@pytest.mark.parametrize("low_rank", [False, True])
def test_the_decoder_is_that_of_transformers(
    values: int, threshold: float, low_rank: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The 64 tokens of a prompt in parts, of equal size and not, and all prompts at once."""
    monkeypatch.setattr(transformer, "_CACHED_VALUES", values)
    monkeypatch.setattr(LowRankTransformer, "fits", lambda _: low_rank)
    network = with_biases(tiny_network("sam2.1_hiera_tiny", seed=2))
    maps, points = encoded(network), torch.from_numpy(point_grid(6)) * 32
    logits, iou = transformers_masks(network, maps, 4 * points.float())
    decoder = Sam2Decoder(network)
    image = decoder.image_tokens(joined(maps)[0])
    masks, scores, prompts = decoder(image, points, threshold, 8)
    keep = iou > threshold if threshold else torch.ones_like(iou, dtype=torch.bool)
    assert 0 < keep.sum() <= 108
    assert (keep.sum() == 108) == (threshold == 0)
    assert prompts.tolist() == keep.nonzero()[:, 0].tolist()
    torch.testing.assert_close(scores, iou[keep], rtol=0, atol=1e-5)
    torch.testing.assert_close(masks, logits[keep], rtol=1e-4, atol=1e-4)
    every, scores = decoder.all_masks(image, decoder.prompts(points), 8)
    torch.testing.assert_close(every, logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(scores, iou, rtol=0, atol=1e-5)


def test_the_finer_maps_matter() -> None:
    """So that a decoder without them would fail the test above."""
    network = tiny_network("sam2.1_hiera_tiny", seed=2)
    maps, points = encoded(network), torch.tensor([[40.0, 72.0]])
    logits, _ = transformers_masks(network, maps, points)
    for k in (0, 1):
        without = [torch.zeros_like(m) if i == k else m for i, m in enumerate(maps)]
        assert (transformers_masks(network, without, points)[0] - logits).abs().max() > 0.01


def test_a_file_under_transformers_names_is_left_as_it_is() -> None:
    state = tiny_network("sam2.1_hiera_tiny").state_dict()
    assert transformers_state(state) == dict(state)

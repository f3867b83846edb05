"""SAM 2's mask decoder for many prompts of one image, as `models.sam.decoder` computes SAM 1's.

It is SAM 1's decoder but for an eighth token (whether there is an object), a sigmoid after the predicted IoU,
and two maps of finer features, which the upscaling adds after its transposed convolutions. The maps are the
same for all prompts; they are put in the order of the image tokens once per image.
"""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import torch
from segment_anything.modeling import TwoWayTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from segray.models.sam.decoder import MaskDecoder
from segray.models.uninitialised import uninitialised

_NAMES = {
    r"\blayer_norm_final_attn\b": "norm_final_attn",
    r"\blayer_norm(\d)\b": r"norm\1",
    r"\bo_proj\b": "out_proj",
    r"\bmlp\.proj_in\b": "mlp.lin1",
    r"\bmlp\.proj_out\b": "mlp.lin2",
}
"""From transformers' names of the two-way transformer to segment_anything's."""


class Sam2Decoder(MaskDecoder):
    """The decoder of a `Sam2Model` of transformers, whose weights it reads and does not modify.

    Its embeddings are those of `joined`; points are in pixels of the logits over the model's square input.

    Args:
        network: the model, on its device; later changes of its weights have no effect here.
        dtype: see `MaskDecoder`.
    """

    def __init__(self, network: Any, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(segment_anything_heads(network), dtype)
        self._output_tokens = torch.cat([self._output_tokens, network.mask_decoder.obj_score_token.weight])
        self._prompt_encoder = network.prompt_encoder
        self._scale = network.prompt_encoder.input_image_size / (4 * self.grid[0])

    def coarse(self, embedding: Tensor) -> Tensor:
        """See `MaskDecoder`; the first of the three maps of a `joined` embedding [4 C, h, w]."""
        return embedding[: len(embedding) // 4]

    def added(self, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """See `MaskDecoder`; the finer maps, pixels of a token first, channels last, and the biases."""
        width = len(embedding) // 4
        _, half, quarter = embedding.flatten(1).split([width, width, 2 * width])
        first, second = (bias[: len(bias) // 4] for bias in self._biases)
        half = half.unflatten(0, (-1, 4)).permute(2, 1, 0)
        # The rows and columns of 4 x 4 pixels in the two levels of 2 x 2 in which they are computed.
        quarter = quarter.unflatten(0, (-1, 2, 2, 2, 2)).permute(5, 1, 3, 2, 4, 0)
        return (half + first).flatten(1), (quarter + second).flatten(0, 2).flatten(1)

    def prompts(self, points: Tensor) -> Tensor:
        """See `MaskDecoder.prompts`: IoU, three masks, single mask, object, the point and its padding."""
        points = (points * self._scale).float()[None, :, None]
        labels = torch.ones(points.shape[:3], dtype=torch.int64, device=points.device)
        sparse, _ = self._prompt_encoder(points, labels, None, None)
        return torch.cat([self._output_tokens.expand(points.shape[1], -1, -1), sparse[0]], 1)


def joined(maps: list[Tensor]) -> Tensor:
    """The three maps of `get_image_embeddings` as one, with the pixels of a token beside each other.

    Args:
        maps: [B, C / 8, 4 h, 4 w], [B, C / 4, 2 h, 2 w] and [B, C, h, w].

    Returns:
        [B, 4 C, h, w].
    """
    quarter, half, coarse = maps
    return torch.cat([coarse, F.pixel_unshuffle(half, 2), F.pixel_unshuffle(quarter, 4)], 1)


def segment_anything_heads(network: Any) -> Any:
    """What `MaskDecoder` and the kernels read of a `Sam2Model`, under segment_anything's names."""
    decoder, prompts = network.mask_decoder, network.prompt_encoder
    upscaling = (decoder.upscale_conv1, decoder.upscale_layer_norm, decoder.activation)
    return SimpleNamespace(
        mask_decoder=SimpleNamespace(
            transformer=_transformer(decoder.transformer, decoder.config),
            iou_token=decoder.iou_token,
            mask_tokens=decoder.mask_tokens,
            num_mask_tokens=decoder.num_mask_tokens,
            iou_prediction_head=decoder.iou_prediction_head,
            output_hypernetworks_mlps=decoder.output_hypernetworks_mlps,
            output_upscaling=nn.Sequential(*upscaling, decoder.upscale_conv2, decoder.activation),
        ),
        prompt_encoder=SimpleNamespace(
            get_dense_pe=network.get_image_wide_positional_embeddings,
            no_mask_embed=prompts.no_mask_embed,
            image_embedding_size=prompts.image_embedding_size,
        ),
    )


def _transformer(theirs: nn.Module, config: Any) -> TwoWayTransformer:
    """segment_anything's module, with the tensors of transformers' one."""
    with uninitialised():
        ours = TwoWayTransformer(
            depth=config.num_hidden_layers,
            embedding_dim=config.hidden_size,
            num_heads=config.num_attention_heads,
            mlp_dim=config.mlp_dim,
            attention_downsample_rate=config.attention_downsample_rate,
        )
    state = {_renamed(key): value for key, value in theirs.state_dict().items()}
    ours.load_state_dict(state, assign=True)
    return ours


def _renamed(key: str) -> str:
    for pattern, name in _NAMES.items():
        key = re.sub(pattern, name, key)
    return key

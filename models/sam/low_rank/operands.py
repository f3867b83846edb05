"""The low-rank form of SAM's two-way transformer: what a model and an image contribute.

After the first block an image token is `LayerNorm(x + a V)`: `a` are its softmax weights over the few prompt
tokens, V is small and per prompt. With x and V centred over channels the norm needs one number per token, so
everything downstream is a product with x (shared by all prompts of an image) or with V (tiny), and the
transformer needs no tensor [prompts, tokens, channels]. Notation: N image tokens with C channels, H heads,
I = C / 2 internal channels of which a head has d, T prompt tokens. A per-prompt matrix has J columns: 8 H in
the order `slot * H + head` for kernels, T H in the order `head * T + token` for plain torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from segray.models.sam.upscaling import upscaling_weight

if TYPE_CHECKING:
    from segment_anything.modeling import MaskDecoder, TwoWayTransformer
    from segment_anything.modeling.transformer import Attention

LOG2_E = math.log2(math.e)
SLOTS = 8
"""Prompt tokens that a per-prompt matrix has room for; those that do not exist are padding."""


@dataclass(frozen=True)
class ImageOperands:
    """What all prompts of one image share. Matrices are in the operands' type, [N, I] where not said.

    Attributes:
        keys, values: [H, N, d] for the first read of the image.
        q0: queries of the first block's write, scaled.
        xv, xk, xval, xq2: the centred tokens `x` by the first write's values, the second block's keys,
            values and queries.
        xw1, xw2, xk3, xv3: the scaled and centred tokens `x g1` by the two writes' values and the final
            attention's keys and values.
        xu: [N, C], the same by the first transposed convolution, four sub-pixels of C / 4 channels.
        xsq, xgsq, xc: [N], in the weights' type, the squared length of `x` and `x g1`, and `x g1` by the
            second block's constant.
    """

    keys: Tensor
    values: Tensor
    q0: Tensor
    xv: Tensor
    xk: Tensor
    xval: Tensor
    xq2: Tensor
    xw1: Tensor
    xw2: Tensor
    xk3: Tensor
    xv3: Tensor
    xu: Tensor
    xsq: Tensor
    xgsq: Tensor
    xc: Tensor


class ImageSide:
    """Projects an image's tokens for all prompts at once.

    Args:
        decoder: segment_anything's `MaskDecoder`, float32.
        positions: [N, C] of the prompt encoder, in the weights' type.
        no_mask: float32 [1, C], the "no mask" prompt.
        dtype: of the operands.
        exponents: the factor on scores: `LOG2_E` for exponents of 2, 1 for those of e.
    """

    def __init__(
        self,
        decoder: MaskDecoder,
        positions: Tensor,
        no_mask: Tensor,
        dtype: torch.dtype,
        exponents: float = LOG2_E,
    ) -> None:
        first, second = decoder.transformer.layers
        read, write = first.cross_attn_token_to_image, first.cross_attn_image_to_token
        second_read, second_write = second.cross_attn_token_to_image, second.cross_attn_image_to_token
        last = decoder.transformer.final_attn_token_to_image
        g1, b1, g2 = first.norm4.weight, first.norm4.bias, second.norm4.weight
        self._dtype, self._heads = dtype, read.num_heads
        self._positions, self._no_mask, self._g1 = positions, no_mask, g1
        self._bias = write.out_proj.bias
        self.constant = centred(b1 + second_write.out_proj.bias)
        scale = query_scale(write, exponents)
        self._placed = torch.stack([write.q_proj.weight.T * scale, read.k_proj.weight.T])
        self._query_bias = write.q_proj.bias * scale
        self._value = read.v_proj
        out1 = centred(write.out_proj.weight)
        projections = (second_read.k_proj, second_read.v_proj, second_write.q_proj)
        self._x = torch.stack([out1, *((p.weight * g1).T for p in projections)])
        out2 = centred(second_write.out_proj.weight)
        last_projections = ((p.weight * g2).T for p in (last.k_proj, last.v_proj))
        self._xg = torch.stack([centred(g1[:, None] * out1), out2, *last_projections])
        self._up = g2[:, None] * upscaling_weight(decoder.output_upscaling[0])
        self.pk = (positions @ second_read.k_proj.weight.T).to(dtype)
        query = second_write.q_proj
        self.pq2 = (positions @ query.weight.T + query.bias + query.weight @ b1).to(dtype)
        self.pk3 = (positions @ last.k_proj.weight.T).to(dtype)

    def __call__(self, embedding: Tensor) -> ImageOperands:
        """Of a float32 embedding [C, h, w]."""
        tokens = embedding.flatten(1).T + self._no_mask
        queries, keys = torch.matmul(tokens + self._positions, self._placed)
        x = centred(tokens + self._bias, 1)
        xg = centred(x * self._g1, 1)
        xv, xk, xval, xq2 = torch.matmul(x, self._x).to(self._dtype)
        xw1, xw2, xk3, xv3 = torch.matmul(xg, self._xg).to(self._dtype)
        return ImageOperands(
            keys=self._by_heads(keys),
            values=self._by_heads(self._value(tokens)),
            q0=(queries + self._query_bias).to(self._dtype),
            xv=xv,
            xk=xk,
            xval=xval,
            xq2=xq2,
            xw1=xw1,
            xw2=xw2,
            xk3=xk3,
            xv3=xv3,
            xu=(xg @ self._up).to(self._dtype),
            xsq=x.square().sum(1),
            xgsq=xg.square().sum(1),
            xc=xg @ self.constant,
        )

    def _by_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (self._heads, -1)).transpose(0, 1).to(self._dtype).contiguous()


class PromptMaps:
    """What a prompt's values are multiplied with, from the right: [I, ...], in the operands' type.

    Attributes:
        first: of the first write's values: V1 [C], W1 [C], then I columns each: `k2`, `v2`, `q2` of V1 and
            `k3`, `v3` of W1.
        first_up: of W1, through the first transposed convolution, [I, C].
        second, second_bias: of the second write's values: W2 [C], then `k3` and `v3` of it.
        second_up, second_up_bias: of W2, through the first transposed convolution.
        shift: float32 [C], what the second block's norm adds to the first transposed convolution.
        read_bias: [C], what the second block's read adds to every query: its values' bias, projected.
        last_bias: the same of the final attention.
    """

    def __init__(self, decoder: MaskDecoder, constant: Tensor, dtype: torch.dtype) -> None:
        first, second = decoder.transformer.layers
        read, write = second.cross_attn_token_to_image, second.cross_attn_image_to_token
        last = decoder.transformer.final_attn_token_to_image
        g1, b1, g2, b2 = (
            part for layer in (first, second) for part in (layer.norm4.weight, layer.norm4.bias)
        )
        v1 = centred(first.cross_attn_image_to_token.out_proj.weight).T
        w1 = centred(v1 * g1, 1)
        w2 = centred(write.out_proj.weight).T
        share = (constant / write.num_heads)[None]
        k3, v3 = ((p.weight * g2).T for p in (last.k_proj, last.v_proj))
        up = g2[:, None] * upscaling_weight(decoder.output_upscaling[0])
        pushed = [v1 @ (p.weight * g1).T for p in (read.k_proj, read.v_proj, write.q_proj)]
        self.first = torch.cat([v1, w1, *pushed, w1 @ k3, w1 @ v3], 1).to(dtype)
        self.first_up = (w1 @ up).to(dtype)
        self.second = torch.cat([w2, w2 @ k3, w2 @ v3], 1).to(dtype)
        self.second_bias = torch.cat([share, share @ k3, share @ v3], 1)[0].to(dtype)
        self.second_up = (w2 @ up).to(dtype)
        self.second_up_bias = (share @ up)[0].to(dtype)
        self.shift = b2 @ upscaling_weight(decoder.output_upscaling[0])
        self.read_bias = _read_bias(read, b1).to(dtype)
        self.last_bias = _read_bias(last, b2).to(dtype)


def _read_bias(attention: Attention, norm_bias: Tensor) -> Tensor:
    values = attention.v_proj
    bias: Tensor = attention.out_proj(values.bias + values.weight @ norm_bias)
    return bias


def has_form(transformer: TwoWayTransformer) -> bool:
    """Whether it is built as that of the released models: two blocks, the first without positions."""
    layers = transformer.layers
    return len(layers) == 2 and layers[0].skip_first_layer_pe and not layers[1].skip_first_layer_pe


def centred(matrix: Tensor, dim: int = 0) -> Tensor:
    """Minus its mean along `dim`."""
    return matrix - matrix.mean(dim, keepdim=True)


def query_scale(attention: Attention, exponents: float) -> float:
    """The factor on queries, see `ImageSide`."""
    return exponents / math.sqrt(attention.internal_dim // attention.num_heads)

"""SAM's image encoder on a GPU: the same function, with fused norms and attentions of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from segment_anything.modeling.image_encoder import get_rel_pos
from torch import Tensor
from torch.nn import functional as F

from segray.models.precision import rounded
from segray.models.sam.fused.attention import Attended, global_attention, relative_table, window_attention
from segray.models.sam.fused.config import EncoderConfig
from segray.models.sam.fused.graphs import Graphed
from segray.models.sam.fused.norm import residual_norm

if TYPE_CHECKING:
    from segment_anything.modeling.image_encoder import Block, ImageEncoderViT


@dataclass(frozen=True)
class _Block:
    """A transformer block and its table of relative positions [d, R]."""

    layer: Block
    table: Tensor
    columns_at: int


class FusedEncoder:
    """`segray.models.sam.encoder.encode_images`.

    Args:
        encoder: segment_anything's `ImageEncoderViT`, float32, left as it is.
        dtype: of weights and tokens but for the neck's; sums and norms are float32.
        config: of the kernels.

    Raises:
        ValueError: an encoder without relative positions or absolute ones, which no released SAM is.
    """

    def __init__(self, encoder: ImageEncoderViT, dtype: torch.dtype, config: EncoderConfig) -> None:
        if encoder.pos_embed is None or not all(block.attn.use_rel_pos for block in encoder.blocks):
            raise ValueError(
                "the encoder has no absolute or no relative positions, which every released SAM has"
            )
        self._encoder, self._config = rounded(encoder, dtype), config
        self._grid = (encoder.pos_embed.shape[1], encoder.pos_embed.shape[2])
        self._blocks = [self._block(layer, dtype) for layer in self._encoder.blocks]
        projection = self._encoder.patch_embed.proj
        self._patch_weight = projection.weight.flatten(1).T
        positions = self._encoder.pos_embed.flatten(0, 2)
        self._positions = (positions + projection.bias)[None]
        self._patch = projection.kernel_size[0]
        # In float32: in 16 bit more images had another number of masks.
        first, norm, second, last_norm = encoder.neck
        kernel = second.weight.contiguous(memory_format=torch.channels_last)
        self._captured = Graphed(lambda images: (self.encode(images),), limit=4)
        self._neck = (first.weight.flatten(1).T, norm, kernel, last_norm)

    def __call__(self, images: Tensor) -> Tensor:
        """Float32 embeddings [B, C, h, w] of normalised float32 [B, 3, side, side]."""
        # The next batch's may come before the last of this one's is decoded.
        return self._captured(images)[0].clone()

    def encode(self, images: Tensor) -> Tensor:
        """The same, launched kernel by kernel."""
        x = self._patches(images)
        first = self._blocks[0].layer.norm1
        y = residual_norm(x, None, first.weight, first.bias, first.eps)
        for block, after in zip(self._blocks, [*self._blocks[1:], None], strict=True):
            norm, mlp = block.layer.norm2, block.layer.mlp
            y = residual_norm(x, self._attend(block, y), norm.weight, norm.bias, norm.eps)
            y = mlp.lin2(F.gelu(mlp.lin1(y)))
            if after:
                norm = after.layer.norm1
                y = residual_norm(x, y, norm.weight, norm.bias, norm.eps)
        return self._embeddings(x.float() + y)

    def _block(self, layer: Block, dtype: torch.dtype) -> _Block:
        attention, window = layer.attn, layer.window_size
        height, width = (window, window) if window else self._grid
        rows = _by_distance(get_rel_pos(height, height, attention.rel_pos_h.float()))
        columns = _by_distance(get_rel_pos(width, width, attention.rel_pos_w.float()))
        return _Block(layer, *relative_table(rows, columns, dtype))

    def _patches(self, images: Tensor) -> Tensor:
        """Tokens [B N, C]: patches of a reshape, one product with positions and bias added."""
        count, (rows, columns), size = len(images), self._grid, self._patch
        grid = images.to(self._positions.dtype).view(count, 3, rows, size, columns, size)
        patches = grid.permute(0, 2, 4, 1, 3, 5).reshape(count, rows * columns, -1)
        positions = self._positions.expand(count, -1, -1)
        return torch.baddbmm(positions, patches, self._patch_weight.expand(count, -1, -1)).flatten(0, 1)

    def _attend(self, block: _Block, y: Tensor) -> Tensor:
        attention, count = block.layer.attn, len(y)
        heads, width = attention.num_heads, y.shape[1]
        qkv = y.new_empty(count + 1, 3 * width)
        torch.addmm(attention.qkv.bias, y, attention.qkv.weight.T, out=qkv[:count])
        qkv[count] = attention.qkv.bias
        queries = qkv[:count, :width].view(count, heads, -1).transpose(0, 1)
        rel = torch.matmul(queries, block.table)
        attended = Attended(qkv, rel, block.columns_at, self._grid, width // heads)
        side = block.layer.window_size
        out = (
            window_attention(attended, side, self._config)
            if side
            else global_attention(attended, self._config)
        )
        projected: Tensor = attention.proj(out)
        return projected

    def _embeddings(self, tokens: Tensor) -> Tensor:
        first, norm, kernel, last = self._neck
        rows, columns = self._grid
        y = residual_norm(tokens @ first, None, norm.weight, norm.bias, norm.eps)
        grid = y.view(-1, rows, columns, y.shape[1]).permute(0, 3, 1, 2)
        y = F.conv2d(grid, kernel, padding=1).permute(0, 2, 3, 1).reshape(-1, y.shape[1])
        y = residual_norm(y, None, last.weight, last.bias, last.eps)
        return y.view(-1, rows, columns, y.shape[1]).permute(0, 3, 1, 2)


def _by_distance(table: Tensor) -> Tensor:
    """Relative positions [queries, keys, d] by query minus key, the lowest first: [2 queries - 1, d]."""
    return torch.cat([table[0].flip(0), table[1:, 0]])

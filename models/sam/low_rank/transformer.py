"""SAM's two-way transformer in its low-rank form, in plain torch.

For float32, where there are no kernels. Of an image token of a prompt it keeps J = T H softmax weights and
one number per block, in place of C channels twice: half the operations of the folded form with the released
models, and operations are what a CPU takes its time for. Tokens come last and prompts between, [J, B, N], so
that one product per head serves all prompts, and a prompt's own product reads its rows where they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from segray.models.sam.low_rank.operands import ImageOperands, ImageSide, PromptMaps, has_form
from segray.models.sam.low_rank.prompt_side import FirstPrompts, PromptSide, SecondPrompts

_BY_HEAD = ("q0", "xv", "xk", "xval", "xq2", "xw1", "xw2", "xk3", "xv3")
_PROMPT_TOKENS = 7
"""Of SAM 1; SAM 2 has one more."""


@dataclass(frozen=True)
class OperandsByHead(ImageOperands):
    """`ImageOperands` whose matrices are [H, d, N] where those are [N, I]."""


@dataclass(frozen=True)
class LowRankTokens:
    """The image tokens of B prompts, and what the first transposed convolution takes of them.

    Attributes:
        image: of `LowRankTransformer.image`.
        weights: [J, B, N] of each block.
        rstd: [B, N] of each block.
        maps: [B, 2 J, C], both blocks' values through the first transposed convolution.
        shift: [C], see `PromptMaps`.
    """

    image: OperandsByHead
    weights: tuple[Tensor, Tensor]
    rstd: tuple[Tensor, Tensor]
    maps: Tensor
    shift: Tensor

    def up(self, added: Tensor, prompts: Tensor | None, rows: slice) -> Tensor:
        """See `segray.models.sam.transformer.UpscalableTokens`."""
        chosen = None if prompts is None else prompts.tolist()
        rstd1, rstd2 = (_chosen(rstd[:, rows], 0, chosen) for rstd in self.rstd)
        first, second = (_chosen(weights[:, :, rows], 1, chosen) for weights in self.weights)
        both, columns = rstd1 * rstd2, len(first)
        state = first.new_empty(2 * columns, *both.shape)
        torch.mul(first, both, out=state[:columns])
        torch.mul(second, rstd2, out=state[columns:])
        up = torch.addcmul(added + self.shift, both[..., None], self.image.xu[rows])
        return up.baddbmm_(state.permute(1, 2, 0), _chosen(self.maps, 0, chosen))


class LowRankTransformer:
    """The two-way transformer of a SAM's mask decoder, whose weights it reads and does not modify.

    Args:
        decoder: segment_anything's `MaskDecoder` that `fits`.
        positions, no_mask: see `ImageSide`.
        dtype: float32 or float64, that of the weights.
    """

    def __init__(self, decoder: Any, positions: Tensor, no_mask: Tensor, dtype: torch.dtype) -> None:
        transformer = decoder.transformer
        self._image = ImageSide(decoder, positions, no_mask, dtype, exponents=1)
        self._maps = PromptMaps(decoder, self._image.constant, dtype)
        asked = decoder.num_mask_tokens
        self._side = PromptSide(transformer, self._maps, asked, slots=None, exponents=1)
        self._heads = transformer.layers[0].cross_attn_image_to_token.num_heads
        self._eps = [layer.norm4.eps for layer in transformer.layers]
        positions_by = (self._image.pk, self._image.pq2, self._image.pk3)
        self._pk, self._pq2, self._pk3 = (self._by_head(x) for x in positions_by)

    @staticmethod
    def fits(decoder: Any) -> bool:
        """Whether a decoder has the form, and both blocks' weights are no more than a token's channels."""
        write = decoder.transformer.layers[0].cross_attn_image_to_token
        few: bool = 2 * _PROMPT_TOKENS * write.num_heads <= write.embedding_dim
        return few and has_form(decoder.transformer)

    def image(self, embedding: Tensor) -> OperandsByHead:
        """Of an embedding [C, h, w]."""
        operands = vars(self._image(embedding))
        by_head = {name: self._by_head(operands[name]) for name in _BY_HEAD}
        return OperandsByHead(**operands | by_head)

    def __call__(self, image: OperandsByHead, prompts: Tensor) -> tuple[Tensor, LowRankTokens]:
        """Float32 IoU and mask tokens [B, 4, C] of prompts [B, T, C], and their image tokens."""
        side = self._side
        first = side.first(prompts, image)
        weights1, rstd1, read = self._first_block(image, first)
        second = side.second(prompts, first, read)
        weights2, rstd2, read = self._second_block(image, first, second, weights1, rstd1)
        hidden = side.hidden(second.tokens, read)
        maps = torch.cat([first.up, second.up], 1)
        return hidden, LowRankTokens(image, (weights1, weights2), (rstd1, rstd2), maps, self._maps.shift)

    def _first_block(self, image: OperandsByHead, prompts: FirstPrompts) -> tuple[Tensor, Tensor, Tensor]:
        """The first block's write to the image and the second block's read of it.

        Returns:
            Softmax weights [J, B, N], rstd [B, N], and the read [B, T, I].
        """
        keys, values, queries = map(self._own, (prompts.keys, 2 * prompts.values, prompts.queries))
        weights = self._softmax(_shared(keys, image.q0))
        product = _add(prompts.gram, weights, _shared(values, image.xv))
        rstd = self._rstd(image, image.xsq + product.mul_(weights).sum(0), 0)
        scores = _add(prompts.folded.mT, weights, _shared(queries, image.xk)).mul_(rstd)
        read = _add_shared(queries, self._pk, scores).softmax(2).mul_(rstd)
        return weights, rstd, self._read(read, image.xval) + self._read_weights(read, weights, prompts.v2)

    def _second_block(
        self,
        image: OperandsByHead,
        first: FirstPrompts,
        second: SecondPrompts,
        weights1: Tensor,
        rstd1: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The second block's write to the image and the final attention's read of it.

        Returns:
            Softmax weights [J, B, N], rstd [B, N], and the read [B, 4, I].
        """
        values1, values2 = self._own(2 * first.values), self._own(2 * second.values)
        keys, queries = self._own(second.keys), self._own(second.queries)
        scores = _add(second.folded.mT, weights1, _shared(keys, image.xq2)).mul_(rstd1)
        weights2 = self._softmax(_add_shared(keys, self._pq2, scores))
        product = _add(second.gram11, weights1, _shared(values1, image.xw1))
        nsq = rstd1 * (image.xgsq + product.mul_(weights1).sum(0)) + 2 * image.xc
        product = _add(second.gram12.mT, weights1, _shared(values2, image.xw2)).mul_(rstd1)
        product = _add(second.gram22, weights2, product).mul_(weights2)
        rstd2 = self._rstd(image, rstd1 * nsq + product.sum(0), 1)
        scores = _add(second.folded1.mT, weights1, _shared(queries, image.xk3)).mul_(rstd1)
        scores = _add(second.folded2.mT, weights2, scores).mul_(rstd2)
        read2 = _add_shared(queries, self._pk3, scores).softmax(2).mul_(rstd2)
        read1 = read2 * rstd1
        read = self._read(read1, image.xv3) + self._read_weights(read1, weights1, first.v3)
        return weights2, rstd2, read + self._read_weights(read2, weights2, second.v3)

    def _rstd(self, image: OperandsByHead, squares: Tensor, block: int) -> Tensor:
        return torch.rsqrt(squares / image.xu.shape[1] + self._eps[block])

    def _softmax(self, scores: Tensor) -> Tensor:
        """Over the tokens of every head, the first dimension."""
        return scores.unflatten(0, (self._heads, -1)).softmax(1).flatten(0, 1)

    def _by_head(self, x: Tensor) -> Tensor:
        """[N, I] as [H, d, N]."""
        return x.T.contiguous().unflatten(0, (self._heads, -1))

    def _own(self, x: Tensor) -> Tensor:
        """Of [B, T H, I] every head's channels of its own rows, [H, T, B, d]."""
        blocks = x.unflatten(2, (self._heads, -1)).unflatten(1, (self._heads, -1))
        return blocks.diagonal(dim1=1, dim2=3).permute(3, 1, 0, 2)

    def _read(self, read: Tensor, values: Tensor) -> Tensor:
        """What weights [T H, B, N] read of an image's values [H, d, N], [B, T, I]."""
        by_head = read.reshape(self._heads, -1, read.shape[2])
        found = torch.bmm(by_head, values.mT).unflatten(1, (-1, read.shape[1]))
        return found.permute(2, 1, 0, 3).flatten(2)

    def _read_weights(self, read: Tensor, weights: Tensor, pushed: Tensor) -> Tensor:
        """What they read of a prompt's values [B, J, I] through its weights [J, B, N], [B, T, I]."""
        low = torch.bmm(read.transpose(0, 1), weights.permute(1, 2, 0))
        return self._own(torch.bmm(low, pushed)).permute(2, 1, 0, 3).flatten(2)


def _shared(x: Tensor, image: Tensor) -> Tensor:
    """Every head's [T, B, d] by its part of an image's [H, d, N]: [T H, B, N]."""
    return torch.bmm(x.flatten(1, 2), image).view(-1, x.shape[2], image.shape[2])


def _add_shared(x: Tensor, image: Tensor, out: Tensor) -> Tensor:
    """`_shared` added to what is there."""
    flat = out.reshape(len(x), -1, out.shape[2])
    return _added(flat, x.flatten(1, 2), image).reshape(out.shape)


def _add(matrices: Tensor, weights: Tensor, out: Tensor) -> Tensor:
    """Every prompt's matrix [B, K, J] by its weights [J, B, N], added to what is there, [K, B, N]."""
    return _added(out.transpose(0, 1), matrices, weights.transpose(0, 1)).transpose(0, 1)


def _added(out: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """`baddbmm`, in place but where torch compiles: it cannot undo a view of what it has laid out anew."""
    return torch.baddbmm(out, a, b) if torch.compiler.is_compiling() else out.baddbmm_(a, b)


def _chosen(x: Tensor, dim: int, prompts: list[int] | None) -> Tensor:
    """Some prompts' part of a tensor; a view of it for one prompt, as `index_select` would copy all first."""
    if prompts is None:
        return x
    parts = [x.narrow(dim, prompt, 1) for prompt in prompts]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)

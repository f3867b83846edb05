"""The encoder's two attentions with their relative positions added inside: no bias tensor, no window copies.

A score is `q k + r_y + r_x`, where both terms are products of the query with one row each of two small
tables, chosen by how far apart the two tokens are (Li et al., MViTv2, CVPR 2022). The products with all
rows are computed beforehand, as one matrix product.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from segray.models.sam.fused.config import EncoderConfig


@triton.jit
def _global_attention(  # type: ignore[no-untyped-def]
    qkv, rel, out, height, width, rel_stride, columns_at, heads, scale,
    HEAD: tl.constexpr, CHANNELS: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,  # noqa: N803
):  # fmt: skip
    """One head's QUERIES tokens attend to all, a row of the grid at a time."""
    length = height * width
    head, image = tl.program_id(1) % heads, tl.program_id(1) // heads
    query, channel, x = tl.arange(0, QUERIES), tl.arange(0, CHANNELS), tl.arange(0, KEYS)
    inside, real = tl.program_id(0) * QUERIES + query < length, channel < HEAD
    token = tl.minimum(tl.program_id(0) * QUERIES + query, length - 1)
    model = heads * HEAD
    base = qkv + image.to(tl.int64) * length * 3 * model + head * HEAD + channel
    at = token[:, None] * (3 * model)
    q = tl.load(base[None, :] + at, mask=real[None, :], other=0.0)
    rows = rel + ((head * (tl.num_programs(1) // heads) + image) * length + token) * rel_stride
    apart = columns_at + token[:, None] % width - x[None, :] + width - 1
    column_terms = tl.load(rows[:, None] + apart, mask=(x < width)[None, :], other=float("-inf"))
    row_terms = rows + token // width + height - 1
    peak = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    gathered = tl.zeros([QUERIES, CHANNELS], tl.float32)
    keys = base[None, :] + model + x[:, None] * (3 * model)
    seen = (x < width)[:, None] & real[None, :]
    for y in range(height):
        step = y * width * 3 * model
        k = tl.load(keys + step, mask=seen, other=0.0)
        v = tl.load(keys + (step + model), mask=seen, other=0.0)
        row_term = tl.load(row_terms - y).to(tl.float32)
        scores = tl.dot(q, tl.trans(k)) * scale + (column_terms.to(tl.float32) + row_term[:, None])
        new = tl.maximum(peak, tl.max(scores, 1))
        p = tl.exp2(scores - new[:, None])
        shrunk = tl.exp2(peak - new)
        total = total * shrunk + tl.sum(p, 1)
        gathered = tl.dot(p.to(v.dtype), v, gathered * shrunk[:, None])
        peak = new
    gathered = gathered / total[:, None]
    place = (image.to(tl.int64) * length + token)[:, None] * model + head * HEAD + channel[None, :]
    tl.store(out + place, gathered.to(out.dtype.element_ty), mask=inside[:, None] & real[None, :])


@triton.jit
def _window_attention(  # type: ignore[no-untyped-def]
    qkv, rel, out, height, width, across, rel_stride, columns_at, heads, scale,
    HEAD: tl.constexpr, CHANNELS: tl.constexpr, SIDE: tl.constexpr, SLOTS: tl.constexpr,  # noqa: N803
    TERMS: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,  # noqa: N803
):  # fmt: skip
    """QUERIES of a window attend to all of it; rows of SIDE tokens have SLOTS places."""
    length, model = height * width, heads * HEAD
    head, image = tl.program_id(2) % heads, tl.program_id(2) // heads
    top, left = tl.program_id(1) // across * SIDE, tl.program_id(1) % across * SIDE
    channel, term = tl.arange(0, CHANNELS), tl.arange(0, 2 * TERMS)
    real = channel < HEAD
    slot = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    qy, qx = slot // SLOTS, slot % SLOTS
    inside = (qy < SIDE) & (qx < SIDE) & (top + qy < height) & (left + qx < width)
    token = tl.where(inside, (top + qy) * width + left + qx, 0)
    base = qkv + head * HEAD + channel
    first = image.to(tl.int64) * length
    biases = (tl.num_programs(2) // heads).to(tl.int64) * length
    q = tl.load(
        base[None, :] + (first + token)[:, None] * (3 * model),
        mask=inside[:, None] & real[None, :],
        other=0.0,
    )
    # Terms by the key's row, then by its column, and for each key which two of them count: a product.
    apart = tl.where(
        term[None, :] < TERMS, qy[:, None] - term[None, :], qx[:, None] - term[None, :] + TERMS + columns_at
    )
    row = rel + (head * biases + first + token)[:, None] * rel_stride
    terms = tl.load(
        row + (apart + SIDE - 1), mask=inside[:, None] & (term % TERMS < SIDE)[None, :], other=0.0
    )
    peak = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    gathered = tl.zeros([QUERIES, CHANNELS], tl.float32)
    for start in range(0, SIDE * SLOTS, KEYS):
        place = start + tl.arange(0, KEYS)
        ky, kx = place // SLOTS, place % SLOTS
        exists = (ky < SIDE) & (kx < SIDE)
        # Outside of the image a window has zeros, whose keys and values are the biases: the last row.
        seen = (top + ky < height) & (left + kx < width)
        at = tl.where(seen, first + (top + ky) * width + left + kx, biases) * (3 * model)
        keys = base[None, :] + at[:, None] + model
        k = tl.load(keys, mask=exists[:, None] & real[None, :], other=0.0)
        v = tl.load(keys + model, mask=exists[:, None] & real[None, :], other=0.0)
        counts = tl.where(term[:, None] < TERMS, ky[None, :], kx[None, :] + TERMS) == term[:, None]
        scores = tl.dot(q, tl.trans(k)) * scale
        scores = tl.dot(terms, counts.to(terms.dtype), scores)
        scores = tl.where(exists[None, :], scores, float("-inf"))
        new = tl.maximum(peak, tl.max(scores, 1))
        p = tl.exp2(scores - new[:, None])
        shrunk = tl.exp2(peak - new)
        total = total * shrunk + tl.sum(p, 1)
        gathered = tl.dot(p.to(v.dtype), v, gathered * shrunk[:, None])
        peak = new
    gathered = gathered / total[:, None]
    target = out + (first + token)[:, None] * model + head * HEAD + channel[None, :]
    tl.store(target, gathered.to(out.dtype.element_ty), mask=inside[:, None] & real[None, :])


@dataclass(frozen=True)
class Attended:
    """What an attention takes.

    Attributes:
        qkv: [B N + 1, 3 heads d] of the tokens, then of a token of zeros: the biases.
        rel: [heads, B N, R], products of queries with both tables, in powers of 2.
        columns_at: where the table of columns begins in R.
        grid: (height, width) of the tokens.
        head: channels of one head.
    """

    qkv: Tensor
    rel: Tensor
    columns_at: int
    grid: tuple[int, int]
    head: int

    @property
    def heads(self) -> int:
        """How many."""
        return self.rel.shape[0]

    @property
    def images(self) -> int:
        """How many, B."""
        return self.rel.shape[1] // (self.grid[0] * self.grid[1])

    @property
    def scale(self) -> float:
        """Of scores that are exponents of 2."""
        return 1.4426950408889634 / self.head**0.5

    def output(self) -> Tensor:
        """Empty [B N, heads d]."""
        return self.qkv.new_empty(self.rel.shape[1], self.heads * self.head)


def global_attention(a: Attended, config: EncoderConfig) -> Tensor:
    """Every token attends to all tokens of its image: [B N, heads d]."""
    (height, width), out = a.grid, a.output()
    blocks = triton.cdiv(height * width, config.global_queries)
    _global_attention[(blocks, a.images * a.heads)](
        a.qkv, a.rel, out, height, width, a.rel.shape[2], a.columns_at, a.heads, a.scale,
        HEAD=a.head, CHANNELS=_power(a.head), QUERIES=config.global_queries, KEYS=_power(width),
        num_warps=config.global_warps, num_stages=config.global_stages,
    )  # fmt: skip
    return out


def window_attention(a: Attended, side: int, config: EncoderConfig) -> Tensor:
    """Every token attends to those of its window of `side` by `side` tokens: [B N, heads d]."""
    (height, width), out, slots = a.grid, a.output(), _power(side)
    across, down = triton.cdiv(width, side), triton.cdiv(height, side)
    blocks = triton.cdiv(side * slots, config.window_queries)
    _window_attention[(blocks, across * down, a.images * a.heads)](
        a.qkv, a.rel, out, height, width, across, a.rel.shape[2], a.columns_at, a.heads, a.scale,
        HEAD=a.head, CHANNELS=_power(a.head), SIDE=side, SLOTS=slots, TERMS=max(16, slots),
        QUERIES=config.window_queries, KEYS=config.window_keys,
        num_warps=config.window_warps, num_stages=config.window_stages,
    )  # fmt: skip
    return out


def relative_table(rows: Tensor, columns: Tensor, dtype: torch.dtype) -> tuple[Tensor, int]:
    """Both tables of relative positions [offsets, d] as one [d, R], and where columns begin in R."""
    start, end = (-(-len(table) // 8) * 8 for table in (rows, columns))
    both = rows.new_zeros(start + end, rows.shape[1])
    both[: len(rows)], both[start : start + len(columns)] = rows, columns
    return (both * 1.4426950408889634).to(dtype).T, start


def _power(n: int) -> int:
    power: int = triton.next_power_of_2(n)
    return max(16, power)

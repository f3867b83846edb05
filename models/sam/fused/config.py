"""How kernels are launched: tiles, warps and stages, which each GPU model has its own fastest of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Gelu = Literal["erf", "tanh", "sigmoid"]


@dataclass(frozen=True)
class TileConfig:
    """Of a kernel over an image's tokens.

    Attributes:
        tile: tokens that a program takes at a time, a power of 2.
        warps, stages: Triton's `num_warps` and `num_stages`.
        precision: of products of float32 operands, Triton's `input_precision`.
    """

    tile: int = 64
    warps: int = 4
    stages: int = 1
    precision: str = "tf32x3"

    def fitting(self, length: int) -> int:
        """The tile, or the largest power of 2 below it that divides `length` tokens."""
        tile = self.tile
        while length % tile:
            tile //= 2
        return tile


@dataclass(frozen=True)
class BlockConfig(TileConfig):
    """Of the kernels of a block.

    Attributes:
        split: write and read in a launch each.
    """

    split: bool = True

    @property
    def passes(self) -> tuple[tuple[bool, bool], ...]:
        """(WRITE, READ) of each launch."""
        return ((True, False), (False, True)) if self.split else ((True, True),)


@dataclass(frozen=True)
class MasksConfig(TileConfig):
    """Of the kernel that makes logits.

    Attributes:
        gelu: how GELU is computed: `tanh` needs an instruction of NVIDIA GPUs from capability 7.5.
        programs: per prompt.
    """

    gelu: Gelu = "sigmoid"
    programs: int = 4


@dataclass(frozen=True)
class DecoderConfig:
    """Of the decoder's kernels.

    Attributes:
        first, second, masks: of each kernel.
        asked_slots: 4, or 8 where wider products are faster or right.
    """

    first: BlockConfig = field(default_factory=BlockConfig)
    second: BlockConfig = field(default_factory=BlockConfig)
    masks: MasksConfig = field(default_factory=MasksConfig)
    asked_slots: int = 4


@dataclass(frozen=True)
class EncoderConfig:
    """Of the encoder's kernels.

    Attributes:
        global_queries, window_queries: that a program takes, a power of 2.
        window_keys: of a window that a program takes at a time, a power of 2.
        global_warps, global_stages, window_warps, window_stages: Triton's `num_warps` and `num_stages`.
    """

    global_queries: int = 128
    global_warps: int = 8
    global_stages: int = 2
    window_queries: int = 64
    window_keys: int = 64
    window_warps: int = 4
    window_stages: int = 1

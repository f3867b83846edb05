"""How kernels are launched: tiles, warps and stages, which each GPU model has its own fastest of."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_type_hints

Gelu = Literal["erf", "tanh", "sigmoid"]

TABLE = Path(__file__).with_name("configurations.json")
"""The fastest configuration of each GPU model, by the name that its driver gives it."""


@dataclass(frozen=True)
class TileConfig:
    """Of a launch over an image's tokens.

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
class BlockConfig:
    """Of the kernels of a block.

    Attributes:
        write: of the launch that writes to the image.
        read: of the one that reads it; None: one launch does both.
    """

    write: TileConfig = field(default_factory=TileConfig)
    read: TileConfig | None = field(default_factory=TileConfig)

    @property
    def launches(self) -> tuple[tuple[bool, bool, TileConfig], ...]:
        """(WRITE, READ, configuration) of each launch."""
        if self.read is None:
            return ((True, True, self.write),)
        return ((True, False, self.write), (False, True, self.read))


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
    """Of the decoder.

    Attributes:
        first, second, masks: of each kernel.
        asked_slots: 4, or 8 where wider products are faster or right.
        prompts: that it takes at a time.
    """

    first: BlockConfig = field(default_factory=BlockConfig)
    second: BlockConfig = field(default_factory=BlockConfig)
    masks: MasksConfig = field(default_factory=MasksConfig)
    asked_slots: int = 4
    prompts: int = 256


@dataclass(frozen=True)
class EncoderConfig:
    """Of the encoder's kernels.

    Attributes:
        global_queries, window_queries: that a program takes, a power of 2.
        window_keys: of a window that a program takes at a time, a power of 2.
        global_warps, global_stages, window_warps, window_stages: Triton's `num_warps` and `num_stages`.
    """

    global_queries: int = 64
    global_warps: int = 4
    global_stages: int = 2
    window_queries: int = 64
    window_keys: int = 64
    window_warps: int = 4
    window_stages: int = 1


@dataclass(frozen=True)
class FusedConfig:
    """Of both halves of SAM. The defaults are the safe row, for GPUs that nothing is known of."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)


def configuration(gpu: str) -> FusedConfig:
    """The table's row of a GPU model; of an unknown one the safe row."""
    row = json.loads(TABLE.read_text(encoding="utf-8")).get(gpu, {})
    config: FusedConfig = parsed(FusedConfig, row)
    return config


def parsed(kind: Any, values: dict[str, Any]) -> Any:
    """A configuration, such as `FusedConfig`, of nested values; what is missing has its default."""
    hints = get_type_hints(kind)
    parts = {f.name: _field(hints[f.name], values[f.name]) for f in fields(kind) if f.name in values}
    return kind(**parts)


def _field(hint: Any, value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return parsed(hint if is_dataclass(hint) else hint.__args__[0], value)

"""All forward passes of a training step as one module, so that DDP sees one call and reduces once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from segray.models.segmenters.registry import Segmenter

Maps = tuple[Tensor, ...]


@dataclass(frozen=True)
class Drops:
    """Channel dropout of one step as factors on the encoder's maps: 0 or 1 / (1 - p), each [U, D, 1, 1].

    Attributes:
        feature: for the feature view, one tensor per perturbed map; empty where the method has no such view.
        strong: for each strong view the same, empty tuples where it has none.
    """

    feature: Maps = ()
    strong: tuple[Maps, ...] = ()


@dataclass(frozen=True)
class Logits:
    """Logits of a step: labelled [L, C, H, W], weak [U + P, C, H, W], detached, the others [U, C, H, W]."""

    labelled: Tensor
    weak: Tensor | None
    feature: Tensor | None
    strong: tuple[Tensor, ...]


class Student(nn.Module):
    """A network and the views that a step takes through it (METHOD: p^w, p^fp, p^s1, p^s2)."""

    def __init__(self, network: Segmenter) -> None:
        super().__init__()
        self.network = network
        # Batch statistics are those of labelled, weak and dropped maps together, as in UniMatch.
        self._joint = any(isinstance(m, _BatchNorm) for m in network.decoder.modules())

    def forward(
        self,
        labelled: Tensor,
        weak: Tensor | None,
        strong: tuple[Tensor, ...],
        drops: Drops,
        *,
        predict_weak: bool = True,
    ) -> Logits:
        """Logits at the images' own size.

        Args:
            labelled: [L, 3, H, W], normalised.
            weak: [U + P, 3, H, W], or None where the network need not see the weak view; of the last P, which
                are partners of others alone, there is no other view.
            strong: views [U, 3, H, W].
            drops: which channels are dropped.
            predict_weak: False: a teacher predicts it; the weak view serves the feature view only.
        """
        size = (labelled.shape[-2], labelled.shape[-1])
        count = len(labelled)
        maps = self.network.encode(labelled if weak is None else torch.cat([labelled, weak]))
        dropped = None
        if drops.feature:
            own = tuple(m[count : count + len(drops.feature[0])] for m in maps)
            dropped = _dropped(own, self.network.perturbed, drops.feature)
        decode = self._decode_together if self._joint else self._decode_apart
        clean = decode(maps, dropped, count, size, predict_weak and weak is not None)
        return Logits(*clean, strong=self._strong(strong, drops, size))

    def _decode_together(
        self, maps: Maps, dropped: Maps | None, count: int, size: tuple[int, int], weak: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Labelled, weak and feature logits with common batch statistics."""
        clean = len(maps[0])
        parts = maps if dropped is None else tuple(map(torch.cat, zip(maps, dropped, strict=True)))
        logits = self.network.decode(parts, size)
        feature = None if dropped is None else logits[clean:]
        return logits[:count], logits[count:clean].detach() if weak else None, feature

    def _decode_apart(
        self, maps: Maps, dropped: Maps | None, count: int, size: tuple[int, int], weak: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The same where no image depends on others, without a backward pass for the weak ones."""
        feature = None if dropped is None else self.network.decode(dropped, size)
        labelled = self.network.decode(tuple(m[:count] for m in maps), size)
        if not weak:
            return labelled, None, feature
        with torch.no_grad():
            return labelled, self.network.decode(tuple(m[count:] for m in maps), size), feature

    def _strong(self, views: tuple[Tensor, ...], drops: Drops, size: tuple[int, int]) -> tuple[Tensor, ...]:
        if not views:
            return ()
        maps = self.network.encode(torch.cat(views))
        if drops.strong:
            factors = tuple(torch.cat(view) for view in zip(*drops.strong, strict=True))
            maps = _dropped(maps, self.network.perturbed, factors)
        return self.network.decode(maps, size).chunk(len(views))


def _dropped(maps: Maps, indices: tuple[int, ...], factors: Maps) -> Maps:
    by_index = dict(zip(indices, factors, strict=True)) if factors else {}
    return tuple(m * by_index[i] if i in by_index else m for i, m in enumerate(maps))


def drop_factors(dims: Sequence[int], p: float, draws: Sequence[torch.Generator]) -> Maps:
    """Factors of channel dropout (`dropout2d`): 1 / (1 - p) for kept channels, else 0.

    Args:
        dims: channels of each perturbed map.
        p: chance of a channel to be dropped.
        draws: one generator per image.

    Returns:
        a tensor [B, D, 1, 1] for each of `dims`, on the CPU.
    """
    return tuple(_stack([_dropout(dim, p, draw) for draw in draws]) for dim in dims)


def _dropout(dim: int, p: float, draw: torch.Generator) -> Tensor:
    return (torch.rand(dim, generator=draw) >= p).float() / (1 - p)


def complementary_factors(
    dims: Sequence[int], draws: Sequence[torch.Generator], whole: Sequence[bool]
) -> tuple[Maps, Maps]:
    """Factors for a pair of views that see opposite halves of the channels (UniMatch V2, section 3.3).

    Maps of one width lose the same channels, as in its public code.

    Args:
        dims: channels of each perturbed map.
        draws: one generator per image.
        whole: the images that keep all channels of all maps in both views; half of them in UniMatch V2.
    """
    first = {
        dim: _stack(
            [torch.ones(dim) if kept else _half(dim, draw) for kept, draw in zip(whole, draws, strict=True)]
        )
        for dim in dict.fromkeys(dims)
    }
    return tuple(first[dim] for dim in dims), tuple(2 - first[dim] for dim in dims)


def _half(dim: int, draw: torch.Generator) -> Tensor:
    return (torch.rand(dim, generator=draw) < 0.5).float() * 2


def _stack(factors: list[Tensor]) -> Tensor:
    return torch.stack(factors)[:, :, None, None]

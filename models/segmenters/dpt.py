"""The DPT decoder (Ranftl et al., ICCV 2021) in the sizes of UniMatch V2 (Yang et al., TPAMI 2025)."""

from __future__ import annotations

from torch import Tensor, nn

from segray.models.segmenters.base import resample

_SCALES = (4.0, 2.0, 1.0, 0.5)


class DPTHead(nn.Module):
    """Four token maps of one grid become a pyramid, which is fused from coarse to fine.

    Args:
        width: channels of the token maps.
        features: channels of the fused maps.
        classes: number of output channels.
    """

    def __init__(self, width: int, features: int, classes: int) -> None:
        super().__init__()
        channels = [features * factor * 3 // 4 for factor in (1, 2, 4, 8)]
        self.rescale = nn.ModuleList(
            [_rescale(width, c, scale) for c, scale in zip(channels, _SCALES, strict=True)]
        )
        self.narrow = nn.ModuleList([nn.Conv2d(c, features, 3, padding=1, bias=False) for c in channels])
        self.fuse = nn.ModuleList(
            [Fusion(features, skip=i < len(channels) - 1) for i in range(len(channels))]
        )
        self.classifier = nn.Sequential(
            nn.Conv2d(features, features, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(features, classes, 1),
        )

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        """Logits [B, classes, 8 h, 8 w] of four maps [B, width, h, w], early blocks first."""
        levels = [
            narrow(rescale(m)) for narrow, rescale, m in zip(self.narrow, self.rescale, maps, strict=True)
        ]
        path: Tensor | None = None
        for i in reversed(range(len(levels))):
            height, width = levels[i - 1].shape[-2:] if i else (2 * side for side in levels[0].shape[-2:])
            path = self.fuse[i](levels[i], path, (height, width))
        return self.classifier(path)


class Fusion(nn.Module):
    """One step of DPT's refinement: a level, joined with the path from below it, at the next size.

    Args:
        features: channels.
        skip: a path comes from below; the coarsest level has none, and so no unit that would never learn.
    """

    def __init__(self, features: int, skip: bool) -> None:
        super().__init__()
        self.skip = Residual(features) if skip else None
        self.refine = Residual(features)
        self.out = nn.Conv2d(features, features, 1)

    def forward(self, level: Tensor, path: Tensor | None, size: tuple[int, int]) -> Tensor:
        """[B, features, *size]."""
        if self.skip is not None and path is not None:
            level = path + self.skip(level)
        return self.out(resample(self.refine(level), size))


class Residual(nn.Module):
    """Two 3x3 convolutions, each after a ReLU, added to their input."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(features, features, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(features, features, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        return x + self.body(x)


def _rescale(width: int, channels: int, scale: float) -> nn.Sequential:
    resize: nn.Module = nn.Identity()
    if scale > 1:
        resize = nn.ConvTranspose2d(channels, channels, int(scale), stride=int(scale))
    elif scale < 1:
        resize = nn.Conv2d(channels, channels, 3, stride=round(1 / scale), padding=1)
    return nn.Sequential(nn.Conv2d(width, channels, 1), resize)

"""Thumbnails for the report as data URIs: photographs as JPEG, label and other maps as PNG."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segray.models.label_map import LabelMap

UInt8Array = NDArray[np.uint8]

LIMIT = 360
"""Longest side of a thumbnail in pixels."""

ERROR_COLOURS = {
    "right class": (0, 158, 115),
    "wrong class": (213, 94, 0),
    "missed": (86, 180, 233),
    "not there": (204, 121, 167),
    "not counted": (128, 128, 128),
}
"""Okabe and Ito's colours, which colour-blind readers can distinguish."""

_RAMP = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
_FILL = 185


def photo(image: UInt8Array) -> str:
    """An image [H, W, 3] as a JPEG data URI."""
    small = Image.fromarray(image)
    small.thumbnail((LIMIT, LIMIT), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=82, optimize=True)
    return _data_uri("image/jpeg", buffer.getvalue())


def label_overlay(label: LabelMap, palette: UInt8Array, *, opaque: bool = False) -> str:
    """Class ids [H, W] in palette colours as a PNG data URI, outlined; "no class" is transparent.

    Args:
        label: [H, W].
        palette: uint8 [256 or more, 3]; ids from there on have its last colour.
        opaque: no photograph is below the label; otherwise the fill is translucent.
    """
    small = shrink(label)
    outline = edges(small)
    colours = palette[np.minimum(small, len(palette) - 1)]
    # The palette holds dark colours: a lighter outline keeps them apart from dark photographs and pages.
    colours[outline] = colours[outline] // 2 + 127
    alpha = np.where(outline, 255, 255 if opaque else _FILL)
    alpha[small == 0] = 0
    return _rgba_uri(colours, alpha)


def confidence_map(confidence: UInt8Array) -> str:
    """Confidence [H, W], value/255, on a dark-to-light ramp as a PNG data URI; 0 is transparent."""
    small = shrink(confidence)
    return _rgba_uri(ramp()[small], np.where(small > 0, 255, 0))


def error_map(truth: LabelMap, label: LabelMap) -> str:
    """The differences between label and truth [H, W], in `ERROR_COLOURS`, as a PNG data URI."""
    true, guess, ignored = shrink(truth), shrink(label), np.iinfo(truth.dtype).max
    kinds = {
        "right class": (true == guess) & (true > 0),
        "wrong class": (true != guess) & (true > 0) & (guess > 0),
        "missed": (true > 0) & ((guess == 0) | (guess == ignored)),
        "not there": (true == 0) & (guess > 0),
        "not counted": true == ignored,
    }
    colours = np.zeros((*true.shape, 3), np.uint8)
    alpha = np.zeros(true.shape, np.uint8)
    for name, where in kinds.items():
        colours[where] = ERROR_COLOURS[name]
        alpha[where] = 70 if name in {"right class", "not counted"} else 235
    return _rgba_uri(colours, alpha)


def shrink(values: LabelMap, longest: int = LIMIT) -> LabelMap:
    """Nearest-neighbour thumbnail of a map [H, W]: ids are never mixed."""
    height, width = values.shape
    scale = min(1.0, longest / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(values).resize(size, Image.Resampling.NEAREST))


def ramp() -> UInt8Array:
    """uint8 [256, 3], the colours of confidence 0 to 255, interpolated between five colours of viridis."""
    anchors = np.linspace(0, 255, len(_RAMP))
    channels = [np.interp(np.arange(256), anchors, channel) for channel in zip(*_RAMP, strict=True)]
    return np.stack(channels, axis=1).round().astype(np.uint8)


def edges(label: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Pixels [H, W] whose value differs from a neighbour's."""
    border = np.zeros(label.shape, bool)
    across, down = label[:, 1:] != label[:, :-1], label[1:] != label[:-1]
    border[:, 1:] |= across
    border[:, :-1] |= across
    border[1:] |= down
    border[:-1] |= down
    return border


def _rgba_uri(colours: UInt8Array, alpha: NDArray[np.integer]) -> str:
    pixels = np.dstack([colours, alpha.astype(np.uint8)])
    pixels[alpha == 0] = 0
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return _data_uri("image/png", buffer.getvalue())


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"

"""Predictions for one image of any size: in one piece, or by a sliding window where it is large."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from segray.models.precision import PredictPrecision, computing
from segray.models.segmenters.registry import Segmenter
from segray.models.segmenters.views import PLAIN, Views, logits_of_views
from segray.models.tiling import begins

LEAST_SIDE = 128
"""Windows do not become smaller than this when memory runs out."""
_STRIDE = 32
"""Windows begin at multiples of the networks' coarsest stride, so that their maps lie as in the whole."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Window:
    """When and how an image is predicted piece by piece.

    Attributes:
        side: of the sliding window in pixels. Windows overlap by a third of it, and their probabilities are
            blended: a window counts less towards its edges, and nothing at its very edge.
        whole: an image of at most so many pixels is taken in one piece; None: every image is. So is one that
            fits into the window, always.
    """

    side: int = 512
    whole: int | None = None

    def takes_whole(self, height: int, width: int) -> bool:
        """Whether an image of this size is predicted in one piece."""
        fits = height <= self.side and width <= self.side
        return fits or self.whole is None or height * width <= self.whole


@dataclass(frozen=True)
class Inference:
    """How an image is predicted.

    Attributes:
        window: when and how it goes piece by piece; by default in one piece, as long as memory lasts.
        views: of each piece, whose probabilities are averaged.
        precision: that the network computes in; None: as the process computes.
    """

    window: Window = Window()
    views: Views = PLAIN
    precision: PredictPrecision | None = None


WHOLE = Inference()
"""Every image in one piece and as it is, as long as memory lasts."""


def window_of(side: int | None, crop: int) -> Window:
    """The window that a user means.

    Args:
        side: in pixels, for all images that it does not cover; 0: whole images; None: for images larger than
            two windows, each of at least four times the area of a crop.
        crop: side of the crops that the network was trained on.
    """
    if side:
        return Window(side, whole=0)
    usual = max(Window.side, 2 * crop // _STRIDE * _STRIDE)
    return Window(usual, whole=None if side == 0 else 2 * usual * usual)


@dataclass(frozen=True)
class Prediction:
    """Classes of an image.

    Attributes:
        label: class ids [H, W], int16: there are at most 32,766 classes.
        confidence: the probability of that class, [H, W].
    """

    label: Tensor
    confidence: Tensor


def normalised(image: Tensor, network: Segmenter, device: torch.device) -> Tensor:
    """float32 [1, 3, H, W] on the device from uint8 [3, H, W], by the network's own mean and deviation."""
    mean = torch.tensor(network.mean, device=device)[:, None, None]
    std = torch.tensor(network.std, device=device)[:, None, None]
    return ((image.to(device).float() / 255 - mean) / std)[None]


@torch.no_grad()
def predict(
    network: Segmenter,
    image: Tensor,
    inference: Inference = WHOLE,
    warn: Callable[[str], None] | None = None,
) -> Prediction:
    """The most probable class of each pixel of an image uint8 [3, H, W], at its own size.

    With windows, the memory needed grows with the image's width, not with its area. If memory runs out
    nevertheless, windows are used for an image in one piece, and smaller ones for windows.

    Args:
        network: in evaluation mode; its device is used.
        image: RGB.
        inference: how.
        warn: receives a line if memory ran out; None: a line in the log.
    """
    height, width = image.shape[-2:]
    device = next(network.parameters()).device
    label = torch.empty((height, width), dtype=torch.int16, device=device)
    confidence = torch.empty((height, width), device=device)
    while True:
        try:
            _predict_into(label, confidence, network, image, inference)
        except RuntimeError as error:
            smaller = _smaller(inference.window, height, width)
            if not _is_out_of_memory(error) or smaller is None:
                raise
            inference = replace(inference, window=smaller)
        else:
            return Prediction(label, confidence)
        # Here, where the error is gone and with it the tensors of the failed pass.
        torch.cuda.empty_cache()
        size = f"an image of {width} x {height} pixels"
        (warn or _log.warning)(f"not enough memory for {size}: it is predicted in windows of {smaller.side}")


@torch.no_grad()
def image_logits(network: Segmenter, image: Tensor, inference: Inference = WHOLE) -> Tensor:
    """Logits [C, H, W] of an image uint8 [3, H, W], at its own size.

    Args:
        network: in evaluation mode; its device is used.
        image: RGB.
        inference: how; with windows or views, the result is the log of the blended probabilities.
    """
    return torch.cat(list(_bands(network, image, inference)), 1)


def _predict_into(
    label: Tensor, confidence: Tensor, network: Segmenter, image: Tensor, inference: Inference
) -> None:
    """Class ids and probabilities, band by band: as int64, ids would be most of a large image's memory."""
    begin = 0
    for logits in _bands(network, image, inference):
        rows = slice(begin, begin + logits.shape[1])
        label[rows], confidence[rows] = logits.argmax(0), logits.softmax(0).amax(0)
        begin = rows.stop


def _smaller(window: Window, height: int, width: int) -> Window | None:
    """What needs less memory; None if nothing does."""
    if window.takes_whole(height, width):
        side = min(window.side, max(height, width) // 2)
    else:
        side = window.side // 2
    return None if side < LEAST_SIDE else replace(window, side=side, whole=0)


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _bands(network: Segmenter, image: Tensor, inference: Inference) -> Iterator[Tensor]:
    """Logits [C, rows, W] of an image's bands, from top to bottom; one band if it is taken in one piece."""
    device, window = next(network.parameters()).device, inference.window
    height, width = image.shape[-2:]
    if window.takes_whole(height, width):
        yield _piece_logits(network, image, inference)
        return
    columns = _spans(width, window.side, device)
    above = torch.zeros(0, device=device)
    rows = _spans(height, window.side, device)
    for index, row in enumerate(rows):
        band = torch.zeros(0, device=device)
        for column in columns:
            tile = image[:, row.begin : row.end, column.begin : column.end]
            probabilities = _piece_logits(network, tile, inference).softmax(0)
            if not len(band):
                band = torch.zeros(len(probabilities), row.end - row.begin, width, device=device)
            weight = row.weight[:, None] * column.weight
            band[:, :, column.begin : column.end] += probabilities * weight
        if len(above):
            band[:, : above.shape[1]] += above
        done = (rows[index + 1].begin if index + 1 < len(rows) else height) - row.begin
        above = band[:, done:]
        yield band[:, :done].clamp(min=1e-12).log()


def _piece_logits(network: Segmenter, piece: Tensor, inference: Inference) -> Tensor:
    """Logits [C, h, w], float32, of a piece uint8 [3, h, w]."""
    device = next(network.parameters()).device
    with computing(inference.precision, device.type):
        return logits_of_views(network, normalised(piece, network, device), inference.views)


@dataclass(frozen=True)
class _Span:
    """The rows or columns of a window: from `begin` to before `end`, and how much each counts."""

    begin: int
    end: int
    weight: Tensor


def _spans(length: int, side: int, device: torch.device) -> list[_Span]:
    """Windows that cover a length; the weights of each row or column add up to 1."""
    step = max(1, side * 2 // 3)
    stride = _STRIDE if step >= _STRIDE else 1
    step = step // stride * stride
    starts = begins(length, side, step, stride)
    ends = [*(begin + side for begin in starts[:-1]), length]
    weights = [
        _ramp(begin, end, length, side - step).to(device) for begin, end in zip(starts, ends, strict=True)
    ]
    total = torch.zeros(length, device=device)
    for begin, end, weight in zip(starts, ends, weights, strict=True):
        total[begin:end] += weight
    return [
        _Span(begin, end, weight / total[begin:end])
        for begin, end, weight in zip(starts, ends, weights, strict=True)
    ]


def _ramp(begin: int, end: int, length: int, overlap: int) -> Tensor:
    """Weights of a window's rows or columns: 1 in its middle; 0 near an edge that is not the image's.

    A quarter of the overlap counts nothing: there the network sees less than in the whole image.
    """
    place = torch.arange(end - begin) + 0.5
    margin = overlap // 4
    weight = torch.ones(end - begin)
    for distance, at_image_edge in ((place, begin == 0), (place.flip(0), end == length)):
        if not at_image_edge:
            weight *= ((distance - margin) / (overlap - 2 * margin)).clamp(0, 1)
    return weight

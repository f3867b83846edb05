"""The page of `segray masks`: masks over their images, pixels of each class, and what was left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segray.pipelines.printing import visible
from segray.pipelines.reporting.label_set.samples import Legend
from segray.pipelines.reporting.page import bars, percent, render
from segray.pipelines.understood import PixelCounts


@dataclass(frozen=True)
class MaskSample:
    """A mask on the page; images are data URIs.

    Attributes:
        name: of the image.
        size: as text.
        ratio: width / height.
        photo: the image, or "".
        problem: why there is no image.
        label: the mask in colours.
        classes: (name, colour, share of the pixels) of the classes in it; without the background.
        ignored: share of ignored pixels.
    """

    name: str
    size: str
    ratio: float
    photo: str
    problem: str
    label: str
    classes: Sequence[tuple[str, str, float]]
    ignored: float


@dataclass(frozen=True)
class MaskFigures:
    """What was converted.

    Attributes:
        classes: the name of each id.
        palette: uint8 [256 or more, 3].
        pixels: of all masks.
        images: masks that hold each class.
        samples: the masks on the page.
    """

    classes: tuple[str, ...]
    palette: NDArray[np.uint8]
    pixels: PixelCounts
    images: tuple[int, ...]
    samples: tuple[MaskSample, ...]


def page(source: str, figures: MaskFigures, left_out: Sequence[str]) -> str:
    """The page as HTML.

    Args:
        source: the data set, for the title.
        figures: of the converted masks.
        left_out: what was not converted, one line per reason.
    """
    legend = Legend(tuple(map(visible, figures.classes)), figures.palette)
    ids = range(len(figures.classes))
    total = max(1, sum(figures.pixels.pixels))
    return render(
        "masks.html",
        title=visible(source),
        n_masks=figures.pixels.masks,
        ignored=figures.pixels.ignored_share,
        legend=[(name, legend.colour(i)) for i, name in enumerate(legend.names)],
        charts={
            "Share of the pixels": bars(ids, legend, [n / total for n in figures.pixels.pixels], percent),
            "Masks with the class": bars(ids, legend, list(map(float, figures.images)), "{:,.0f}".format),
        },
        left_out=[visible(text) for text in left_out],
        samples=figures.samples,
    )

"""An image of 4 x 6 pixels with three segments, small enough to correct by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segray.models.masks import encode_rle, segment_from_mask
from segray.pipelines.corrections import Correction, Kind, StoredLabel

CLASSES = ("background", "tree", "house")
SIZE = (4, 6)


def picture(text: str) -> NDArray[np.uint8]:
    """uint8 [4, 6] of digits; x is 255."""
    return np.array([[255 if c == "x" else int(c) for c in row] for row in text.split()], np.uint8)


def pixels(text: str) -> NDArray[np.bool_]:
    """bool [4, 6], true where the text has #."""
    return np.array([[c == "#" for c in row] for row in text.split()])


def rle(text: str) -> bytes:
    """The run lengths of `pixels`."""
    return encode_rle(segment_from_mask(pixels(text)), *SIZE)[1]


def segment(number: int, text: str, class_id: int, score: float = 0.3) -> dict[str, Any]:
    """A row of the segments table."""
    return {
        "segment_id": number,
        "area": int(pixels(text).sum()),
        "score": score,
        "class_id": class_id,
        "rle": {"size": list(SIZE), "counts": rle(text)},
        "predicted_iou": 0.9,
        "stability_score": 0.9,
    }


BELOW, ABOVE, HIDDEN = 0, 1, 2
SEGMENTS = (
    segment(BELOW, "####.. ####.. ####.. ####..", 1),
    segment(ABOVE, "..##.. ..##.. ...... ......", 2),
    # Its best class is the background, below the threshold: it was not drawn.
    segment(HIDDEN, "...... .#.... .#.... ......", 0),
)
LABEL = "112200 112200 111100 111100"


def stored() -> StoredLabel:
    """The label as segray draws it, with a confidence of 100."""
    label = picture(LABEL)
    return StoredLabel(label, np.where(label > 0, 100, 0).astype(np.uint8), SEGMENTS, CLASSES, 255)


def key(number: int) -> str:
    """A key; greater numbers are later."""
    return f"20260101T000000{number:06}-00000000"


def correction(number: int, kind: Kind, **changes: Any) -> Correction:
    """A correction of the image."""
    values = {"key": key(number), "image": "a.png", "size": SIZE, "who": "tester"}
    return Correction(kind=kind, **{**values, **changes})

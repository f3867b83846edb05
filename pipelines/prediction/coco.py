"""The objects of predicted label maps, and all of them in one COCO file."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from segray.models.label_map import LabelMap
from segray.models.label_space import LabelSpace
from segray.models.masks import Segment
from segray.pipelines.exporting.base import VAL, Entry, Sample, Target
from segray.pipelines.exporting.coco import Coco, annotation
from segray.pipelines.exporting.objects import objects
from segray.pipelines.training.data.class_names import has_background

FILE = "coco.json"


class PredictedCoco(Coco):
    """COCO's instances with a score. The ids of its categories are those of the masks, id 0 included."""

    def categories(self) -> Iterator[dict[str, object]]:
        """The classes, but for one that means "no class"."""
        first = int(has_background(self.target.classes))
        for i, name in enumerate(self.target.classes[first:], first):
            yield {"id": i, "name": name, "supercategory": name}


def scored_annotations(
    label: LabelMap, levels: NDArray[np.uint8], classes: tuple[str, ...]
) -> list[dict[str, object]]:
    """The objects of a label map, each with the mean of its confidences as `score`.

    Args:
        label: [H, W].
        levels: [H, W], confidences in 255ths.
        classes: the name of each id.

    Raises:
        ValueError: too many objects.
    """
    sample = Sample("", VAL, label, background=has_background(classes))
    return [
        {**annotation(class_id, segment, *label.shape), "score": _score(segment, levels)}
        for class_id, segment in objects(sample)
    ]


def document(classes: tuple[str, ...], entries: Callable[[], Iterator[Entry]]) -> Iterator[bytes]:
    """The COCO file in pieces.

    Args:
        classes: the name of each id.
        entries: the images with their `scored_annotations`; they are asked for twice.
    """
    palette = LabelSpace(classes, ()).palette()
    return PredictedCoco(Target(classes, palette, images=False, counts={})).json(entries)


def _score(segment: Segment, levels: NDArray[np.uint8]) -> float:
    x, y, width, height = segment.box
    return round(float(levels[y : y + height, x : x + width][segment.mask].mean()) / 255, 4)

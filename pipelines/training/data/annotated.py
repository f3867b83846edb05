"""Images whose masks are drawn on demand from the outlines in annotation files."""

from __future__ import annotations

import json
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segray.models.label_space import LabelSpace, is_wide
from segray.pipelines.io import storage
from segray.pipelines.io.images import ImageProblem
from segray.pipelines.training.data.coco_area import area
from segray.pipelines.training.data.coco_masks import Segmentation, check_segmentations
from segray.pipelines.training.data.mask_checks import image_shape
from segray.pipelines.training.data.samples import DataSet, Sample, refuse
from segray.pipelines.understood import PixelCounts

IGNORED = -1
"""In place of a class id: pixels that count for nothing."""
Shape = tuple[int, int, Segmentation]
"""Annotation id, class id (`IGNORED`: its pixels count for nothing) and segmentation."""


class Drawing(NamedTuple):
    """An image in an annotation file.

    Attributes:
        uri: the file.
        mask_id: the image in it, for messages and split files.
        height: of the image in pixels, as the file says.
        width: of the image in pixels, as the file says.
    """

    uri: str
    mask_id: str
    height: int
    width: int


@dataclass
class Annotations:
    """What annotation files say about images, by image_id.

    Attributes:
        drawings: each annotated image.
        shapes: its outlines.
        ordered: whether later outlines lie on top; else smaller ones do.
        left_out: what was not used, by reason: how often, and an example.
    """

    drawings: dict[str, Drawing] = field(default_factory=dict)
    shapes: dict[str, list[Shape]] = field(default_factory=lambda: defaultdict(list))
    ordered: bool = False
    left_out: dict[str, tuple[int, str]] = field(default_factory=dict)

    def leave_out(self, reason: str, example: object) -> None:
        """Count something that is not used."""
        count, first = self.left_out.get(reason, (0, str(example)))
        self.left_out[reason] = (count + 1, first)

    def lines(self) -> list[str]:
        """What is not used, one line per reason."""
        return [
            f"{count} {reason} (such as {example[:80]})" for reason, (count, example) in self.left_out.items()
        ]


class AnnotatedImages(DataSet):
    """Images and their annotations.

    Args:
        root: the data set's folder or URI.
        space: its classes.
        samples: all images by id.
        annotations: of the images that have some.
        train: ids of the training images.
        val: ids of the validation part; None without one.
    """

    def __init__(
        self,
        root: str,
        space: LabelSpace,
        samples: Mapping[str, Sample],
        annotations: Annotations,
        *,
        train: Sequence[str],
        val: Sequence[str] | None,
    ) -> None:
        self.root, self.space, self._annotations = root, space, annotations
        drawn = {
            i: replace(samples[i], mask=d.uri, mask_id=d.mask_id) for i, d in annotations.drawings.items()
        }
        self.samples = dict(sorted({**samples, **drawn}.items()))
        self.train, self.val = train, val
        self.candidates = [i for i in train if self.samples[i].mask]
        self.left_out = annotations.lines()

    def with_mask(self, sample: Sample, mask_id: str) -> Sample | None:  # noqa: ARG002  masks come from annotations
        """The sample itself: published split files name PNG masks, but its mask comes from annotations."""
        return sample if sample.mask else None

    def contents(self, samples: Sequence[Sample]) -> list[frozenset[int]]:
        """The classes of each image's annotations, see `DataSet.contents`; no file is read."""
        return [frozenset(shape[1] for shape in self._shapes(s)) - {IGNORED} for s in samples]

    def pixels(self, samples: Sequence[Sample]) -> PixelCounts:
        """Pixels of each class by the areas of its annotations, see `DataSet.pixels`; no mask is rendered."""
        counts = [self._areas(sample) for sample in samples]
        return PixelCounts.of(counts, len(self.space.classes), len(self.space.classes))

    def check(self, samples: Sequence[Sample]) -> None:
        """Compare annotations with the images' headers, see `DataSet.check`; no mask is rendered."""
        refuse(list(self.problems(samples).values()), "bad masks or images")

    def problems(self, samples: Sequence[Sample]) -> dict[str, str]:
        """What is wrong with the annotations of each bad image, see `DataSet.problems`."""
        return {sample.image_id: problem for sample in samples if (problem := self._problem(sample))}

    def ready(self, samples: Iterable[Sample]) -> tuple[Sample, ...]:
        """The samples with their annotations."""
        return tuple(
            replace(sample, shapes=self._pack(sample)) if sample.mask else sample for sample in samples
        )

    def _shapes(self, sample: Sample) -> list[Shape]:
        return self._annotations.shapes.get(sample.image_id, [])

    def _areas(self, sample: Sample) -> NDArray[np.int64]:
        """Pixels of each class in an image, and of ignored ones at the end; overlaps count for each."""
        drawing = self._annotations.drawings[sample.image_id]
        counts = np.zeros(len(self.space.classes) + 1, np.int64)
        for _, class_id, segmentation in self._shapes(sample):
            counts[class_id] += area(segmentation)
        counts[0] = max(0, drawing.height * drawing.width - int(counts[1:].sum()))
        return counts

    def _pack(self, sample: Sample) -> bytes:
        drawing = self._annotations.drawings[sample.image_id]
        packed = {"size": [drawing.height, drawing.width], "shapes": self._shapes(sample)}
        if self._annotations.ordered:
            packed["ordered"] = True
        if is_wide(len(self.space.classes)):
            packed["wide"] = True
        return zlib.compress(json.dumps(packed, separators=(",", ":")).encode())

    def _problem(self, sample: Sample) -> str | None:
        if sample.mask is None:
            return f"image {sample.image_id} is in no annotation file of {storage.display(self.root)}"
        drawing = self._annotations.drawings[sample.image_id]
        try:
            height, width = image_shape(sample.image)
        except ImageProblem as problem:
            return f"image {sample.image}: {problem.reason}"
        if (height, width) == (drawing.height, drawing.width):
            return self._shape_problem(sample, height, width)
        sizes = f"{drawing.width}x{drawing.height} pixels, its image {sample.image} {width}x{height}"
        return f"{sample.mask_id} is {sizes}; both must have the same size"

    def _shape_problem(self, sample: Sample, height: int, width: int) -> str | None:
        shapes = self._shapes(sample)
        try:
            check_segmentations([(number, segmentation) for number, _, segmentation in shapes], height, width)
        except ValueError as problem:
            return f"{sample.mask_id}{problem}"
        return None

"""Corrections of the label set in training: images that a person calls good are labelled images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from segray.models.label_space import ignore_index_of
from segray.pipelines.corrections.correction import Correction, by_image
from segray.pipelines.corrections.log import CORRECTIONS
from segray.pipelines.corrections.store import CorrectedStore
from segray.pipelines.io import storage
from segray.pipelines.io.label_png import encode_gray_png
from segray.pipelines.label_set.schema import class_pixels
from segray.pipelines.training.data.class_names import class_id_table
from segray.pipelines.training.data.samples import Sample
from segray.pipelines.understood import PixelCounts


@dataclass(frozen=True)
class CorrectedImages:
    """What corrections say of images that may be trained on.

    Attributes:
        good: images that are right as a whole, labelled ones; each has `by_hand`.
        pixels: of their masks.
        partly: how many others have pixels whose class is by hand.
    """

    good: tuple[Sample, ...]
    pixels: PixelCounts
    partly: int

    def line(self, labels: str) -> str:
        """How many there are, for the summary of the data."""
        n = len(self.good)
        return (
            f"{n + self.partly} corrected image{'s' * (n + self.partly != 1)} of {storage.display(labels)}: "
            f"{n} good, labelled besides data.labelled; {self.partly} unlabelled, with pixels by hand"
        )


def corrected_images(
    candidates: Iterable[Sample], root: str, corrections: Sequence[Correction], classes: Sequence[str]
) -> CorrectedImages:
    """The images that a person has called good, with their corrected labels as masks.

    The others are no labelled images: a few sparse masks among few whole ones would be most of what a network
    sees as labelled. Their pixels by hand hold in the labels of the unlabelled images, see
    `PseudoLabel.with_given`.

    Args:
        candidates: images that may be trained on, matched with the label set, without a mask in use.
        root: folder or URI of the label set.
        corrections: of the label set.
        classes: of the data set.

    Raises:
        UserError: a correction that does not fit its image.
    """
    samples = {sample.stored_id: sample for sample in candidates if sample.stored_id}
    store = CorrectedStore(root, by_image(corrections))
    table = class_id_table(store.provenance["classes"], classes, store.ignore_index, storage.display(root))
    unknown = ignore_index_of(len(classes))
    found: dict[str, Sample] = {}
    counts: list[NDArray[np.int64]] = []
    partly = 0
    for image_id, corrected in store.corrected_labels(samples):
        mask = table[corrected.trusted(store.ignore_index)]
        if not (mask != unknown).any():
            continue
        if not corrected.good:
            partly += 1
            continue
        counts.append(class_pixels(mask, len(classes)))
        sample = samples[image_id]
        found[sample.image_id] = replace(
            sample, mask=storage.join(root, CORRECTIONS), mask_id=None, by_hand=encode_gray_png(mask)
        )
    ordered = tuple(found[image_id] for image_id in sorted(found))
    return CorrectedImages(ordered, PixelCounts.of(counts, len(classes), len(classes)), partly)


def together(one: PixelCounts, other: PixelCounts) -> PixelCounts:
    """The counts of both."""
    pixels = (
        tuple(a + b for a, b in zip(one.pixels, other.pixels, strict=True)) if other.masks else one.pixels
    )
    return PixelCounts(one.masks + other.masks, pixels, one.ignored + other.ignored)

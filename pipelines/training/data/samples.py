"""An image as training sees it, and the data sets that such images come from."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from segray.models.label_space import LabelSpace
from segray.pipelines.corrections.correction import Correction
from segray.pipelines.errors import UserError
from segray.pipelines.io.images import ImageOptions
from segray.pipelines.io.sources import image_digest
from segray.pipelines.masks.folder import shown_mask
from segray.pipelines.masks.options import IDS, MaskOptions
from segray.pipelines.understood import PixelCounts

READ = ImageOptions(min_size=1, frames="first", check_span=False)
"""How training reads images: it accepts every image that annotation could accept."""


@dataclass(frozen=True)
class Sample:
    """One image.

    Attributes:
        image_id: POSIX path under the data set's root, such as `images/train/0001.png`.
        image: path or URI of the file.
        mask: path or URI of the file that holds its mask; None without a mask.
        mask_id: the mask's path under the root, as split files name it.
        options: how the mask is read.
        shapes: its annotations in COCO, packed (`coco_masks.render_label_map`); None if `mask` is a PNG.
        by_hand: its mask by corrections of the label set, as a PNG of the data set's ids; None: another mask.
            An unlabelled image has it, too, if a person calls it good.
        label_id: its image_id in the label set, if that is another; "" if it has none there.
        read: how the image is decoded.
        size: bytes of the file; 0 where unknown.
        outside: the image is not in the data set; its image_id counts from its own source.
    """

    image_id: str
    image: str
    mask: str | None = None
    mask_id: str | None = None
    options: MaskOptions = IDS
    shapes: bytes | None = None
    by_hand: bytes | None = None
    label_id: str | None = None
    read: ImageOptions = READ
    size: int = 0
    outside: bool = False

    @property
    def shown_mask(self) -> str:
        """The file that holds its mask, for messages."""
        return shown_mask(self.mask or "", self.mask_id or "")

    @property
    def stored_id(self) -> str:
        """Its image_id in the label set; "" if it has none there."""
        return self.image_id if self.label_id is None else self.label_id


def sample_digest(sample: Sample) -> str | None:
    """sha256 of a sample's image; None if it cannot be read."""
    return image_digest(sample.image, sample.read.roots, follow=sample.read.follow_links)


@dataclass(frozen=True)
class TrainingData:
    """Images that were checked and are ready to be read.

    Attributes:
        space: the meaning of the class ids in the masks; void is its `ignore_index`.
        labelled: each has a mask.
        unlabelled: masks, if they have any, are not read, but for `by_hand`.
        validation: each has a mask.
        labelled_pixels: of the labelled images' masks.
        validation_pixels: of the validation images' masks.
        left_out: what the data set has and training does not use, with reasons.
        matched: how many images have a zero-shot label, and how they were found, one line per part.
        source: where the unlabelled images are, if they are not in the data set.
        label_set: fingerprint of the label set, see `label_join.LabelSet`; None without one.
        corrections: of the label set, as they were when the run began.
        corrected: how many images they say something of; "" without any.
    """

    space: LabelSpace
    labelled: tuple[Sample, ...]
    unlabelled: tuple[Sample, ...]
    validation: tuple[Sample, ...]
    labelled_pixels: PixelCounts
    validation_pixels: PixelCounts
    left_out: tuple[str, ...] = ()
    matched: tuple[str, ...] = ()
    source: str | None = None
    label_set: str | None = None
    corrections: tuple[Correction, ...] = ()
    corrected: str = ""


class DataSet(ABC):
    """The images of a data set, and its own division into parts.

    Attributes:
        root: its folder or URI.
        space: its classes.
        samples: all images by image_id, ascending.
        train: ids of the training images.
        candidates: ids of the training images that labelled ones are sampled from; each has a mask.
        val: ids of its own validation part; None without one.
        left_out: what it has and cannot be used, one line per reason.
    """

    root: str
    space: LabelSpace
    samples: Mapping[str, Sample]
    train: Sequence[str]
    candidates: Sequence[str]
    val: Sequence[str] | None
    left_out: Sequence[str] = ()

    @abstractmethod
    def with_mask(self, sample: Sample, mask_id: str) -> Sample | None:
        """The sample with the mask that a split file names; None if there is no such mask."""

    @abstractmethod
    def contents(self, samples: Sequence[Sample]) -> list[frozenset[int]]:
        """The class ids in each sample's mask without void; balanced sampling uses them.

        Raises:
            UserError: as `check`, for the masks that had to be read.
        """

    @abstractmethod
    def pixels(self, samples: Sequence[Sample]) -> PixelCounts:
        """Pixels of each class in the samples' masks.

        Raises:
            UserError: as `check`, for the masks that had to be read.
        """

    @abstractmethod
    def check(self, samples: Sequence[Sample]) -> None:
        """Make sure that each sample has an image and a valid mask of the same size.

        Raises:
            UserError: one line per bad mask, see `refuse`.
        """

    @abstractmethod
    def problems(self, samples: Sequence[Sample]) -> dict[str, str]:
        """As `check`, without raising: by image_id what is wrong."""

    def ready(self, samples: Iterable[Sample]) -> tuple[Sample, ...]:
        """The samples with everything that is needed to load them on another machine."""
        return tuple(samples)


_PLACE = re.compile(r" \(first at x=\d+, y=\d+\)")
SHOWN = 20
"""Problems that a message lists; the others are counted."""


def refuse(problems: Sequence[str], what: str) -> None:
    """Raise all problems as one error, one per line; do nothing without problems.

    Raises:
        UserError: at most `SHOWN` lines, and the number of the others.
    """
    if not problems:
        return
    if len(problems) == 1:
        raise UserError(problems[0])
    more = [f"... and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
    raise UserError("\n  ".join([f"{len(problems)} {what}:", *problems[:SHOWN], *more]))


def grouped(problems: Sequence[tuple[Sample, str]]) -> list[str]:
    """One line for many masks with the same problem, as a folder of colour masks has."""
    lines: list[str] = []
    alike: dict[str, list[tuple[str, str]]] = {}
    for sample, text in problems:
        start = f"mask {sample.shown_mask}"
        if text.startswith(start):
            reason = text.removeprefix(start)
            alike.setdefault(_PLACE.sub("", reason), []).append((start, reason))
        else:
            lines.append(text)
    for masks in alike.values():
        (mask, reason), *others = masks
        lines.append(f"{mask}{f' and {len(others)} others' if others else ''}{reason}")
    return lines

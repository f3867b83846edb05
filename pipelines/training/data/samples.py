"""An image as training sees it, and the data sets that such images come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from segray.models.label_space import IGNORE_INDEX, LabelSpace
from segray.pipelines.errors import UserError
from segray.pipelines.io.images import ImageOptions

READ = ImageOptions(min_size=1, frames="first")
"""How training reads pictures: whatever annotation could take."""


@dataclass(frozen=True)
class Item:
    """One image.

    Attributes:
        image_id: POSIX path under the data set's root, such as `images/train/0001.png`.
        image: path or URI of the file.
        mask: path or URI of the file that holds its mask; None without one.
        mask_id: the mask's path under the root, as split files name it.
        void: id of the mask's pixels that count for nothing; they are read as 255.
        shapes: COCO's annotations of this image, packed (`coco.paint`); None where `mask` is a PNG.
        label_id: its image_id in the label set, where that is another one.
    """

    image_id: str
    image: str
    mask: str | None = None
    mask_id: str | None = None
    void: int = IGNORE_INDEX
    shapes: bytes | None = None
    label_id: str | None = None


@dataclass(frozen=True)
class TrainingData:
    """Images that were checked and are ready to be read.

    Attributes:
        space: what the ids of the masks mean, once void is 255.
        labelled: each has a mask.
        unlabelled: masks, where they have any, are not looked at.
        validation: each has a mask.
    """

    space: LabelSpace
    labelled: tuple[Item, ...]
    unlabelled: tuple[Item, ...]
    validation: tuple[Item, ...]


class DataSet(ABC):
    """The images of a data set and its own division into parts.

    Attributes:
        root: its folder or URI.
        space: its classes.
        items: all images by image_id, ascending.
        train: ids of the training images.
        candidates: those of them that labelled images are drawn from; each has a mask.
        val: ids of its own validation part; None without one.
    """

    root: str
    space: LabelSpace
    items: Mapping[str, Item]
    train: Sequence[str]
    candidates: Sequence[str]
    val: Sequence[str] | None

    @abstractmethod
    def with_mask(self, item: Item, mask_id: str) -> Item | None:
        """The item with the mask that a split file names; None where there is no such mask."""

    @abstractmethod
    def contents(self, items: Sequence[Item]) -> list[frozenset[int]]:
        """The class ids in each item's mask, void left out: what a draw goes by.

        Raises:
            UserError: as `check`, for the masks that had to be read.
        """

    @abstractmethod
    def check(self, items: Sequence[Item]) -> None:
        """Make sure that each item has an image and a sound mask of the same size.

        Raises:
            UserError: one line a bad mask, see `refuse`.
        """

    def ready(self, items: Iterable[Item]) -> tuple[Item, ...]:
        """The items with all that is needed to load them on another machine."""
        return tuple(items)


SHOWN = 20
"""Problems that a message lists; the rest is counted."""


def refuse(problems: Sequence[str], what: str) -> None:
    """Raise all problems as one error, one line each; nothing where there is none.

    Raises:
        UserError: at most `SHOWN` lines and how many more there are.
    """
    if not problems:
        return
    if len(problems) == 1:
        raise UserError(problems[0])
    more = [f"... and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
    raise UserError("\n  ".join([f"{len(problems)} {what}:", *problems[:SHOWN], *more]))

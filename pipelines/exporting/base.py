"""What a format of `segray export` is: names of files, the labels of one image, and the files about all."""

from __future__ import annotations

import json
import posixpath
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from segray.models.label_map import LabelMap
from segray.models.label_space import ignore_index_of
from segray.models.masks import Segment

TRAIN, VAL = SPLITS = ("train", "val")


@dataclass(frozen=True)
class Target:
    """What all images of an export have in common.

    Attributes:
        classes: the name of each class id; id 0 is the background.
        palette: uint8 [256 or more, 3], the colours of the ids.
        images: whether image files are part of the export.
        counts: images of each split.
        facts: what made the labels, as (name, value) lines.
        set_id: of the label set, for tasks that come back.
    """

    classes: tuple[str, ...]
    palette: NDArray[np.uint8]
    images: bool
    counts: Mapping[str, int]
    facts: tuple[tuple[str, str], ...] = ()
    set_id: str = ""

    @property
    def ignore_index(self) -> int:
        """The id of ignored pixels: 255, or 65535 with more than 254 classes."""
        return ignore_index_of(len(self.classes))

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that have images."""
        return tuple(split for split in SPLITS if self.counts.get(split))


@dataclass(frozen=True)
class Sample:
    """A labelled image.

    Attributes:
        image_id: its path under the root of the images.
        split: train or val.
        label: [H, W], class ids of the export; the highest number of its type for ignored pixels.
        segments: (class id, segment), what is on top last; None: objects are connected pixels.
        image: the file's bytes, for formats with shards only.
        background: whether id 0 means "no class".
    """

    image_id: str
    split: str
    label: LabelMap
    segments: tuple[tuple[int, Segment], ...] | None = None
    image: bytes | None = None
    background: bool = True

    @property
    def nothing(self) -> tuple[int, ...]:
        """The ids that are no object."""
        return (0, self.ignore_index) if self.background else (self.ignore_index,)

    @property
    def ignore_index(self) -> int:
        """The id of ignored pixels."""
        return int(np.iinfo(self.label.dtype).max)


@dataclass(frozen=True)
class Encoded:
    """A sample in a format.

    Attributes:
        file: the bytes of its label file; None without one.
        data: what `Format.finish` needs of it, as JSON.
        row: what `Format.shard` needs of it.
        lost: pixels of classes that the format cannot keep.
    """

    file: bytes | None = None
    data: Any = None
    row: Mapping[str, Any] = field(default_factory=dict)
    lost: int = 0


class Entry(TypedDict):
    """What is kept of an exported image until the last files are written.

    `class_pixels` are the pixels of each of `class_ids`, among them those that are ignored.
    """

    image_id: str
    split: str
    width: int
    height: int
    class_ids: list[int]
    class_pixels: list[int]
    lost: int
    data: Any


Entries = Callable[[str], Iterator[Entry]]
"""The images of a split, in the order of the label set; they can be asked for again and again."""
File = tuple[str, Iterable[bytes]]
"""A path under the export's folder, and the content in pieces."""


class Format(ABC):
    """A layout. It touches no file: paths and bytes go to the one loop that writes.

    Args:
        target: what all images have in common.
    """

    in_shards = False
    """Images travel as rows of `shard`, not as files of their own."""
    has_objects = False
    """The format holds single objects, not label maps alone."""
    wide = True
    """Ids may need 16 bits."""

    def __init__(self, target: Target) -> None:
        self.target = target

    @abstractmethod
    def image_path(self, image_id: str, split: str) -> str:
        """Where the image goes, under the export's folder; in shards the image's own name."""

    def label_path(self, image_id: str, split: str) -> str | None:  # noqa: ARG002  the formats' signature
        """Where the image's label file goes; None if it has none of its own."""
        return None

    @abstractmethod
    def encode(self, sample: Sample) -> Encoded:
        """One image's labels.

        Raises:
            ValueError: the format cannot hold them.
        """

    def shard(self, part: str, split: str, rows: list[Mapping[str, Any]]) -> tuple[str, bytes]:
        """Path and bytes of the shard of the images of one part of the label set, if `in_shards`."""
        raise NotImplementedError

    @abstractmethod
    def finish(self, entries: Entries) -> Iterator[File]:
        """The files about all images."""

    def losses(self, ignored: int, lost: int) -> Iterator[str]:  # noqa: ARG002
        """What the files do not hold of the label maps, one line each.

        Args:
            ignored: pixels that are ignored.
            lost: the sum of `Encoded.lost`.
        """
        yield from ()


def class_names(target: Target) -> File:
    """class_names.txt: one name per line, the first is id 0."""
    return "class_names.txt", [f"{name}\n".encode() for name in target.classes]


def stem(image_id: str) -> str:
    """The id without its file's ending."""
    return posixpath.splitext(image_id)[0]


def document(head: Mapping[str, Any], lists: Mapping[str, Iterable[Any]]) -> Iterator[bytes]:
    """A JSON object in pieces: the head's keys, then lists of any length, one item per line."""
    text = json.dumps(dict(head), indent=1)
    yield text[:-2].encode()
    for name, items in lists.items():
        yield f",\n {json.dumps(name)}: [".encode()
        for number, item in enumerate(items):
            comma = "," if number else ""
            yield f"{comma}\n  {json.dumps(item, separators=(',', ':'))}".encode()
        yield b"\n ]"
    yield b"\n}\n"

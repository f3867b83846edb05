"""Cityscapes' layout: one folder per city, label ids in gtFine."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from segray.models.label_space import IGNORE_INDEX, name_key
from segray.pipelines.exporting.base import (
    Encoded,
    Entries,
    File,
    Format,
    Sample,
    Target,
    class_names,
    stem,
)
from segray.pipelines.io.label_png import encode_gray_png

_NAMES = (
    "ego vehicle,rectification border,out of roi,static,dynamic,ground,road,sidewalk,parking,rail track,"
    "building,wall,fence,guard rail,bridge,tunnel,pole,polegroup,traffic light,traffic sign,vegetation,"
    "terrain,sky,person,rider,car,truck,bus,caravan,trailer,train,motorcycle,bicycle"
)
LABEL_IDS = {name: number for number, name in enumerate(_NAMES.split(","), 1)}
"""Cityscapes' own ids, which its tools turn into train ids; 0 is "unlabeled"."""


class Cityscapes(Format):
    """leftImg8bit/SPLIT/CITY/NAME_leftImg8bit.*, gtFine/SPLIT/CITY/NAME_gtFine_labelIds.png, labels.json.

    The city is the image's folder, with _ for /. If Cityscapes has all of the classes, ids are its own, and
    ignored pixels are "unlabeled"; else they are those of the export.
    """

    wide = False

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self.own_ids = all(name_key(name) in LABEL_IDS for name in target.classes[1:])
        self._table = self._ids()

    def image_path(self, image_id: str, split: str) -> str:
        """Next to the other images of its city."""
        _, ending = posixpath.splitext(image_id)
        return f"leftImg8bit/{split}/{_place(image_id)}_leftImg8bit{ending}"

    def label_path(self, image_id: str, split: str) -> str:
        """Next to the other label maps of its city."""
        return f"gtFine/{split}/{_place(image_id)}_gtFine_labelIds.png"

    def encode(self, sample: Sample) -> Encoded:
        """The map, with the ids of the table."""
        return Encoded(encode_gray_png(self._table[sample.label]))

    def finish(self, entries: Entries) -> Iterator[File]:  # noqa: ARG002  the formats' signature
        """The names of the ids."""
        labels = [
            {"id": int(self._table[i]), "name": name, "color": self.target.palette[i].tolist()}
            for i, name in enumerate(self.target.classes)
        ]
        yield "labels.json", [json.dumps(labels, indent=1).encode(), b"\n"]
        if not self.own_ids:
            yield class_names(self.target)

    def losses(self, ignored: int, lost: int) -> Iterator[str]:  # noqa: ARG002
        """Cityscapes has one id for background and ignored pixels."""
        if self.own_ids and ignored:
            yield f'{ignored:,} ignored pixels are id 0, "unlabeled", as the background'

    def _ids(self) -> NDArray[np.uint8]:
        table = np.arange(256, dtype=np.uint8)
        if self.own_ids:
            table[IGNORE_INDEX] = 0
            for i, name in enumerate(self.target.classes[1:], 1):
                table[i] = LABEL_IDS[name_key(name)]
        return table


def _place(image_id: str) -> str:
    """CITY/NAME: tools list one level of folders."""
    folder, name = posixpath.split(stem(image_id))
    return f"{folder.replace('/', '_') or 'images'}/{name}"

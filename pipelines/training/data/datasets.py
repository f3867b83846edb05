"""Images and their maps as torch tensors, read one by one from any process."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from segray.models.label_space import IGNORE_INDEX
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.images import ImageProblem, decode, decode_gray_png
from segray.pipelines.io.sources import read_image
from segray.pipelines.label_set.store import LabelStore
from segray.pipelines.training.data.class_names import translation
from segray.pipelines.training.data.coco import paint
from segray.pipelines.training.data.samples import READ, Item
from segray.pipelines.training.data.stored_labels import StoredLabels

_log = logging.getLogger(__name__)


class LabelledImages(Dataset[tuple[Tensor, Tensor]]):
    """Images with their masks: (uint8 [3, H, W], uint8 [H, W]), void as 255.

    An item raises `UserError` where a file has changed since it was checked.
    """

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = tuple(items)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        item = self.items[index]
        try:
            image = _image(item)
        except ImageProblem as problem:
            raise UserError(f"image {item.image}: {problem.reason}") from None
        mask = torch.from_numpy(_mask(item))
        if mask.shape != image.shape[1:]:
            raise UserError(f"mask {item.mask} no longer has the size of its image {item.image}")
        return image, mask


class UnlabelledImages(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Images with zero-shot labels: (uint8 [3, H, W], label uint8 [H, W], confidence uint8 [H, W]).

    Where nothing is known, the label is 255 and the confidence 0: images without an ok row, the label set's
    ignored pixels, and its "no class" where the data set has a class for every pixel. In place of an image
    that cannot be read comes the next one that can, and the log says so. Pickles without open files.

    Args:
        items: the images.
        labels: folder or URI of the label set; None: all labels are unknown.
        classes: the data set's classes, which the label set's must be.

    Raises:
        UserError: the label set has other classes.
        DamagedPartError: a part of it cannot be read.
    """

    def __init__(self, items: Sequence[Item], labels: str | None, classes: Sequence[str]) -> None:
        self.items = tuple(items)
        self._labels: StoredLabels | None = None
        if labels is not None:
            about = LabelStore(labels).provenance
            ignore = int(about.get("ignore_index", IGNORE_INDEX))
            self._ids = translation(about["classes"], classes, ignore, storage.display(labels))
            self._labels = StoredLabels(labels, [item.label_id or item.image_id for item in self.items])
        self._unreadable: set[str] = set()

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        for item in (*self.items[index:], *self.items[:index]):
            try:
                image = _image(item)
            except ImageProblem as problem:
                self._note(item, problem)
                continue
            return image, *self._label(item, (image.shape[1], image.shape[2]))
        raise UserError("none of the unlabelled images can be read")

    def labels(self, index: int) -> tuple[Tensor, Tensor] | None:
        """Label and confidence alone, without reading the image; None where there are none."""
        found = self._stored(self.items[index])
        return None if found is None else (torch.from_numpy(found[0]), torch.from_numpy(found[1]))

    def _label(self, item: Item, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        found = self._stored(item)
        if found is None:
            return torch.full(shape, IGNORE_INDEX, dtype=torch.uint8), torch.zeros(shape, dtype=torch.uint8)
        label, confidence = found
        if label.shape != shape or confidence.shape != shape:
            sizes = f"{label.shape[1]}x{label.shape[0]} pixels, the image {item.image} {shape[1]}x{shape[0]}"
            raise UserError(
                f"the zero-shot label of {item.label_id or item.image_id} is {sizes}; annotate anew"
            )
        return torch.from_numpy(label), torch.from_numpy(confidence)

    def _stored(self, item: Item) -> tuple[NDArray[np.uint8], NDArray[np.uint8]] | None:
        pngs = self._labels.read(item.label_id or item.image_id) if self._labels else None
        if pngs is None:
            return None
        label = self._ids[decode_gray_png(pngs[0])]
        return label, np.where(label == IGNORE_INDEX, np.uint8(0), decode_gray_png(pngs[1]))

    def _note(self, item: Item, problem: ImageProblem) -> None:
        if item.image not in self._unreadable:
            self._unreadable.add(item.image)
            _log.warning("unlabelled image %s is passed over: %s", item.image, problem.reason)


def _image(item: Item) -> Tensor:
    return torch.from_numpy(decode(read_image(item.image), READ)).permute(2, 0, 1).contiguous()


def _mask(item: Item) -> NDArray[np.uint8]:
    if item.shapes is not None:
        return paint(item.shapes)
    if item.mask is None:
        raise UserError(f"image {item.image_id} has no mask")
    try:
        mask = decode_gray_png(storage.read_bytes(item.mask))
    except (OSError, ValueError) as problem:
        raise UserError(f"mask {item.mask}: {problem}") from None
    return np.where(mask == item.void, np.uint8(IGNORE_INDEX), mask)

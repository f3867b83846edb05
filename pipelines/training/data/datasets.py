"""Images and their maps as torch tensors, read one by one in any process."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from segray.models.label_map import LabelMap, label_dtype
from segray.models.label_space import ignore_index_of
from segray.pipelines.corrections.apply import SURE
from segray.pipelines.corrections.correction import Correction, by_image
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.images import ImageProblem, decode
from segray.pipelines.io.label_png import decode_gray_png, decode_label_png, png_bits
from segray.pipelines.io.sources import read_allowed
from segray.pipelines.label_set.store import LabelStore
from segray.pipelines.training.data.class_names import class_id_table
from segray.pipelines.training.data.coco_masks import render_label_map
from segray.pipelines.training.data.samples import Sample
from segray.pipelines.training.data.segment_maps import SegmentMaps
from segray.pipelines.training.data.stored_labels import StoredLabels

_log = logging.getLogger(__name__)


class LabelledImages(Dataset[tuple[Tensor, Tensor]]):
    """Images with their masks: (uint8 [3, H, W], [H, W] as of `map_tensor`), void as `ignore_index_of`.

    Reading an sample raises a `UserError` if a file has changed since it was checked.

    Args:
        samples: each has a mask.
    """

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = tuple(samples)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        sample = self.samples[index]
        try:
            image = _image(sample)
        except ImageProblem as problem:
            raise UserError(f"image {sample.image}: {problem.reason}") from None
        mask = map_tensor(read_mask(sample))
        if mask.shape != image.shape[1:]:
            raise UserError(f"mask {sample.shown_mask} no longer has the size of its image {sample.image}")
        return image, mask


class UnlabelledImages(Dataset[tuple[Tensor, ...]]):
    """Images with zero-shot labels: (uint8 [3, H, W], label as of `map_tensor`, confidence uint8 [H, W]).

    With `segments` a fourth item has the numbers of the label set's segments, int16 [H, W].

    A pixel without a known class has the label `ignore_index_of` and the confidence 0: in images without an
    ok row, where the label set ignores a pixel, and where it has "no class" while the data set has a class
    for every pixel. Pixels whose class is by hand have the confidence `SURE`, and no others have it. An image
    that cannot be read is replaced by the next one that can, with a warning. Pickles without open files.

    Args:
        samples: the images.
        labels: folder or URI of the label set; None: all labels are unknown.
        classes: the data set's classes; the label set must have the same.
        corrections: of the label set.
        segments: whether the segments come along; needs `labels`.

    Raises:
        UserError: the label set has other classes, or no segments.
        DamagedPartError: a part of the label set cannot be read.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        labels: str | None,
        classes: Sequence[str],
        corrections: Sequence[Correction] = (),
        *,
        segments: bool = False,
    ) -> None:
        self.samples = tuple(samples)
        ids = [sample.stored_id for sample in self.samples]
        self._labels: StoredLabels | None = None
        self._unknown = ignore_index_of(len(classes))
        if labels is not None:
            store = LabelStore(labels)
            self._ignore, stored = store.ignore_index, store.provenance["classes"]
            self._ids = class_id_table(stored, classes, self._ignore, storage.display(labels))
            others = [sample.stored_id for sample in self.samples if sample.by_hand is None]
            self._labels = StoredLabels(labels, others, corrections=by_image(corrections))
        self._segments = SegmentMaps(labels, ids) if segments and labels is not None else None
        self._unreadable: set[str] = set()

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        for sample in (*self.samples[index:], *self.samples[:index]):
            try:
                image = _image(sample)
            except ImageProblem as problem:
                self._warn_once(sample, problem)
                continue
            shape = image.shape[1], image.shape[2]
            return image, *self._label(sample, shape), *self._numbers(sample, shape)
        raise UserError("none of the unlabelled images can be read")

    def labels(self, index: int) -> tuple[Tensor, Tensor] | None:
        """Label and confidence without reading the image; None if the image has no label."""
        stored = self._stored(self.samples[index])
        return None if stored is None else (map_tensor(stored[0]), torch.from_numpy(stored[1]))

    def _label(self, sample: Sample, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        stored = self._stored(sample, shape)
        if stored is None:
            unknown = np.full(shape, self._unknown, label_dtype(self._unknown))
            return map_tensor(unknown), torch.zeros(shape, dtype=torch.uint8)
        return map_tensor(stored[0]), torch.from_numpy(stored[1])

    def _numbers(self, sample: Sample, shape: tuple[int, int]) -> tuple[Tensor, ...]:
        if self._segments is None:
            return ()
        return (torch.from_numpy(self._segments.read(sample.stored_id, shape)),)

    def _stored(
        self, sample: Sample, shape: tuple[int, int] | None = None
    ) -> tuple[LabelMap, NDArray[np.uint8]] | None:
        if sample.by_hand is not None:
            return self._given(sample, sample.by_hand, shape)
        pngs = self._labels.read(sample.stored_id) if self._labels else None
        if self._labels is None or pngs is None:
            return None
        try:
            label = self._ids[decode_label_png(pngs[0], shape, self._ignore)]
            confidence = decode_gray_png(pngs[1], (label.shape[0], label.shape[1]))
        except ValueError as problem:
            name = sample.stored_id
            raise UserError(f"the zero-shot label of {name}: {problem}; annotate it again") from None
        confidence[label == self._unknown] = 0
        if sample.stored_id not in self._labels.corrected:
            np.minimum(confidence, SURE - 1, out=confidence)
        return label, confidence

    def _given(
        self, sample: Sample, by_hand: bytes, shape: tuple[int, int] | None
    ) -> tuple[LabelMap, NDArray[np.uint8]]:
        try:
            label = decode_label_png(by_hand, shape, self._unknown)
        except ValueError as problem:
            raise UserError(f"the corrected label of {sample.stored_id}: {problem}") from None
        return label, np.where(label == self._unknown, 0, SURE).astype(np.uint8)

    def _warn_once(self, sample: Sample, problem: ImageProblem) -> None:
        if sample.image not in self._unreadable:
            self._unreadable.add(sample.image)
            _log.warning("unlabelled image %s is skipped: %s", sample.image, problem.reason)


def _image(sample: Sample) -> Tensor:
    data = read_allowed(sample.image, sample.read.roots, follow=sample.read.follow_links)
    return torch.from_numpy(decode(data, sample.read)).permute(2, 0, 1).contiguous()


def map_tensor(label: LabelMap) -> Tensor:
    """A label map as uint8, or as int32 where its ids have 16 bits: torch does little with uint16."""
    return torch.from_numpy(label if label.dtype == np.uint8 else label.astype(np.int32))


def read_mask(sample: Sample) -> LabelMap:
    """The mask of a sample that is ready, [H, W], void as `ignore_index_of`.

    Raises:
        UserError: there is none, or the file has changed since it was checked.
    """
    if sample.by_hand is not None:
        return decode_label_png(sample.by_hand, None, (1 << png_bits(sample.by_hand)) - 1)
    if sample.shapes is not None:
        return render_label_map(sample.shapes)
    if sample.mask is None:
        raise UserError(f"image {sample.image_id} has no mask")
    try:
        options = sample.options
        return options.label_map(options.ids(options.read(sample.mask)), options.most_ids)
    except ValueError as problem:
        raise UserError(f"mask {sample.shown_mask}: {problem}") from None

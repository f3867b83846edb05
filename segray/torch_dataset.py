"""A label set as a torch data set of images and label maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from segray.pipelines.corrections.log import CorrectionLog
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.images import ImageOptions, ImageProblem, decode
from segray.pipelines.io.label_png import decode_label_png
from segray.pipelines.io.manifest import MANIFEST, read_manifest
from segray.pipelines.io.sources import read_labelled
from segray.pipelines.label_set.store import LabelStore
from segray.pipelines.training.data.datasets import map_tensor
from segray.pipelines.training.data.stored_labels import StoredLabels


class LabelSetDataset(Dataset[tuple[Tensor, Tensor]]):
    """The labelled images of a label set, sorted by image_id.

    Args:
        root: folder or URI of the label set.
        images: folders of its images, needed only where they have no checksum or are in another bucket.
    """

    def __init__(self, root: str, images: Sequence[str] = ()) -> None:
        self._root, self._images = root, tuple(images)
        self._store = LabelStore(root)
        self._parts = {image_id: part for image_id, status, part in self._store.statuses() if status == "ok"}
        self._ids = sorted(self._parts)
        self._labels = StoredLabels(root, self._ids, corrections=CorrectionLog(root).by_image())
        self._uris = _uris(root)
        self._ignore = self._store.ignore_index

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Image uint8 [3, H, W] and label int64 [H, W].

        Raises:
            UserError: the image is neither in the label set nor where it was, or has changed.
        """
        image_id = self._ids[index]
        stored = self._labels.read(image_id)
        if stored is None:
            raise UserError(f"{image_id}: the label set has changed and no longer holds it")
        try:
            pixels = decode(self._file(image_id), ImageOptions(min_size=1, frames="first"))
        except ImageProblem as problem:
            raise UserError(f"{image_id}: {problem.reason}") from problem
        image = torch.from_numpy(pixels).permute(2, 0, 1)
        try:
            label = decode_label_png(stored[0], (image.shape[1], image.shape[2]), self._ignore)
        except ValueError as problem:
            raise UserError(f"{image_id}: the image or its label has changed: {problem}") from problem
        return image, map_tensor(label).long()

    def _file(self, image_id: str) -> bytes:
        rows = self._store.rows(["image_id", "image", "sha256"], [self._parts[image_id]])
        row = next(row for row in rows if row["image_id"] == image_id)
        if row["image"]:
            return bytes(row["image"]["bytes"])
        if image_id not in self._uris:
            raise UserError(f"{image_id}: the label set does not say where the image is")
        return read_labelled(self._uris[image_id], row["sha256"], self._root, self._images)


def _uris(root: str) -> dict[str, str]:
    """Where the images were when the label set was made, by image_id."""
    manifest = storage.join(root, MANIFEST)
    return {ref.image_id: ref.uri for ref in read_manifest(manifest)} if storage.exists(manifest) else {}

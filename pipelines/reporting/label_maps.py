"""Sources of label maps for `segray evaluate`: a label set, a folder, or a trained network."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Container, Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segray.models.label_map import LabelMap
from segray.models.precision import PredictPrecisionOrAuto, device_precision
from segray.models.segmenters.inference import Inference
from segray.models.segmenters.views import PLAIN, Views
from segray.pipelines.corrections.store import CorrectedStore
from segray.pipelines.engine.image_values import pending_lines
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.images import ImageOptions, ImageProblem, decode
from segray.pipelines.io.label_png import decode_label_png, png_bits
from segray.pipelines.io.sources import (
    EXTENSIONS,
    Spec,
    follows_links,
    image_roots,
    list_images,
    read_allowed,
    sources_of,
)
from segray.pipelines.label_set.store import LabelStore
from segray.pipelines.masks.folder import list_png

_log = logging.getLogger(__name__)


class LabelMaps(ABC):
    """A source of label maps, one image at a time.

    Attributes:
        home: default output folder of an evaluation.
        record: the source of the label maps, for evaluation.json.
        classes: the name of each id; None for ids without names.
        noun: the word for an image in messages.
    """

    home: str
    record: dict[str, Any]
    classes: tuple[str, ...] | None = None
    noun = "labelled image"

    @abstractmethod
    def statuses(self) -> dict[str, str]:
        """The status of every image; `maps` updates it for images that cannot be read."""

    @abstractmethod
    def maps(self, wanted: Container[str]) -> Iterator[tuple[str, LabelMap]]:
        """(image id, label map) of the wanted images that are ok."""


class StoreMaps(LabelMaps):
    """The label maps of a label set."""

    def __init__(self, store: LabelStore) -> None:
        self.store, self.home, self.record = store, store.root, {"labels": store.root}
        self.classes = tuple(store.provenance["classes"])

    def statuses(self) -> dict[str, str]:
        """The statuses in the label set."""
        return {image_id: status for image_id, status, _ in self.store.statuses()}

    def maps(self, wanted: Container[str]) -> Iterator[tuple[str, LabelMap]]:
        """Part by part."""
        ignore = self.store.ignore_index
        for row in self.store.rows(columns=["image_id", "status", "label.bytes"]):
            if row["status"] == "ok" and row["image_id"] in wanted:
                yield row["image_id"], _decoded(row["image_id"], row["label"]["bytes"], ignore)


class FolderMaps(LabelMaps):
    """A folder of greyscale PNG label maps; their ids have no names.

    `a.jpg.png`, the name that `segray predict` gives, is the map of the image `a.jpg`.

    Raises:
        UserError: the folder has no PNG file.
    """

    def __init__(self, root: str) -> None:
        self.root, self.home, self.record = root, root, {"labels": root}
        names = list_png(root)
        if not names:
            there = storage.exists(root)
            why = "no label set there, and no PNG label map" if there else "no such file or folder"
            raise UserError(f"labels={storage.display(root)}: {why}")
        self._names = {_image_of(name, names): path for name, path in names.items()}

    def statuses(self) -> dict[str, str]:
        """All images are ok."""
        return dict.fromkeys(self._names, "ok")

    def maps(self, wanted: Container[str]) -> Iterator[tuple[str, LabelMap]]:
        """File by file."""
        for image_id, path in self._names.items():
            if image_id in wanted:
                data = storage.read_bytes(storage.join(self.root, path))
                yield image_id, _decoded(image_id, data, (1 << png_bits(data)) - 1)


class NetworkMaps(LabelMaps):
    """Predictions of a trained network at the size of each image; on the GPU if there is one.

    Args:
        checkpoint: folder of a checkpoint or of a training run.
        images: as `list_images` takes it.
        window: see `chosen_window`.
        also: folders of the images, as `list_images` takes them.
        options: how images are decoded; None: by default.
        follow: as in `list_images`.
        column: as in `list_images`.
        views: whose probabilities are averaged.
        precision: that the network computes in.

    Raises:
        UserError: no image, or no usable checkpoint.
    """

    noun = "image"

    def __init__(
        self,
        checkpoint: str,
        images: Spec,
        window: int | None,
        also: Sequence[str] = (),
        options: ImageOptions | None = None,
        *,
        follow: bool = True,
        column: str | None = None,
        views: Views = PLAIN,
        precision: PredictPrecisionOrAuto = "auto",
    ) -> None:
        from segray.pipelines.training.session import device_of_worker
        from segray.pipelines.training.trained import (
            chosen_window,
            load_network,
            named_window,
            run_folder,
            weights_sha256,
        )

        self._refs = list(list_images(images, also, follow=follow, column=column))
        self._roots = image_roots(images, also)
        self._options = replace(options or ImageOptions(), follow_links=follows_links(images, follow))
        network, state = load_network(checkpoint)
        device = device_of_worker()
        chosen = device_precision(device) if precision == "auto" else precision
        self._network = network.to(device)
        self._inference = Inference(chosen_window(state, window), views, chosen)
        self._statuses = {ref.image_id: "skipped" if ref.problem else "ok" for ref in self._refs}
        self.home, self.classes = run_folder(checkpoint), tuple(state["classes"])
        self.record = {
            "checkpoint": checkpoint,
            "weights_sha256": weights_sha256(state),
            "step": state.get("step"),
            "images": ",".join(sources_of(images)),
            "window": named_window(state, window),
            "views": asdict(views),
            "precision": chosen,
        }

    def statuses(self) -> dict[str, str]:
        """An image is ok until it cannot be read."""
        return self._statuses

    def value_lines(self, wanted: Container[str]) -> list[str]:
        """What values some of the wanted images have, see `pending_lines`."""
        refs = [ref for ref in self._refs if ref.image_id in wanted]
        return pending_lines(refs, len(refs), replace(self._options, roots=self._roots))

    def maps(self, wanted: Container[str]) -> Iterator[tuple[str, LabelMap]]:
        """Image by image; the reason for an unreadable image is logged.

        Raises:
            UserError: the network's output is not finite.
        """
        for ref in self._refs:
            if ref.problem or ref.image_id not in wanted:
                continue
            try:
                pixels = decode(
                    read_allowed(ref.uri, self._roots, follow=self._options.follow_links), self._options
                )
            except ImageProblem as problem:
                self._statuses[ref.image_id] = problem.status
                _log.warning("%s: %s", ref.image_id, problem.reason)
                continue
            yield ref.image_id, self._predicted(ref.image_id, pixels)

    def _predicted(self, image_id: str, pixels: NDArray[np.uint8]) -> LabelMap:
        from segray.pipelines.training.trained import predict_label

        try:
            return predict_label(self._network, pixels, self._inference, ids=len(self.classes or ()))
        except ImageProblem as problem:
            raise UserError(f"{image_id}: {problem.reason}", exit_code=1) from problem


def open_labels(labels: str) -> LabelMaps:
    """A label set, or else a folder of label maps.

    Raises:
        UserError: the folder is neither.
    """
    store = CorrectedStore(labels)
    return StoreMaps(store) if store.parts() else FolderMaps(labels)


def _image_of(name: str, names: Container[str]) -> str:
    """The image that a label map is named after; the name of the file if that is unclear or taken."""
    image_id = name.removesuffix(".png")
    return image_id if image_id.lower().endswith(EXTENSIONS) and image_id not in names else name


def _decoded(image_id: str, data: bytes, ignore_index: int) -> LabelMap:
    try:
        return decode_label_png(data, None, ignore_index)
    except ValueError as problem:
        raise UserError(f"label of {image_id}: {problem}; `segray verify` checks the whole set") from None

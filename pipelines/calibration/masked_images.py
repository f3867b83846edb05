"""The images whose masks teach a run without segments: found among all of them, read with their features."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from segray.models.label_map import LabelMap
from segray.models.label_space import ignore_index_of
from segray.models.metrics import confusion_matrix
from segray.pipelines.annotation.prepared import Prepared
from segray.pipelines.annotation.stages.classify import TextEmbeddings
from segray.pipelines.annotation.stages.features import load_clip, tile_features
from segray.pipelines.annotation.stages.read import read_row
from segray.pipelines.annotation.stages.schemas import pixels_of
from segray.pipelines.calibration.examples import ReadMask, folder_masks
from segray.pipelines.config.commands.annotate import AnnotateConfig
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.manifest import ImageRef
from segray.pipelines.io.sources.lists import split_fields
from segray.pipelines.label_set.schema import class_pixels
from segray.pipelines.label_set.store import LabelStore
from segray.pipelines.masks.folder import MaskFolder
from segray.pipelines.masks.options import MaskOptions
from segray.pipelines.printing import echo, visible
from segray.pipelines.training.data.splits import read_text

if TYPE_CHECKING:  # torch and open_clip take seconds to import
    from segray.models.clip.model import ClipModel
    from segray.models.clip.tiled import TileFeatures

MOST_IMAGES = 64
"""Images with masks that teach, evenly spread over all of them."""
_PREFIX = "calibrate."
_SHOWN = 3


@dataclass(frozen=True)
class MaskedRef:
    """An image with a mask.

    Attributes:
        ref: where the image is.
        mask: reads the mask.
    """

    ref: ImageRef
    mask: ReadMask


def find_masked(
    config: AnnotateConfig, images: Iterable[ImageRef], classes: tuple[str, ...]
) -> dict[str, MaskedRef]:
    """The images that have a mask, by image_id, ascending; at most `MOST_IMAGES`.

    Args:
        config: of the command, with `calibrate.masks`.
        images: all of them; no more than those with a mask are kept in memory.
        classes: names of the ids.

    Raises:
        UserError: a mask whose image is not there, a listed image without a mask, or no mask.
    """
    keys = config.calibrate
    masks = keys.masks or ""
    options = MaskOptions.of_keys(keys, config.image, _PREFIX)
    refs: dict[str, ImageRef] = {}
    has_mask, listed = _with_mask(masks, options), _stems(keys.split)
    for ref in images:
        # A few of the others show in a message what images are called; listed ones, that they have no mask.
        if len(refs) < _SHOWN or PurePosixPath(ref.image_id).stem in listed or has_mask(ref.image_id):
            refs[ref.image_id] = ref
    statuses = {image_id: "skipped" if ref.problem else "ok" for image_id, ref in refs.items()}
    readers = folder_masks(
        masks, options, statuses, classes, split=keys.split, allow_missing=keys.allow_missing
    )
    every = sorted(readers)
    spread = np.linspace(0, len(every) - 1, min(MOST_IMAGES, len(every))).round().astype(int)
    return {every[i]: MaskedRef(refs[every[i]], readers[every[i]]) for i in spread}


def _stems(split: str | None) -> set[str]:
    """The names of the images in a split file, without folders and endings."""
    lines = [] if split is None else read_text(split, f"{_PREFIX}split").splitlines()
    return {PurePosixPath(split_fields(line)[0]).stem for line in lines if line.strip()}


def _with_mask(masks: str, options: MaskOptions) -> Callable[[str], bool]:
    store = LabelStore(masks)
    if store.parts():
        return {image_id for image_id, _, _ in store.statuses()}.__contains__
    folder = MaskFolder(masks, options)
    return lambda image_id: folder.find(image_id) is not None


@dataclass(frozen=True)
class MaskedImagePixels:
    """An image with a mask, and its features.

    Attributes:
        image_id: of the image.
        sha256: of its file.
        pixels: uint8 RGB, [H, W, 3] or smaller.
        truth: [H, W], class ids.
        tiles: of the image.
    """

    image_id: str
    sha256: str
    pixels: NDArray[np.uint8]
    truth: LabelMap
    tiles: list[TileFeatures]

    def class_pixels(self, n_classes: int) -> NDArray[np.int64]:
        """[C], its true pixels."""
        return class_pixels(self.truth, n_classes)[:n_classes]

    def cells(self) -> Iterator[tuple[NDArray[np.float32], LabelMap]]:
        """Of each tile the features on a grid twice as fine, and the truth."""
        from segray.models.clip.zero_shot import finer_grid

        for tile in self.tiles:
            part = self.truth if len(self.tiles) == 1 else self.truth[tile.tile.inside]
            yield finer_grid(tile.grid).cpu().numpy(), part

    def confusion(self, text: TextEmbeddings, refine: int, n_classes: int) -> NDArray[np.int64]:
        """Its pixels by true class and label, [C, C], as names and steps make them."""
        from segray.models.clip.tiled import label_tiles

        classifier = text.to_classifier(str(self.tiles[0].grid.device))
        height, width = self.truth.shape
        pixels = label_tiles(self.tiles, classifier, (height, width), text.threshold, self.pixels, refine)
        return confusion_matrix(self.truth, pixels.label, n_classes, ignore_index_of(n_classes))


@dataclass(frozen=True)
class MaskedImageReader:
    """Reads images with masks, and their features. Twice each, as large ones would fill the memory.

    Attributes:
        prepared: of the run, which reads its images so.
        clip: with its image tower, on its device.
    """

    prepared: Prepared
    clip: ClipModel

    @classmethod
    def of(cls, prepared: Prepared, loaded: ClipModel | None) -> MaskedImageReader:
        """On a GPU if this process sees one, and CLIP may use it.

        Args:
            prepared: of the run.
            loaded: CLIP with its image tower; None: it is loaded.
        """
        import torch

        clip = prepared.config.clip
        device = "cuda" if torch.cuda.is_available() and clip.num_gpus != 0 else "cpu"
        return cls(prepared, load_clip(clip, device, loaded))

    def images(self, masked: Mapping[str, MaskedRef]) -> Iterator[MaskedImagePixels]:
        """Each of some images; unreadable ones are left out if `calibrate.allow_missing` says so.

        Raises:
            UserError: an image or a mask that cannot be read, or whose features cannot be computed.
        """
        for image_id, one in masked.items():
            problem = yield from self._image(image_id, one)
            if problem is None:
                continue
            keys = self.prepared.config.calibrate
            where = f"{_PREFIX}masks={storage.display(keys.masks or '')}: image {visible(image_id)}"
            if not keys.allow_missing:
                raise UserError(f"{where} {problem}; {_PREFIX}allow_missing=true leaves it out")
            echo(f"{where} {problem}; left out", err=True)

    def _image(self, image_id: str, one: MaskedRef) -> Generator[MaskedImagePixels, None, str | None]:
        """The image, or what is wrong with it."""
        config, options = self.prepared.config, self.prepared.options
        row = read_row({"image_id": image_id, "status": "ok", "uri": one.ref.uri}, options, False)
        if row["status"] != "ok":
            return f"cannot be read: {visible(str(row['error']))}"
        size, pixels = (row["height"], row["width"]), pixels_of(row)
        truth = one.mask(size)
        try:
            (tiles,) = tile_features(self.clip, config.clip, config.image.tiling(), [pixels], None, [size])
        except (ValueError, MemoryError, RuntimeError) as error:
            return f"has no features: {visible(' '.join(str(error).split())[:200])}"
        yield MaskedImagePixels(image_id, row["sha256"], pixels, truth, tiles)
        return None

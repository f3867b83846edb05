"""Data sets whose masks are PNG files: every mask that counts is read before training starts."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from PIL import ExifTags, Image

from segray.models.label_space import LabelSpace
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.ground_truth import TruthMasks
from segray.pipelines.io.images import FORMATS, ImageProblem
from segray.pipelines.io.sources import list_images, read_image
from segray.pipelines.label_set.schema import class_counts
from segray.pipelines.training.data.samples import READ, DataSet, Item, refuse

_log = logging.getLogger(__name__)
_READERS = 8
_SIDEWAYS = (5, 6, 7, 8)


def image_shape(uri: str) -> tuple[int, int]:
    """(height, width) of a picture as it is decoded, turned upright, told from its header.

    Raises:
        ImageProblem: it cannot be opened, or is larger than pictures may be.
    """
    try:
        # A name that is no UTF-8 has a file:// URI, which only the other reader takes apart.
        source = io.BytesIO(read_image(uri)) if uri.startswith("file:") else storage.open_input(uri)
        with source, Image.open(source, formats=FORMATS) as image:
            width, height = image.size
            turned = image.getexif().get(ExifTags.Base.Orientation) in _SIDEWAYS
    except ImageProblem:
        raise
    except FileNotFoundError:
        raise ImageProblem("error", "no such file") from None
    except Exception as error:
        raise ImageProblem("error", "not an image") from error
    if width * height > READ.max_pixels:
        raise ImageProblem("error", f"too large ({width}x{height} px)")
    return (width, height) if turned else (height, width)


def listed(root: str, folder: str) -> dict[str, Item]:
    """The images under a folder of a data set by their ids, which start with the folder.

    Raises:
        UserError: no such folder, or no image in it.
    """
    where = storage.join(root, folder)
    try:
        refs = list(list_images(where))
    except UserError as error:
        raise UserError(f"data.root={storage.display(root)}: {error}") from None
    for ref in refs:
        if ref.problem:
            _log.warning("%s/%s is left out: %s", folder, ref.image_id, ref.problem)
    ids = {f"{folder}/{ref.image_id}": ref.uri for ref in refs if not ref.problem}
    return {image_id: Item(image_id, uri) for image_id, uri in ids.items()}


class MaskFolders:
    """The masks of a data set in one folder or more; the first that has a mask gives it.

    Args:
        root: the data set.
        folders: names of folders under it; those that are missing are passed over.

    Raises:
        UserError: one of the folders is there without a PNG.
    """

    def __init__(self, root: str, folders: Sequence[str]) -> None:
        self.root = root
        self._truths = {
            name: TruthMasks(storage.join(root, name))
            for name in folders
            if storage.exists(storage.join(root, name))
        }

    def match(self, names: Mapping[str, str]) -> dict[str, str]:
        """The mask_id of each image that has one.

        Args:
            names: image_id -> the image's path under the images' folder, which the masks' folder mirrors.

        Raises:
            UserError: two images share a mask.
        """
        found: dict[str, str] = {}
        for folder, truth in self._truths.items():
            missing = {image_id: name for image_id, name in names.items() if image_id not in found}
            own = truth.match(missing.values())
            found |= {image_id: f"{folder}/{own[name]}" for image_id, name in missing.items() if name in own}
        return found

    def find(self, mask_id: str) -> str | None:
        """The mask_id as it is written on disk; None where there is no such mask."""
        folder, _, name = mask_id.partition("/")
        found = self._truths[folder].find(name) if folder in self._truths else None
        return f"{folder}/{found}" if found else None

    def classes(self, item: Item, shape: tuple[int, int], n_classes: int) -> frozenset[int]:
        """The class ids in a mask, void left out.

        Raises:
            UserError: it is unsound.
        """
        folder, _, name = (item.mask_id or "").partition("/")
        mask = self._truths[folder].read(name, shape=shape, n_classes=n_classes, ignore_index=item.void)
        return frozenset(class_counts(mask, item.void)[0])


class MaskedImages(DataSet):
    """Images and the folders of their masks.

    Args:
        root: the data set's folder or URI.
        space: its classes.
        images: all images by id.
        masks: where their masks are.
        folder: the images' own folder, which starts each id.
        void: id of mask pixels that count for nothing.

    Raises:
        UserError: no image has a mask.
    """

    def __init__(
        self,
        root: str,
        space: LabelSpace,
        images: Mapping[str, Item],
        masks: MaskFolders,
        *,
        folder: str,
        void: int,
    ) -> None:
        self.root, self.space, self._masks, self._void = root, space, masks, void
        names = {image_id: image_id.removeprefix(f"{folder}/") for image_id in images}
        found = masks.match(names)
        if not found:
            where = storage.display(root)
            raise UserError(f"data.root={where}: no image has a mask; masks are named as the images are")
        items = {i: self._masked(item, found[i]) if i in found else item for i, item in images.items()}
        self.items = dict(sorted(items.items()))
        self._seen: dict[str, frozenset[int]] = {}

    def with_mask(self, item: Item, mask_id: str) -> Item | None:
        """The item with the mask that a split file names.

        Where its own mask of that name lies in another folder, as VOC's augmented ones do, that is meant.
        """
        found = self._masks.find(mask_id)
        if found is not None:
            return self._masked(item, found)
        return item if (item.mask_id or "").rpartition("/")[2] == mask_id.rpartition("/")[2] else None

    def contents(self, items: Sequence[Item]) -> list[frozenset[int]]:
        """The class ids in each mask, see `DataSet.contents`; checked on the way, none is read twice."""
        new = list({item.mask: item for item in items if item.mask not in self._seen}.values())
        with ThreadPoolExecutor(_READERS) as pool:
            answers = list(pool.map(self._look, new))
        refuse([answer for answer in answers if isinstance(answer, str)], "bad masks or images")
        found = zip(new, answers, strict=True)
        self._seen |= {str(item.mask): ids for item, ids in found if isinstance(ids, frozenset)}
        return [self._seen[str(item.mask)] for item in items]

    def check(self, items: Sequence[Item]) -> None:
        """Read each mask, see `DataSet.check`."""
        self.contents(items)

    def _look(self, item: Item) -> frozenset[int] | str:
        if item.mask is None:
            return f"image {item.image_id} has no mask in {storage.display(self.root)}"
        try:
            return self._masks.classes(item, image_shape(item.image), len(self.space.classes))
        except ImageProblem as problem:
            return f"image {item.image}: {problem.reason}"
        except UserError as problem:
            return str(problem)

    def _masked(self, item: Item, mask_id: str) -> Item:
        uri = storage.join(self.root, mask_id)
        return replace(item, mask=uri, mask_id=mask_id, void=self._void)

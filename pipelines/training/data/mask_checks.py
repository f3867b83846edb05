"""Data sets whose masks are files; every mask that is used is checked before training starts."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from segray.models.label_space import LabelSpace
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage, tiff_bands
from segray.pipelines.io.images import FORMATS, ImageProblem, decode_image
from segray.pipelines.io.members import parse_member
from segray.pipelines.io.sources import read_allowed, read_image
from segray.pipelines.io.sources.trees import Tree
from segray.pipelines.io.tiff_frames import TiffProblem, is_tiff, single_image
from segray.pipelines.label_set.schema import class_pixels
from segray.pipelines.masks.binary import look_binary, refuse_binary
from segray.pipelines.masks.folder import MaskFolder
from segray.pipelines.masks.options import MaskOptions
from segray.pipelines.training.data.samples import READ, DataSet, Sample, grouped, refuse
from segray.pipelines.understood import PixelCounts, name_some

_READERS = 8
_SIDEWAYS = (5, 6, 7, 8)
_NEW_SUBFILE_TYPE = 254


def sample_shape(sample: Sample) -> tuple[int, int]:
    """`image_shape` of a sample; one that a manifest names must be where the user allows it.

    Raises:
        ImageProblem: as `image_shape` and `read_allowed`.
    """
    roots = sample.read.roots
    if roots is None:
        return image_shape(sample.image)
    return image_shape(sample.image, read_allowed(sample.image, roots, follow=sample.read.follow_links))


def image_shape(uri: str, data: bytes | None = None) -> tuple[int, int]:
    """(height, width) of an image after decoding, turned upright by EXIF, from its header alone.

    Args:
        uri: of the file.
        data: its bytes, if they have been read.

    Raises:
        ImageProblem: it cannot be opened, or is larger than an image may be.
    """
    if data is None and (uri.startswith("file:") or parse_member(uri)):
        # Only `read_image` decodes the file:// URI of a name that is not UTF-8, and opens parts of files.
        data = read_image(uri)
    height, width = _header_shape(uri, data) or _decoded_shape(read_image(uri) if data is None else data)
    if width * height > READ.max_pixels or max(width, height) > READ.max_side:
        raise ImageProblem("error", f"too large ({width}x{height} px)")
    return height, width


def _header_shape(uri: str, data: bytes | None) -> tuple[int, int] | None:
    """None for what Pillow cannot open, and for a TIFF with a preview in front."""
    try:
        source = storage.open_input(uri) if data is None else io.BytesIO(data)
        with source, Image.open(source, formats=FORMATS) as image:
            if getattr(image, "tag_v2", {}).get(_NEW_SUBFILE_TYPE):
                return None
            turned = image.getexif().get(ExifTags.Base.Orientation) in _SIDEWAYS
            return image.size if turned else image.size[::-1]
    except ImageProblem:
        raise
    except FileNotFoundError:
        raise ImageProblem("error", "no such file") from None
    except Exception:  # noqa: BLE001 (damaged bytes raise anything)
        return None


def _decoded_shape(data: bytes) -> tuple[int, int]:
    try:
        tags = tiff_bands.header(single_image(data, "first")) if is_tiff(data) else None
    except TiffProblem:
        tags = None
    if tags is None or not {256, 257} <= set(tags):
        image = decode_image(data, READ)
        return image.height, image.width
    # Bands without colours cannot be decoded here, but have a size.
    size = int(tags[257]), int(tags[256])
    return size[::-1] if tags.get(274) in _SIDEWAYS else size


class MaskFolders:
    """The masks of a data set in one or more folders; the first folder that has an image's mask wins.

    Args:
        tree: the data set, or another place of its masks.
        folders: names of folders in it; missing ones are ignored; "" is the root.
        options: how masks are read, with the ids of colours.

    Raises:
        UserError: one of the folders exists, but has no mask.
    """

    def __init__(self, tree: Tree, folders: Sequence[str], options: MaskOptions) -> None:
        self.options = options
        there = f" (it has {name_some(names, 5)})" if (names := tree.names("")) else ""
        where = f"{folders[0]} in {storage.display(tree.root)}{there}"
        self._absent = f"there is no {where}; {options.masks_key}=FOLDER, or another source, has the masks"
        self._truths: dict[str, MaskFolder] = {}
        for name in folders:
            if tree.exists(name):
                files = tree.files(name, follow=options.follow_links)
                self._truths[name] = MaskFolder(files.where, options, files, packed=tree.packed)

    def match(self, names: Mapping[str, str], uris: Mapping[str, str]) -> dict[str, str]:
        """The mask_id of each image that has one.

        Args:
            names: by image_id, the image's path under the images' folder, which the masks' folder mirrors.
            uris: by path, of images that are in the masks' folder, see `MaskFolder.match`.

        Raises:
            UserError: two images share a mask.
        """
        mask_ids: dict[str, str] = {}
        for folder, truth in self._truths.items():
            missing = {image_id: name for image_id, name in names.items() if image_id not in mask_ids}
            files = truth.match(missing.values(), uris)
            mask_ids |= {i: _below(folder, files[name]) for i, name in missing.items() if name in files}
        return mask_ids

    def find(self, mask_id: str) -> str | None:
        """The mask_id in the spelling of the disk; None if there is no such mask."""
        folder, name = self._split(mask_id)
        file = self._truths[folder].own(name) if folder in self._truths else None
        return _below(folder, file) if file else None

    def uri(self, mask_id: str) -> str:
        """The URI of a mask."""
        folder, name = self._split(mask_id)
        return self._truths[folder].uri(name)

    def options_of(self, mask_id: str) -> MaskOptions:
        """How a mask is read."""
        return self._truths[self._split(mask_id)[0]].options

    def _split(self, mask_id: str) -> tuple[str, str]:
        """The folder of a mask and its path there; "" for a mask of another folder."""
        folder = next((name for name in self._truths if mask_id.startswith(f"{name}/")), "")
        return folder, mask_id.removeprefix(f"{folder}/") if folder else mask_id

    def looked_for(self, name: str) -> str:
        """See `MaskFolder.looked_for`, of the first folder that exists."""
        return next((truth.looked_for(name) for truth in self._truths.values()), self._absent)

    def count_ids(self, sample: Sample, shape: tuple[int, int], n_classes: int) -> NDArray[np.int64]:
        """Pixels of each class in a mask, and of ignored pixels at the end: int64 [n_classes + 1].

        Args:
            sample: has a mask.
            shape: (height, width) of the image in pixels.
            n_classes: ids from here on are invalid.

        Raises:
            UserError: the mask is invalid.
        """
        folder, name = self._split(sample.mask_id or "")
        return class_pixels(self._truths[folder].read(name, shape=shape, n_classes=n_classes), n_classes)


class MaskedImages(DataSet):
    """Images and the folders of their masks.

    Args:
        root: the data set, as it was named.
        space: its classes.
        images: all images by id.
        masks: the folders of their masks.
        folder: folder of the images, with which each id starts.
        together: whether the images are in the folder of their masks: a mask of one is no image.
        required: whether there has to be a mask.

    Raises:
        UserError: no image has a mask, and one is required.
    """

    def __init__(
        self,
        root: str,
        space: LabelSpace,
        images: Mapping[str, Sample],
        masks: MaskFolders,
        *,
        folder: str,
        together: bool = False,
        required: bool = True,
    ) -> None:
        self.root, self.space, self._masks = root, space, masks
        names = {image_id: image_id.removeprefix(f"{folder}/") for image_id in images}
        mask_ids = masks.match(names, {names[i]: images[i].image for i in images} if together else {})
        if required and not mask_ids:
            why = masks.looked_for(names[min(names)])
            raise UserError(
                f"data.root={storage.display(root)}: no image has a mask: for {min(names)}, {why}"
            )
        masked = {i: self._masked(images[i], mask_id) for i, mask_id in mask_ids.items()}
        files = {sample.mask for sample in masked.values()} if together else set()
        others = {i: sample for i, sample in images.items() if sample.image not in files}
        self.samples = dict(sorted({**others, **masked}.items()))
        self._counts: dict[str, NDArray[np.int64]] = {}

    def with_mask(self, sample: Sample, mask_id: str) -> Sample | None:
        """The sample with the mask that a split file names.

        If its own mask has that name in another folder, as VOC's augmented masks do, it keeps its own.
        """
        existing = self._masks.find(mask_id)
        if existing is not None:
            return self._masked(sample, existing)
        return sample if (sample.mask_id or "").rpartition("/")[2] == mask_id.rpartition("/")[2] else None

    def contents(self, samples: Sequence[Sample]) -> list[frozenset[int]]:
        """The class ids in each mask, see `DataSet.contents`; each mask is read and checked once."""
        return [frozenset(np.flatnonzero(counts[:-1]).tolist()) for counts in self._ids(samples)]

    def pixels(self, samples: Sequence[Sample]) -> PixelCounts:
        """Pixels of each class, see `DataSet.pixels`; each mask is read and checked once."""
        n_classes = len(self.space.classes)
        return PixelCounts.of(self._ids(samples), n_classes, n_classes)

    def check(self, samples: Sequence[Sample]) -> None:
        """Read each mask, see `DataSet.check`; all masks that were read tell what their values mean."""
        refuse(grouped(list(self._count(samples).items())), "bad masks or images")
        if not samples:
            return
        total, options = np.sum(list(self._counts.values()), axis=0), self._masks.options
        where = f"data.root={storage.display(self.root)}"
        if options.binary is None and options.table is None and look_binary(total):
            refuse_binary(where, options.binary_key, self.space.classes)
        options.check_void(total, self.space.classes, where)

    def problems(self, samples: Sequence[Sample]) -> dict[str, str]:
        """What is wrong with each bad mask, see `DataSet.problems`."""
        return {sample.image_id: problem for sample, problem in self._count(samples).items()}

    def _ids(self, samples: Sequence[Sample]) -> list[NDArray[np.int64]]:
        """Pixels of each class in each mask, as `MaskFolders.count_ids`."""
        refuse(grouped(list(self._count(samples).items())), "bad masks or images")
        return [self._counts[str(sample.mask)] for sample in samples]

    def _count(self, samples: Sequence[Sample]) -> dict[Sample, str]:
        """Count the ids of the masks that were not read yet; what is wrong with the others."""
        new = list({sample.mask: sample for sample in samples if sample.mask not in self._counts}.values())
        with ThreadPoolExecutor(_READERS) as pool:
            results = list(pool.map(self._read, new))
        read = zip(new, results, strict=True)
        self._counts |= {str(sample.mask): ids for sample, ids in read if not isinstance(ids, str)}
        return {s: text for s, text in zip(new, results, strict=True) if isinstance(text, str)}

    def _read(self, sample: Sample) -> NDArray[np.int64] | str:
        """Pixels of each id in a mask, or what is wrong with it."""
        if sample.mask is None:
            why = self._masks.looked_for(sample.image_id.partition("/")[2])
            return f"image {sample.image_id} has no mask in {storage.display(self.root)}: {why}"
        try:
            return self._masks.count_ids(sample, sample_shape(sample), len(self.space.classes))
        except ImageProblem as problem:
            return f"image {sample.image}: {problem.reason}"
        except UserError as problem:
            return str(problem)

    def _masked(self, sample: Sample, mask_id: str) -> Sample:
        options = self._masks.options_of(mask_id)
        return replace(sample, mask=self._masks.uri(mask_id), mask_id=mask_id, options=options)


def _below(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name

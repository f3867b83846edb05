"""Mask files in a folder, an archive, a list or a table: found by image_id, checked before they count."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice, tee
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from segray.models.label_map import LabelMap
from segray.models.label_space import LabelSpace
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.listing import LeftOut
from segray.pipelines.io.members import display_part
from segray.pipelines.io.names import Names
from segray.pipelines.io.sources.trees import PARTS, Files, common_folder, open_tree, source_text
from segray.pipelines.label_set.schema import class_pixels
from segray.pipelines.masks.binary import all_look_binary, refuse_binary
from segray.pipelines.masks.options import MaskOptions
from segray.pipelines.masks.raster import ENDINGS, LOSSY_ENDINGS, IdMap
from segray.pipelines.understood import name_some

BRUSH = re.compile(r"(?:.*/)?task-\d+-annotation-\d+-by-")
"""Names of Label Studio's PNG files: task, annotation, person, class; not the image."""
BRUSH_TEXT = "Label Studio's PNG files do not say of which image they are"
_SHOWN = 3
_TRIED = 200
"""Masks that are read in search of a background; few sets of them have none in so many."""
_ANNOTATIONS = (".json", ".jsonl", ".xml")
_NO_URIS: Mapping[str, str] = {}


class MaskFolder:
    """The mask files under a folder or in archives, which mirror the images' root; or a table's.

    The mask of `train/0001.jpg` is `train/0001.jpg.png`, else `train/0001.png`, else the same with another
    ending of `ENDINGS`; with a suffix, `train/0001_mask.png`. In an archive or a list, one folder that all of
    them are in may be left out. A row of a table or a list with an image and its mask says whose mask it is.

    Args:
        root: folder, archives, list, manifest or Parquet files, see `open_tree`.
        options: how masks are read.
        files: of the root, if they have been listed.
        packed: with files: whether the root is no folder.

    Raises:
        UserError: no such place, or no mask there.
    """

    def __init__(
        self,
        root: str,
        options: MaskOptions | None = None,
        files: Files | None = None,
        *,
        packed: bool = False,
    ) -> None:
        self.root, self.options = root, options or MaskOptions()
        found, packed = (files, packed) if files else _list_files(root, self.options)
        if found.roots is not None:
            self.options = replace(self.options, roots=found.roots, follow_links=found.follow)
        self._uris, self._of_images = found.uris, found.of_images
        self._names = {name: name for name in found.uris} if found.of_images else _masks(found.uris)
        self._inner = common_folder(self._names, PARTS) if packed else ""
        self._index = Names(self._names)
        if not self._names:
            gone = not packed and not storage.exists(root)
            why = "no such file or folder" if gone else _no_mask(found.uris)
            raise UserError(f"{self.options.masks_key}={storage.display(root)}: {why}")

    def __len__(self) -> int:
        return len(self._names)

    def bind(self, space: LabelSpace) -> None:
        """Give colours the ids of a class list.

        Raises:
            UserError: as `MaskOptions.bound`.
        """
        self.options = self.options.bound(space)

    def find(self, image_id: str) -> str | None:
        """The mask's path under the root, or None."""
        if self._of_images:
            return self._index.find_path(image_id)
        candidates = list(self._candidates(image_id))
        exact = next((self._names[name] for name in candidates if name in self._names), None)
        if exact is not None or image_id.isascii():
            return exact
        index = next(filter(None, map(self._index.find, candidates)), None)
        return None if index is None else self._names[index]

    def own(self, name: str) -> str | None:
        """The mask of a path under the root, as the disk spells it; None if there is none."""
        index = self._index.find(name)
        return self.find(name) if index is None else self._names[index]

    def _candidates(self, image_id: str) -> Iterator[str]:
        whole, stem = self._wanted(image_id)
        for start in dict.fromkeys(("", self._inner)):
            for ending in (*ENDINGS, *LOSSY_ENDINGS):
                yield f"{start}{whole}{ending}"
                yield f"{start}{stem}{ending}"

    def _wanted(self, image_id: str) -> tuple[str, str]:
        """The mask's path without its ending, behind the image's whole name and behind its stem."""
        old, _, new = self.options.suffix.rpartition(":")
        stem = str(PurePosixPath(image_id).with_suffix(""))
        return _renamed(image_id, old, new), _renamed(stem, old, new)

    @property
    def names(self) -> list[str]:
        """The paths of all masks."""
        return sorted(self._names.values())

    def uri(self, name: str) -> str:
        """The URI of a mask by its path."""
        return self._uris[name]

    def match(self, image_ids: Iterable[str], uris: Mapping[str, str] = _NO_URIS) -> dict[str, str]:
        """The masks of the images that have one: image_id -> path under the root.

        Args:
            image_ids: of the images.
            uris: of images that are among the masks; none is its own mask, and the mask of one is no image.

        Raises:
            UserError: two images share a mask, as `a.jpg` and `a.png` do with `a.png`.
        """
        masks: dict[str, str] = {}
        owner: dict[str, str] = {}
        for image_id in image_ids:
            name = self.find(image_id)
            if name is None or self.uri(name) == uris.get(image_id):
                continue
            if name in owner:
                where = f"{self.options.masks_key}={self.root}"
                raise UserError(
                    f"{where}: {name} could belong to {owner[name]} or {image_id}; "
                    f"name the masks {owner[name]}.png and {image_id}.png"
                )
            masks[image_id], owner[name] = name, image_id
        taken = {self.uri(name) for name in owner} if uris else set()
        return {image_id: name for image_id, name in masks.items() if uris.get(image_id) not in taken}

    def looked_for(self, image_id: str) -> str:
        """What was looked for as the mask of an image, what is there instead, and a key that may help."""
        whole, stem = self._wanted(image_id)
        there = list(self._names.values())
        stem_of_image = str(PurePosixPath(image_id).with_suffix(""))
        near = sorted(name for name in there if name.startswith(stem_of_image))
        inner = stem_of_image.rpartition("/")[2]
        near = near or sorted(name for name in there if inner in name)
        brush = f"; {BRUSH_TEXT}: `segray import` reads its JSON" if any(map(BRUSH.match, there)) else ""
        hint = brush or self._suffix_hint(image_id, near)
        where = storage.display(self.root)
        names = f"{stem}.png or {whole}.png (or {', '.join(ENDINGS[1:4])}, ...)"
        return f"looked for {names}; {where} has {name_some(near or there, _SHOWN)}{hint}"

    def _suffix_hint(self, image_id: str, near: Sequence[str]) -> str:
        fits = ((_suffix_of(name, image_id), name) for name in near)
        fit, name = next((pair for pair in fits if pair[0]), ("", ""))
        return f"; {self.options.prefix}mask_suffix={fit} finds {name}" if fit else ""

    def read(self, name: str, *, shape: tuple[int, int], n_classes: int) -> LabelMap:
        """The mask as class ids, [H, W], with `ignore_index_of` for pixels that count for nothing.

        Raises:
            UserError: no mask of whole ids, another size than `shape`, or an id out of range.
        """
        where = self._shown(name)
        ids = self.read_ids(name)
        if ids.shape != shape:
            turned = "; the sides are exchanged: images are turned upright by EXIF, as their masks must be"
            raise UserError(
                f"mask {where} is {ids.shape[1]}x{ids.shape[0]} pixels, its image's label "
                f"{shape[1]}x{shape[0]}; both must have the same size{turned * (ids.shape == shape[::-1])}"
            )
        try:
            return self.options.label_map(ids, n_classes)
        except ValueError as problem:
            raise UserError(f"mask {where} {problem}") from None

    def read_ids(self, name: str) -> IdMap:
        """The ids of the mask as they are stored, [H, W], without a check of its size and ids.

        Raises:
            UserError: no mask of whole ids.
        """
        try:
            return self.options.ids(self.options.read(self.uri(name)))
        except ValueError as problem:
            raise UserError(f"mask {self._shown(name)}: {problem}") from None

    def _shown(self, name: str) -> str:
        return shown_mask(self.uri(name), name)

    def check_kind(self, names: Iterable[str], classes: tuple[str, ...] | None) -> None:
        """Stop where the masks could be binary, or their background ignored, and nothing says so.

        Args:
            names: the masks that count; they are read up to the first that holds another id than 0 and 255,
                and to the first that has a background.
            classes: names of the ids; None without names.

        Raises:
            UserError: with the key that settles it.
        """
        options = self.options
        where = f"{options.masks_key}={storage.display(self.root)}"
        names, again = tee(names)
        if options.binary is None and options.table is None and all_look_binary(map(self.read_ids, names)):
            refuse_binary(where, options.binary_key, classes)
        if classes is not None and not options.said:
            options.check_void(self._first_pixels(again, len(classes)), classes, where)

    def _first_pixels(self, names: Iterable[str], n_classes: int) -> NDArray[np.int64]:
        """Pixels of each class, and of ignored pixels at the end, up to the first mask that has id 0."""
        total = np.zeros(n_classes + 1, np.int64)
        for name in islice(names, _TRIED):
            total += class_pixels(self.read_ids(name).astype(np.uint16), n_classes)
            if total[0]:
                break
        return total


def _no_mask(names: Iterable[str]) -> str:
    """What is there in place of masks, and what masks are."""
    others = LeftOut()
    for name in names:
        others.add(name)
    there = f" ({others})" if others else ""
    return (
        f"no mask there{there}; give masks of class ids ({' '.join(ENDINGS)}); `segray masks` converts "
        "annotation files (COCO, LabelMe, CVAT, YOLO)"
    )


def _suffix_of(mask: str, image_id: str) -> str:
    """The suffix, or pattern with a `*`, by which a mask has its image's name; "" for none."""
    mask_stem, stem = (str(PurePosixPath(name).with_suffix("")) for name in (mask, image_id))
    folder, _, inner = stem.rpartition("/")
    end = mask_stem.removeprefix(stem)
    if end != mask_stem and end[:1] in ("_", "-", ".", " "):
        return end
    below = mask_stem.removeprefix(f"{folder}/")
    return below.replace(inner, "*", 1) if inner in below and below != inner else ""


def _renamed(name: str, old: str, new: str) -> str:
    """The name of a mask without its ending, of that of its image, see `MaskOptions.suffix`."""
    if "*" not in new:
        return f"{name.removesuffix(old)}{new}"
    folder, _, last = name.rpartition("/")
    start, _, end = old.rpartition("*")
    last = new.replace("*", last.removeprefix(start).removesuffix(end))
    return f"{folder}/{last}" if folder else last


def shown_mask(uri: str, name: str) -> str:
    """A mask for messages: its URI, or its name and the file that it is in."""
    return display_part(uri, name.rpartition("/")[2])


def _list_files(root: str, options: MaskOptions) -> tuple[Files, bool]:
    """The files of a place, and whether it is no folder."""
    if root.lower().endswith(_ANNOTATIONS):
        return Files(root, {}), False
    try:
        tree = open_tree(root, options.also, mask_column=options.column)
        return tree.files("", follow=options.follow_links), tree.packed
    except NotADirectoryError:
        return Files(root, {}), False
    except UserError as error:
        text = source_text(error, root).replace("mask_column=", f"{options.prefix}mask_column=")
        raise UserError(f"{options.masks_key}={storage.display(root)}: {text}") from None


def _masks(names: Iterable[str], endings: Sequence[str] = (*ENDINGS, *LOSSY_ENDINGS)) -> dict[str, str]:
    """Those that are mask files: path with a lower-case ending -> path, sorted; no hidden ones."""
    shown = [name for name in sorted(names) if not any(part.startswith(".") for part in name.split("/"))]
    split = [(name, name.rpartition(".")) for name in shown]
    return {f"{a}.{b.lower()}": name for name, (a, _, b) in split if f".{b.lower()}" in endings and a}


def list_png(root: str) -> dict[str, str]:
    """The PNG files under a folder: path with a lower-case ending -> path, sorted; no hidden ones."""
    return _masks((file.name for file in storage.list_files(root)), (".png",))

"""A folder of mask files: found by image_id, checked before they count."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath

from segray.models.label_map import LabelMap
from segray.models.label_space import LabelSpace
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.names import Names
from segray.pipelines.io.sources.kinds import packed
from segray.pipelines.masks.binary import all_look_binary, refuse_binary
from segray.pipelines.masks.options import MaskOptions
from segray.pipelines.masks.raster import ENDINGS, LOSSY_ENDINGS, IdMap
from segray.pipelines.understood import name_some

_SHOWN = 3


class MaskFolder:
    """The mask files under a folder or object-store prefix, which mirrors the images' root.

    The mask of `train/0001.jpg` is `train/0001.jpg.png`, else `train/0001.png`, else the same with another
    ending of `ENDINGS`; with a suffix, `train/0001_mask.png`.

    Args:
        root: local folder or URI.
        options: how masks are read.

    Raises:
        UserError: no such folder, or no mask under it.
    """

    def __init__(self, root: str, options: MaskOptions | None = None) -> None:
        self.root, self.options = root, options or MaskOptions()
        try:
            self._names = list_masks(root, follow=self.options.follow_links)
        except NotADirectoryError:
            self._names = {}
        self._index = Names(self._names)
        if not self._names:
            where = f"masks={storage.display(root)}"
            if what := packed(root):
                raise UserError(f"{where}: {what}; unpack it, masks are read from folders")
            raise UserError(
                f"{where}: no mask there; give a folder of masks of class ids "
                f"({' '.join(ENDINGS)}); `segray masks` converts annotation files (COCO, LabelMe, CVAT)"
            )

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
        for ending in (*ENDINGS, *LOSSY_ENDINGS):
            yield f"{whole}{ending}"
            yield f"{stem}{ending}"

    def _wanted(self, image_id: str) -> tuple[str, str]:
        """The mask's path without its ending, behind the image's whole name and behind its stem."""
        stem = str(PurePosixPath(image_id).with_suffix(""))
        old, _, new = self.options.suffix.rpartition(":")
        return f"{image_id.removesuffix(old)}{new}", f"{stem.removesuffix(old)}{new}"

    def match(self, image_ids: Iterable[str]) -> dict[str, str]:
        """The masks of the images that have one: image_id -> path under the root.

        Raises:
            UserError: two images share a mask, as `a.jpg` and `a.png` do with `a.png`.
        """
        masks: dict[str, str] = {}
        owner: dict[str, str] = {}
        for image_id in image_ids:
            name = self.find(image_id)
            if name is None:
                continue
            if name in owner:
                raise UserError(
                    f"masks={self.root}: {name} could belong to {owner[name]} or {image_id}; "
                    f"name the masks {owner[name]}.png and {image_id}.png"
                )
            masks[image_id], owner[name] = name, image_id
        return masks

    def looked_for(self, image_id: str) -> str:
        """What was looked for as the mask of an image, what is there instead, and a key that may help."""
        whole, stem = self._wanted(image_id)
        there = list(self._names.values())
        stem_of_image = str(PurePosixPath(image_id).with_suffix(""))
        near = sorted(name for name in there if name.startswith(stem_of_image))
        hint = self._suffix_hint(image_id, near)
        where = storage.display(self.root)
        names = f"{stem}.png or {whole}.png (or {', '.join(ENDINGS[1:4])}, ...)"
        return f"looked for {names}; {where} has {name_some(near or there, _SHOWN)}{hint}"

    def _suffix_hint(self, image_id: str, near: Sequence[str]) -> str:
        stem = str(PurePosixPath(image_id).with_suffix(""))
        ends = [str(PurePosixPath(name).with_suffix("")).removeprefix(stem) for name in near]
        fit = next((end for end in ends if end and end[0] in "_-. "), None)
        return f"; {self.options.prefix}mask_suffix={fit} finds {near[0]}" if fit else ""

    def read(self, name: str, *, shape: tuple[int, int], n_classes: int) -> LabelMap:
        """The mask as class ids, [H, W], with `ignore_index_of` for pixels that count for nothing.

        Raises:
            UserError: no mask of whole ids, another size than `shape`, or an id out of range.
        """
        where = storage.join(self.root, name)
        ids = self.read_ids(name)
        if ids.shape != shape:
            raise UserError(
                f"mask {where} is {ids.shape[1]}x{ids.shape[0]} pixels, its image's label "
                f"{shape[1]}x{shape[0]}; both must have the same size"
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
        where = storage.join(self.root, name)
        try:
            return self.options.ids(storage.read_bytes(where))
        except ValueError as problem:
            raise UserError(f"mask {where}: {problem}") from None

    def check_kind(self, names: Iterable[str], classes: tuple[str, ...] | None) -> None:
        """Stop where the masks could be binary and nothing says so.

        Args:
            names: the masks that count; they are read up to the first that holds another id than 0 and 255.
            classes: names of the ids; None without names.

        Raises:
            UserError: with the key that settles it.
        """
        options = self.options
        if options.binary is None and options.table is None and all_look_binary(map(self.read_ids, names)):
            refuse_binary(f"masks={storage.display(self.root)}", options.binary_key, classes)


def list_masks(
    root: str, endings: Sequence[str] = (*ENDINGS, *LOSSY_ENDINGS), *, follow: bool = True
) -> dict[str, str]:
    """The mask files under a folder: path with a lower-case ending -> path, sorted; no hidden ones."""
    names = sorted(file.name for file in storage.list_files(root, follow=follow))
    shown = [name for name in names if not any(part.startswith(".") for part in name.split("/"))]
    split = [(name, name.rpartition(".")) for name in shown]
    return {f"{a}.{b.lower()}": name for name, (a, _, b) in split if f".{b.lower()}" in endings and a}


def list_png(root: str) -> dict[str, str]:
    """The PNG files under a folder, as `list_masks`."""
    return list_masks(root, (".png",))

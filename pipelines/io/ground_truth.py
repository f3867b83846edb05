"""A folder of ground-truth masks: found by image_id, checked before they count."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath

import numpy as np

from segray.models.label_map import LabelMap
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.binary_masks import (
    all_look_binary,
    binary_hint,
    check_two_classes,
    refuse_binary,
    with_object_as_class,
)
from segray.pipelines.io.images import decode_gray_png


class TruthMasks:
    """The PNG masks under a folder or object-store prefix, which mirrors the images' root.

    The mask of `train/0001.jpg` is `train/0001.jpg.png`, else `train/0001.png`.

    Args:
        root: local folder or URI.
        binary: whether 255 is class 1; None: the masks hold class ids.
        key: the configuration key of `binary`, for messages.

    Raises:
        UserError: no such folder, or no PNG under it.
    """

    def __init__(self, root: str, *, binary: bool | None = None, key: str = "binary") -> None:
        self.root, self.binary, self.key = root, binary, key
        self._names = list_png(root)
        if not self._names:
            raise UserError(f"masks={storage.display(root)}: no PNG file there; give a folder of 8-bit masks")

    def __len__(self) -> int:
        return len(self._names)

    def find(self, image_id: str) -> str | None:
        """The mask's path under the root, or None."""
        for name in (f"{image_id}.png", str(PurePosixPath(image_id).with_suffix(".png"))):
            if name in self._names:
                return self._names[name]
        return None

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

    def read(self, name: str, *, shape: tuple[int, int], n_classes: int, ignore_index: int) -> LabelMap:
        """The mask as uint8 [H, W]; 255 is 1 with `binary`.

        Raises:
            UserError: not a greyscale or palette PNG, another size than `shape`, or an id out of range.
        """
        where = storage.join(self.root, name)
        mask = self.read_ids(name)
        if mask.shape != shape:
            raise UserError(
                f"mask {where} is {mask.shape[1]}x{mask.shape[0]} pixels, its image's label "
                f"{shape[1]}x{shape[0]}; both must have the same size"
            )
        bad = (mask >= n_classes) & (mask != ignore_index)
        if bad.any():
            y, x = np.argwhere(bad)[0]
            raise UserError(
                f"mask {where} holds id {mask[y, x]} (first at x={x}, y={y}); "
                f"allowed: 0 to {n_classes - 1} and {ignore_index} (ignored)"
                f"{binary_hint(mask, ignore_index, self.key)}"
            )
        return mask

    def read_ids(self, name: str) -> LabelMap:
        """The mask as uint8 [H, W], without a check of its size and ids.

        Raises:
            UserError: not a greyscale or palette PNG.
        """
        where = storage.join(self.root, name)
        try:
            mask = decode_gray_png(storage.read_bytes(where))
        except ValueError as problem:
            raise UserError(f"mask {where}: {problem}") from None
        return with_object_as_class(mask) if self.binary else mask

    def check_kind(self, names: Iterable[str], classes: tuple[str, ...] | None) -> None:
        """Stop where the masks contradict `binary`, or could be binary and nothing says so.

        Args:
            names: the masks that count; they are read up to the first that holds another id than 0 and 255.
            classes: names of the ids; None without names.

        Raises:
            UserError: with the key that settles it.
        """
        if self.binary:
            check_two_classes(classes, self.key)
        if self.binary is None and all_look_binary(map(self.read_ids, names)):
            refuse_binary(f"masks={storage.display(self.root)}", self.key, classes)


def list_png(root: str) -> dict[str, str]:
    """The PNG files under a folder: path with a lower-case suffix -> path, sorted; no hidden ones."""
    names = sorted(file.name for file in storage.list_files(root))
    shown = [name for name in names if not any(part.startswith(".") for part in name.split("/"))]
    return {f"{name[:-4]}.png": name for name in shown if name[-4:].lower() == ".png"}

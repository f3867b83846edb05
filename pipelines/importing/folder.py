"""A folder of mask files with the names of the images, as `evaluate` reads it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from segray.models.label_map import LabelMap
from segray.models.label_space import LabelSpace
from segray.pipelines.errors import UserError
from segray.pipelines.importing.base import ImageMask
from segray.pipelines.io import storage
from segray.pipelines.masks.folder import MaskFolder
from segray.pipelines.masks.options import MaskOptions
from segray.pipelines.understood import name_some


def read_folder(
    root: str, options: MaskOptions, space: LabelSpace, image_ids: Sequence[str]
) -> Iterator[ImageMask]:
    """The masks of a folder.

    Raises:
        UserError: no mask, or one that no image of the label set has the name of.
    """
    try:
        folder = MaskFolder(root, options)
    except UserError as problem:
        raise UserError(f"from={str(problem).removeprefix('masks=')}") from None
    folder.bind(space)
    matched = folder.match(image_ids)
    if extra := sorted(set(folder.names) - set(matched.values())):
        where = f"from={storage.display(root)}"
        raise UserError(f"{where}: {name_some(extra, 3)}: no image of the label set has this name")
    folder.check_kind(matched.values(), space.classes)
    for image_id, name in matched.items():
        yield ImageMask(image_id, name, partial(_draw, folder, name))


def _draw(folder: MaskFolder, name: str, space: LabelSpace, size: tuple[int, int]) -> LabelMap:
    return folder.read(name, shape=size, n_classes=len(space.classes))

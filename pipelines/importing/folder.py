"""A folder of mask files with the names of the images, as `evaluate` reads it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from segray.models.label_map import LabelMap
from segray.models.label_space import LabelSpace
from segray.pipelines.errors import UserError
from segray.pipelines.importing.base import ImageMask
from segray.pipelines.io import storage
from segray.pipelines.io.sources.trees import open_tree
from segray.pipelines.masks.color_table import open_color_table
from segray.pipelines.masks.folder import BRUSH, BRUSH_TEXT, MaskFolder
from segray.pipelines.masks.options import MaskOptions
from segray.pipelines.training.data.places import LABELMAP
from segray.pipelines.understood import name_some

_CLASSES = "SegmentationClass"
"""The folder of CVAT's "Segmentation mask"."""


def read_folder(
    root: str, options: MaskOptions, space: LabelSpace, image_ids: Sequence[str]
) -> Iterator[ImageMask]:
    """The masks of a folder or an archive.

    Raises:
        UserError: no mask, or one that no image of the label set has the name of.
    """
    try:
        folder = _open(root, options)
        folder.bind(space)
        matched = folder.match(image_ids)
        if extra := sorted(set(folder.names) - set(matched.values())):
            where = f"masks={storage.display(root)}"
            if any(map(BRUSH.match, extra)):
                raise UserError(f"{where}: {BRUSH_TEXT}; export JSON instead")
            raise UserError(f"{where}: {name_some(extra, 3)}: no image of the label set has this name")
        folder.check_kind(matched.values(), space.classes)
    except UserError as problem:
        text = str(problem)
        raise UserError(
            f"from={text.removeprefix('masks=')}" if text.startswith("masks=") else text
        ) from None
    for image_id, name in matched.items():
        yield ImageMask(image_id, name, partial(_draw, folder, name))


def _open(root: str, options: MaskOptions) -> MaskFolder:
    """The masks; of CVAT's "Segmentation mask", those of classes with the colours that lie beside them."""
    try:
        tree = open_tree(root, options.also, mask_column=options.column)
        if not tree.exists(_CLASSES):
            return MaskFolder(root, options)
        files = tree.files(_CLASSES, follow=options.follow_links)
    except (OSError, UserError):
        # It says what is wrong.
        return MaskFolder(root, options)
    if options.table is None and options.binary is None and tree.exists(LABELMAP):
        options = replace(options, table=open_color_table(tree.uri(LABELMAP), "colors", LABELMAP))
    return MaskFolder(files.where, options, files, packed=tree.packed)


def _draw(folder: MaskFolder, name: str, space: LabelSpace, size: tuple[int, int]) -> LabelMap:
    return folder.read(name, shape=size, n_classes=len(space.classes))

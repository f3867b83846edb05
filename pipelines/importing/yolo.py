"""YOLO's segmentation labels: a folder or an archive of label files, with or without its images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial

from segray.models.label_map import LabelMap
from segray.models.label_space import LabelSpace
from segray.pipelines.errors import UserError
from segray.pipelines.importing.base import ImageMask, drawn_outlines
from segray.pipelines.io.members import display_part
from segray.pipelines.io.names import Names
from segray.pipelines.io.sources.trees import Tree
from segray.pipelines.training.data.yolo_labels import (
    BadLines,
    Polygon,
    read_description,
    read_label_file,
    read_polygons,
)

_LABELS = "labels"


def read_yolo(
    tree: Tree, files: Mapping[str, str], description: str, image_ids: Sequence[str]
) -> list[ImageMask]:
    """The images whose label file has a polygon; an empty one does not say whether anyone looked.

    The label of `a/1.jpg` is `labels/a/1.txt`, or `labels/train/a/1.txt`. Smaller polygons lie on top.

    Args:
        tree: the label files.
        files: all files of the tree, by their names.
        description: the file of class names there.
        image_ids: of the label set.

    Raises:
        UserError: a file is not YOLO's, or holds anything else than polygons; a name of two images.
    """
    _, names = read_description(tree.uri(description), description)
    images, bad = _Images(image_ids), BadLines()
    found = []
    for name in sorted(filter(is_label_file, files)):
        shown = display_part(files[name], name)
        polygons = read_polygons(read_label_file(files[name], shown), names, shown, bad)
        if polygons:
            found.append(ImageMask(images.find(name, shown), name, partial(_draw, polygons)))
    bad.refuse()
    return found


def is_label_file(name: str) -> bool:
    """Whether a name is a label file's; some programs write the class names beside them."""
    *folders, own = name.split("/")
    return own.endswith(".txt") and own != "classes.txt" and _LABELS in folders


class _Images:
    """The images of a label set by their names without an ending, which label files have."""

    def __init__(self, image_ids: Sequence[str]) -> None:
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        for image_id in image_ids:
            self._by_stem[image_id.rpartition(".")[0] or image_id].append(image_id)
        self._stems = Names(self._by_stem)

    def find(self, name: str, shown: str) -> str:
        """The image of a label file; its own name without an ending if there is none.

        Raises:
            UserError: there are several.
        """
        before, _, after = f"/{name}".rpartition(f"/{_LABELS}/")
        path = f"{before}/{after}".strip("/").removesuffix(".txt")
        images = self._by_stem.get(self._stems.find_path(path) or "", [path])
        if len(images) > 1:
            raise UserError(f"{shown} could belong to {images[0]} or {images[1]}")
        return images[0]


def _draw(polygons: Sequence[Polygon], space: LabelSpace, size: tuple[int, int]) -> LabelMap:
    """`ImageMask.draw`; corners are shares of any image's sides."""
    outlines = tuple(polygon.outline(size) for polygon in polygons)
    return drawn_outlines(outlines, size, ordered=False)(space, size)

"""Outlines with class names, as LabelMe, CVAT and YOLO write them, as a data set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile

from segray.models.label_space import (
    LabelSpace,
    ignored_label,
    ignored_labels,
    label_space,
    name_key,
    no_class_name,
)
from segray.pipelines.config.commands.train import DataConfig
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.training.data.annotated import IGNORED, AnnotatedImages, Annotations, Drawing
from segray.pipelines.training.data.class_names import configured_space, dataset_space
from segray.pipelines.training.data.coco_masks import Segmentation
from segray.pipelines.training.data.places import data_tree
from segray.pipelines.training.data.samples import DataSet, Sample

VALIDATION = frozenset({"val", "valid", "validation"})
"""Folders, or parts of an annotation file, whose images are for validation."""

_NOT_CHOSEN = "outlines have a name that the class list leaves out: their pixels are background"
_IGNORE = "ignore"
"""Is not a class either, unless the class list has it."""
_CORNERS = 64


@dataclass(frozen=True)
class Outline:
    """One annotated object.

    Attributes:
        name: of its class.
        segmentation: where it is.
    """

    name: str
    segmentation: Segmentation


@dataclass(frozen=True)
class AnnotatedImage:
    """An image and its outlines, the lowest first.

    Attributes:
        image_id: of the image.
        drawing: where the outlines come from.
        outlines: of its objects.
        validation: whether the annotations say that it is for validation.
    """

    image_id: str
    drawing: Drawing
    outlines: tuple[Outline, ...]
    validation: bool = False


def outlined_images(
    config: DataConfig,
    samples: dict[str, Sample],
    images: Sequence[AnnotatedImage],
    annotations: Annotations,
    names: Sequence[str] = (),
    *,
    ordered: bool = True,
) -> DataSet:
    """The data set of some annotated images.

    Args:
        config: of the data.
        samples: all images by id.
        images: those with annotations.
        annotations: what was left out already.
        names: class names in the order of the annotation file; else all names in alphabetical order.
        ordered: later outlines lie on top of earlier ones; else smaller ones do.

    Raises:
        UserError: no image is annotated, or the names cannot be a class list.
    """
    if not images:
        raise UserError(f"data.root={storage.display(config.root)}: no image has annotations")
    space = _space(config, images, names)
    annotations.ordered = ordered
    for image in images:
        annotations.drawings[image.image_id] = image.drawing
        for number, outline in enumerate(image.outlines, start=1):
            class_id = class_id_of(outline.name, space)
            if class_id is None:
                annotations.leave_out(_NOT_CHOSEN, outline.name)
            annotations.shapes[image.image_id].append((number, class_id or 0, outline.segmentation))
    marked = {image.image_id for image in images if image.validation}
    val = [image.image_id for image in images if image.validation or _in_validation(image.image_id)]
    return AnnotatedImages(
        config.root,
        space,
        samples,
        annotations,
        train=[i for i in samples if i not in marked and not _in_validation(i)],
        val=val or None,
    )


def ellipse(x: float, y: float, across: float, down: float) -> Segmentation:
    """A polygon along an ellipse, given by its centre and radii in pixels."""
    turns = [2 * math.pi * i / _CORNERS for i in range(_CORNERS)]
    return [[v for turn in turns for v in (x + across * math.cos(turn), y + down * math.sin(turn))]]


def _space(config: DataConfig, images: Sequence[AnnotatedImage], names: Sequence[str]) -> LabelSpace:
    if config.classes is not None:
        return configured_space(config.classes)
    declared = dataset_space(data_tree(config), config.ignore_index)
    if declared is not None:
        return declared
    outline_names = names or sorted({outline.name for image in images for outline in image.outlines})
    keys = set(map(name_key, outline_names))
    # A file with "ignored" and "ignored pixels" has a class of the first name.
    skipped = {_IGNORE, *[*takewhile(keys.__contains__, ignored_labels())][-1:]}
    wanted = dict.fromkeys(n for n in outline_names if not no_class_name(n) and name_key(n) not in skipped)
    try:
        return label_space(["background", *wanted])
    except ValueError as problem:
        raise UserError(f"data.root={storage.display(config.root)}: {problem}") from None


def class_id_of(name: str, space: LabelSpace) -> int | None:
    """The id of a class name; `IGNORED` for that of ignored pixels, None if the list does not have it."""
    key, ids = name_key(name), _ids(space.classes)
    if key in ids:
        return ids[key]
    if key in (_IGNORE, ignored_label(space.classes)):
        return IGNORED
    if no_class_name(name):
        return 0 if no_class_name(space.classes[0]) else IGNORED
    return None


@lru_cache(maxsize=8)
def _ids(classes: tuple[str, ...]) -> dict[str, int]:
    return {name_key(name): i for i, name in enumerate(classes)}


def _in_validation(image_id: str) -> bool:
    return any(part.lower() in VALIDATION for part in image_id.split("/")[:-1])

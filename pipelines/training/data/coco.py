"""COCO's layout: annotations/instances_*.json, from which masks are painted when they are needed."""

from __future__ import annotations

import json
import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from segray.models.label_space import LabelSpace, label_space
from segray.pipelines.config.commands.train import DataConfig
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.image_ids import check_image_id, escape_name
from segray.pipelines.io.images import ImageProblem
from segray.pipelines.training.data.class_names import given_space
from segray.pipelines.training.data.mask_checks import image_shape, listed
from segray.pipelines.training.data.samples import DataSet, Item, refuse

ANNOTATIONS = "annotations"
_ABOUT = ("id", "height", "width")


def paint(shapes: bytes) -> NDArray[np.uint8]:
    """The mask of one image, uint8 [H, W]: 0 where nothing is, else the class.

    Larger annotations are painted first, of equal areas the later id first: the smaller lies on top, as with
    the segments of a label set. Crowds are painted like all others.

    Args:
        shapes: what `_pack` made of the image's annotations.
    """
    packed = json.loads(zlib.decompress(shapes))
    height, width = packed["size"]
    mask = np.zeros((height, width), np.uint8)
    layers = []
    for number, class_id, segmentation in packed["shapes"]:
        rle = _rle(segmentation, height, width)
        if rle is not None:
            layers.append((-int(coco_mask.area(rle)), -number, class_id, rle))
    for _, _, class_id, rle in sorted(layers, key=lambda layer: layer[:2]):
        mask[coco_mask.decode(rle).astype(bool)] = class_id
    return mask


def _rle(segmentation: Any, height: int, width: int) -> Any:
    """pycocotools' RLE of polygons, of plain or of compressed counts; None where nothing is drawn."""
    if isinstance(segmentation, list):
        # A polygon of fewer than three corners covers nothing, and pycocotools takes four numbers for a box.
        polygons = [polygon for polygon in segmentation if len(polygon) >= 6]
        return coco_mask.merge(coco_mask.frPyObjects(polygons, height, width)) if polygons else None
    counts = segmentation["counts"]
    if isinstance(counts, list):
        return coco_mask.frPyObjects(segmentation, height, width)
    return {"size": [height, width], "counts": counts.encode()}


@dataclass
class _Part:
    """What is kept of one instances_*.json, keyed by image_id (the path under the root)."""

    uri: str
    folder: str
    images: dict[str, Any] = field(default_factory=dict)
    shapes: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))


class CocoImages(DataSet):
    """COCO's training and validation images.

    Raises:
        UserError: files are missing, are not what they should be, or name a file outside of the data set.
    """

    def __init__(self, root: str, classes: str | Sequence[str] | None) -> None:
        self.root = root
        train = _part(root, "train")
        if train is None:
            where = storage.display(storage.join(root, ANNOTATIONS))
            raise UserError(f"data.root: no instances_train*.json in {where}")
        val = _part(root, "val")
        categories = self._read(train)
        self.space = _space(categories, classes, train.uri)
        if val and self._read(val) != categories:
            names = f"{storage.display(val.uri)} and {storage.display(train.uri)}"
            raise UserError(f"{names} have different categories; both must have the same")
        self._parts = [part for part in (train, val) if part]
        self.items = {i: item for part in self._parts for i, item in self._items(part).items()}
        self.train = [i for i in self.items if i.startswith(f"{train.folder}/")]
        self.candidates = [i for i in self.train if self.items[i].mask]
        if not self.candidates:
            where = storage.display(storage.join(root, train.folder))
            raise UserError(f"{storage.display(train.uri)} names none of the images in {where}")
        self.val = [i for i in val.images if i in self.items] if val else None

    def with_mask(self, item: Item, mask_id: str) -> Item | None:  # noqa: ARG002  masks come from the JSON file
        """The item as it is: published split files name PNG masks, which nobody needs."""
        return item if item.mask else None

    def contents(self, items: Sequence[Item]) -> list[frozenset[int]]:
        """The classes of each image's annotations, see `DataSet.contents`; no file is opened."""
        return [frozenset(shape[1] for shape in self._shapes(item)) for item in items]

    def check(self, items: Sequence[Item]) -> None:
        """Compare annotations with the images' headers, see `DataSet.check`; nothing is painted yet."""
        refuse([problem for item in items if (problem := self._problem(item))], "bad masks or images")

    def ready(self, items: Iterable[Item]) -> tuple[Item, ...]:
        """The items with their annotations."""
        return tuple(replace(item, shapes=self._pack(item)) if item.mask else item for item in items)

    def _items(self, part: _Part) -> dict[str, Item]:
        found = listed(self.root, part.folder)
        for image_id, about in part.images.items():
            if image_id in found:
                mask_id = f"{ANNOTATIONS}/{part.uri.rpartition('/')[2]}#{about['id']}"
                found[image_id] = replace(found[image_id], mask=part.uri, mask_id=mask_id)
        return found

    def _read(self, part: _Part) -> dict[int, str]:
        """Fill a part from its file; the categories, sorted by id."""
        try:
            content = json.loads(storage.read_bytes(part.uri))
            categories = {int(c["id"]): str(c["name"]) for c in content["categories"]}
            ids = {about["id"]: _image_id(part.folder, about["file_name"]) for about in content["images"]}
            part.images = {ids[a["id"]]: {k: a[k] for k in _ABOUT} for a in content["images"]}
            class_of = {category: i for i, category in enumerate(sorted(categories), start=1)}
            for a in content["annotations"]:
                shape = (a["id"], class_of[a["category_id"]], a["segmentation"])
                part.shapes[ids[a["image_id"]]].append(shape)
        except (ValueError, KeyError, TypeError) as error:
            why = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise UserError(f"{storage.display(part.uri)} is not a COCO instances file: {why}") from None
        return dict(sorted(categories.items()))

    def _part_of(self, item: Item) -> _Part:
        return next(part for part in self._parts if item.image_id in part.images)

    def _shapes(self, item: Item) -> list[Any]:
        return self._part_of(item).shapes.get(item.image_id, [])

    def _pack(self, item: Item) -> bytes:
        about = self._part_of(item).images[item.image_id]
        packed = {"size": [about["height"], about["width"]], "shapes": self._shapes(item)}
        return zlib.compress(json.dumps(packed, separators=(",", ":")).encode())

    def _problem(self, item: Item) -> str | None:
        if item.mask is None:
            return f"image {item.image_id} is in no instances_*.json of {storage.display(self.root)}"
        about = self._part_of(item).images[item.image_id]
        try:
            height, width = image_shape(item.image)
        except ImageProblem as problem:
            return f"image {item.image}: {problem.reason}"
        if (height, width) == (about["height"], about["width"]):
            return self._shape_problem(item, height, width)
        sizes = f"{about['width']}x{about['height']} pixels, its image {item.image} {width}x{height}"
        return f"{item.mask_id} is {sizes}; both must have the same size"

    def _shape_problem(self, item: Item, height: int, width: int) -> str | None:
        for number, _, segmentation in self._shapes(item):
            if not _is_drawing(segmentation, height, width):
                allowed = f"polygons, or RLE of size [{height}, {width}]"
                return f"{item.mask_id}, annotation {number}: no mask of its image (allowed: {allowed})"
        return None


def _is_drawing(segmentation: Any, height: int, width: int) -> bool:
    if isinstance(segmentation, list):
        return all(isinstance(polygon, list) and len(polygon) % 2 == 0 for polygon in segmentation)
    is_rle = isinstance(segmentation, dict) and isinstance(segmentation.get("counts"), str | list)
    return is_rle and segmentation.get("size") == [height, width]


def open_coco(config: DataConfig) -> DataSet:
    """COCO in its own layout, of any year; void is 0, the classes are 1, 2, ... by ascending category id.

    Raises:
        UserError: see `CocoImages`.
    """
    return CocoImages(config.root, config.classes)


def _part(root: str, kind: str) -> _Part | None:
    """The newest year's file of a kind and the folder of its images."""
    names = storage.list_names(storage.join(root, ANNOTATIONS))
    files = [name for name in names if re.fullmatch(rf"instances_{kind}\w*\.json", name)]
    if not files:
        return None
    folder = files[-1].removeprefix("instances_").removesuffix(".json")
    if not storage.exists(storage.join(root, folder)):
        folder = f"images/{folder}"
    return _Part(storage.join(root, ANNOTATIONS, files[-1]), folder)


def _image_id(folder: str, file_name: str) -> str:
    image_id = "/".join(escape_name(part) for part in file_name.split("/"))
    check_image_id(image_id, f"file_name in instances_{folder.rpartition('/')[2]}.json")
    return f"{folder}/{image_id}"


def _space(categories: dict[int, str], classes: str | Sequence[str] | None, where: str) -> LabelSpace:
    """The file's own names, or as many others in the same order."""
    names = list(categories.values())
    if classes is None:
        try:
            return label_space(["void", *names])
        except ValueError as problem:
            raise UserError(f"{storage.display(where)}: {problem}") from None
    space = given_space(classes)
    if len(space.classes) != len(names) + 1:
        have = len(space.classes) - 1
        raise UserError(f"data.classes: {have} classes, {storage.display(where)} has {len(names)} categories")
    return space

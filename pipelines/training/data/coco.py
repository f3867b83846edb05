"""COCO's layout: annotations/instances_*.json, from which masks are rendered on demand."""

from __future__ import annotations

import json
import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from segray.models.label_space import IGNORE_INDEX, LabelSpace, label_space, no_class_name
from segray.pipelines.config.commands.train import DataConfig
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.image_ids import check_image_id, escape_name
from segray.pipelines.io.images import ImageProblem
from segray.pipelines.training.data.class_names import configured_space
from segray.pipelines.training.data.coco_area import area
from segray.pipelines.training.data.coco_masks import Segmentation, check_segmentations, parse_json
from segray.pipelines.training.data.mask_checks import image_shape, list_samples
from segray.pipelines.training.data.samples import DataSet, Sample, refuse
from segray.pipelines.understood import PixelCounts

ANNOTATIONS = "annotations"


Shape = tuple[int, int, Segmentation]
"""Annotation id, class id and segmentation."""


class ImageRecord(TypedDict):
    """An image in the JSON file; sides in pixels."""

    id: int
    height: int
    width: int
    file_name: NotRequired[str]


@dataclass
class _Part:
    """Contents of one instances_*.json, by image_id (the path under the root)."""

    uri: str
    folder: str
    images: dict[str, ImageRecord] = field(default_factory=dict)
    shapes: dict[str, list[Shape]] = field(default_factory=lambda: defaultdict(list))


class CocoImages(DataSet):
    """COCO's training and validation images.

    Args:
        root: the data set's folder or URI.
        classes: as many as there are categories; None: the file's own names.

    Raises:
        UserError: files are missing or invalid, or name a file outside the data set.
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
        self.samples = {i: sample for part in self._parts for i, sample in self._samples(part).items()}
        self.train = [i for i in self.samples if i.startswith(f"{train.folder}/")]
        self.candidates = [i for i in self.train if self.samples[i].mask]
        if not self.candidates:
            where = storage.display(storage.join(root, train.folder))
            raise UserError(f"{storage.display(train.uri)} names none of the images in {where}")
        self.val = [i for i in val.images if i in self.samples] if val else None

    def with_mask(self, sample: Sample, mask_id: str) -> Sample | None:  # noqa: ARG002  masks come from the JSON file
        """The sample itself: published split files name PNG masks, but its mask comes from the JSON file."""
        return sample if sample.mask else None

    def contents(self, samples: Sequence[Sample]) -> list[frozenset[int]]:
        """The classes of each image's annotations, see `DataSet.contents`; no file is read."""
        return [frozenset(shape[1] for shape in self._shapes(sample)) for sample in samples]

    def pixels(self, samples: Sequence[Sample]) -> PixelCounts:
        """Pixels of each class by the areas of its annotations, see `DataSet.pixels`; no mask is rendered."""
        counts = [self._areas(sample) for sample in samples]
        return PixelCounts.of(counts, len(self.space.classes), IGNORE_INDEX)

    def check(self, samples: Sequence[Sample]) -> None:
        """Compare annotations with the images' headers, see `DataSet.check`; no mask is rendered."""
        refuse([problem for sample in samples if (problem := self._problem(sample))], "bad masks or images")

    def ready(self, samples: Iterable[Sample]) -> tuple[Sample, ...]:
        """The samples with their annotations."""
        return tuple(
            replace(sample, shapes=self._pack(sample)) if sample.mask else sample for sample in samples
        )

    def _samples(self, part: _Part) -> dict[str, Sample]:
        samples = list_samples(self.root, part.folder)
        for image_id, record in part.images.items():
            if image_id in samples:
                mask_id = f"{ANNOTATIONS}/{part.uri.rpartition('/')[2]}#{record['id']}"
                samples[image_id] = replace(samples[image_id], mask=part.uri, mask_id=mask_id)
        return samples

    def _read(self, part: _Part) -> dict[int, str]:
        """Fill a part from its file; return the categories but the background, sorted by id."""
        try:
            content = parse_json(storage.read_bytes(part.uri))
            categories = {int(c["id"]): str(c["name"]) for c in content["categories"]}
            ids = {image["id"]: _image_id(part.folder, image["file_name"]) for image in content["images"]}
            part.images = {ids[image["id"]]: _image_record(image) for image in content["images"]}
            class_of, classes = _class_ids(categories)
            for a in content["annotations"]:
                shape = (int(a["id"]), class_of[a["category_id"]], a["segmentation"])
                part.shapes[ids[a["image_id"]]].append(shape)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            why = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise UserError(f"{storage.display(part.uri)} is not a COCO instances file: {why}") from None
        return classes

    def _part_of(self, sample: Sample) -> _Part:
        return next(part for part in self._parts if sample.image_id in part.images)

    def _shapes(self, sample: Sample) -> list[Shape]:
        return self._part_of(sample).shapes.get(sample.image_id, [])

    def _areas(self, sample: Sample) -> NDArray[np.int64]:
        """Pixels of each id in an image, [256]; where annotations overlap, the pixels count for each."""
        record = self._part_of(sample).images[sample.image_id]
        counts = np.zeros(256, np.int64)
        for _, class_id, segmentation in self._shapes(sample):
            counts[class_id] += area(segmentation)
        counts[0] = max(0, record["height"] * record["width"] - int(counts.sum()))
        return counts

    def _pack(self, sample: Sample) -> bytes:
        record = self._part_of(sample).images[sample.image_id]
        packed = {"size": [record["height"], record["width"]], "shapes": self._shapes(sample)}
        return zlib.compress(json.dumps(packed, separators=(",", ":")).encode())

    def _problem(self, sample: Sample) -> str | None:
        if sample.mask is None:
            return f"image {sample.image_id} is in no instances_*.json of {storage.display(self.root)}"
        record = self._part_of(sample).images[sample.image_id]
        try:
            height, width = image_shape(sample.image)
        except ImageProblem as problem:
            return f"image {sample.image}: {problem.reason}"
        if (height, width) == (record["height"], record["width"]):
            return self._shape_problem(sample, height, width)
        sizes = f"{record['width']}x{record['height']} pixels, its image {sample.image} {width}x{height}"
        return f"{sample.mask_id} is {sizes}; both must have the same size"

    def _shape_problem(self, sample: Sample, height: int, width: int) -> str | None:
        shapes = self._shapes(sample)
        try:
            check_segmentations([(number, segmentation) for number, _, segmentation in shapes], height, width)
        except ValueError as problem:
            return f"{sample.mask_id}{problem}"
        return None


def _image_record(image: ImageRecord) -> ImageRecord:
    return {"id": image["id"], "height": int(image["height"]), "width": int(image["width"])}


def _class_ids(categories: dict[int, str]) -> tuple[dict[int, int], dict[int, str]]:
    """The class id of each category, 0 for one named background, and the other categories by their ids."""
    classes = {i: name for i, name in sorted(categories.items()) if no_class_name(name) is None}
    class_of = dict.fromkeys(categories, 0) | {i: number for number, i in enumerate(classes, start=1)}
    return class_of, classes


def open_coco(config: DataConfig) -> DataSet:
    """COCO in its own layout, of any year; void is 0, the classes are 1, 2, ... in the order of category ids.

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
    """The label space: `classes` if configured, else the names in the file."""
    names = list(categories.values())
    if classes is None:
        try:
            return label_space(["void", *names])
        except ValueError as problem:
            raise UserError(f"{storage.display(where)}: {problem}") from None
    space = configured_space(classes)
    if len(space.classes) != len(names) + 1:
        have = len(space.classes) - 1
        raise UserError(f"data.classes: {have} classes, {storage.display(where)} has {len(names)} categories")
    return space

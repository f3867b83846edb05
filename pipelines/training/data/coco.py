"""COCO's instances files, as COCO has them and as labelling tools write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from segray.models.label_space import LabelSpace, label_space, name_key, no_class_name
from segray.pipelines.config.commands.train import DataConfig
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.image_ids import check_image_id, escape_name
from segray.pipelines.io.members import display_part
from segray.pipelines.io.names import Names
from segray.pipelines.io.sources import read_file
from segray.pipelines.io.strict_json import parse_json
from segray.pipelines.training.data.annotated import IGNORED, AnnotatedImages, Annotations, Drawing
from segray.pipelines.training.data.class_names import configured_space
from segray.pipelines.training.data.coco_layout import Place, find_places
from segray.pipelines.training.data.coco_masks import Segmentation
from segray.pipelines.training.data.places import data_tree, list_samples, named_place
from segray.pipelines.training.data.samples import DataSet, Sample

_BAD = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)
_BOX_ONLY = "annotations are boxes without an outline: the pixels of their boxes are ignored"
_NO_OUTLINE = "annotations have neither an outline nor a box"
_UNLISTED = "annotations are of images that the file does not list"
_UNKNOWN = "annotations have a category that the file does not list: their pixels are ignored"
_ABSENT = "images of the file are not there"
_VAL_ONLY = "annotations have a category of the validation file alone: their pixels are ignored"
_NOT_CHOSEN = "annotations have a category that data.classes leaves out: their pixels are background"
_IN_BOTH = "images are in both files: they are used for validation alone"


@dataclass(frozen=True)
class _File:
    """An instances file.

    Attributes:
        place: where it and its images are.
        content: of the JSON file.
        categories: names by id, sorted by id.
    """

    place: Place
    content: Mapping[str, Any]
    categories: dict[int, str]

    @property
    def shown(self) -> str:
        """The file, for messages."""
        return display_part(self.place.uri, self.place.name)


def open_coco(config: DataConfig) -> DataSet:
    """Images with a COCO instances file; void is 0, the classes are 1, 2, ... in the order of category ids.

    Raises:
        UserError: files are missing or invalid, name an image outside the data set, or have other classes.
    """
    places = find_places(config)
    train, val = (None if place is None else _read(place) for place in places)
    assert train is not None
    chosen = _choose(train, config.classes)
    annotations = Annotations()
    samples, ids = _add(annotations, config, train, chosen.ids(train))
    val_samples, val_ids = _add(annotations, config, val, chosen.ids(val)) if val else ({}, [])
    for image_id in sorted(set(ids) & set(val_ids)):
        annotations.leave_out(_IN_BOTH, image_id)
    held_out = set(val_ids)
    return AnnotatedImages(
        config.root,
        chosen.space,
        {**samples, **val_samples},
        annotations,
        train=[i for i in samples if i not in held_out],
        val=val_ids if val else None,
    )


def _read(place: Place) -> _File:
    try:
        content = parse_json(read_file(place.uri))
        categories = {int(c["id"]): str(c["name"]) for c in content["categories"]}
        unused = _super(content)
        return _File(place, content, {i: n for i, n in sorted(categories.items()) if i not in unused})
    except _BAD as error:
        raise _no_file(display_part(place.uri, place.name), error) from None


def _no_file(shown: str, error: Exception) -> UserError:
    why = f"no {error}" if isinstance(error, KeyError) else str(error)
    return UserError(f"{shown} is not a COCO instances file: {why}")


def _super(content: Mapping[str, Any]) -> set[int]:
    """Ids of categories that only group the others, as Roboflow writes one: nothing is annotated with it."""
    used = {a["category_id"] for a in content["annotations"]}
    names = {c.get("supercategory") for c in content["categories"] if c.get("supercategory") != c["name"]}
    return {int(c["id"]) for c in content["categories"] if c["name"] in names and c["id"] not in used}


@dataclass(frozen=True)
class _Classes:
    """The classes that are learnt.

    Attributes:
        space: of the masks.
        by_name: class ids, by `name_key`.
        train: names of the training file's categories, by `name_key`.
        own: whether the user chose some of them.
    """

    space: LabelSpace
    by_name: Mapping[str, int]
    train: frozenset[str]
    own: bool

    def ids(self, file: _File) -> dict[int, tuple[int, str]]:
        """The class id of each category of a file, and why its annotations are not used ("": they are)."""
        return {i: self._id(name) for i, name in file.categories.items()}

    def _id(self, name: str) -> tuple[int, str]:
        key = name_key(name)
        if no_class_name(name):
            return 0, ""
        if key in self.by_name:
            return self.by_name[key], ""
        return (0, _NOT_CHOSEN) if key in self.train else (IGNORED, _VAL_ONLY)


def _choose(train: _File, classes: str | Sequence[str] | None) -> _Classes:
    """The classes of `data.classes`, matched by name or else by their order; else those of the training file.

    Raises:
        UserError: the class list does not fit the categories.
    """
    names = [name for name in train.categories.values() if no_class_name(name) is None]
    known = frozenset(name_key(name) for name in names)
    try:
        declared = label_space(["void", *names])
    except ValueError as problem:
        raise UserError(f"{train.shown}: {problem}") from None
    if classes is None:
        return _Classes(declared, _by_name(declared.classes), known, own=False)
    space = configured_space(classes)
    wanted = [name_key(name) for name in space.classes[1:]]
    if known.issuperset(wanted):
        return _Classes(space, _by_name(space.classes), known, own=True)
    if len(wanted) != len(names):
        raise UserError(
            f"data.classes: {len(wanted)} classes, {train.shown} has {len(names)} categories; "
            "give the names of the file, or as many as it has"
        )
    moved = next(
        (n for n, m in zip(space.classes[1:], names, strict=True) if name_key(n) in known - {name_key(m)}),
        None,
    )
    if moved is not None:
        raise UserError(
            f"data.classes: {moved!r} is another category of {train.shown}; give the names of the file"
        )
    return _Classes(space, {name_key(name): i for i, name in enumerate(names, start=1)}, known, own=True)


def _by_name(classes: Sequence[str]) -> dict[str, int]:
    return {name_key(name): i for i, name in enumerate(classes) if i}


def _add(
    annotations: Annotations, config: DataConfig, file: _File, class_of: Mapping[int, tuple[int, str]]
) -> tuple[dict[str, Sample], list[str]]:
    """Add a file's images and outlines; all images of its folder, and the ids of those that the file has."""
    try:
        names = {image["id"]: _file_name(image) for image in file.content["images"]}
        sizes = {i["id"]: (int(i["height"]), int(i["width"])) for i in file.content["images"]}
        samples, ids = _match(config, file, names)
        for number, name in names.items():
            if number not in ids:
                annotations.leave_out(_ABSENT, name)
                continue
            mask_id = f"{file.place.name}#{number}"
            annotations.drawings[ids[number]] = Drawing(file.place.uri, mask_id, *sizes[number])
        for place, annotation in enumerate(file.content["annotations"]):
            _add_one(annotations, annotation, place, names, ids, class_of)
    except _BAD as error:
        if isinstance(error, UserError):
            raise
        raise _no_file(file.shown, error) from None
    return samples, [i for i in dict.fromkeys(ids.values()) if i is not None]


def _add_one(
    annotations: Annotations,
    annotation: Mapping[str, Any],
    place: int,
    names: Mapping[object, str],
    ids: Mapping[object, str],
    class_of: Mapping[int, tuple[int, str]],
) -> None:
    number = int(annotation.get("id", place))
    example = f"annotation {number}"
    if annotation["image_id"] not in names:
        annotations.leave_out(_UNLISTED, example)
        return
    if annotation["image_id"] not in ids:
        return
    class_id, reason = class_of.get(annotation["category_id"], (IGNORED, _UNKNOWN))
    segmentation = annotation.get("segmentation") or None
    if segmentation is None:
        box = _box(annotation.get("bbox"))
        class_id, reason, segmentation = IGNORED, _BOX_ONLY if box else _NO_OUTLINE, box
    if reason:
        annotations.leave_out(reason, example)
    if segmentation is not None:
        annotations.shapes[ids[annotation["image_id"]]].append((number, class_id, segmentation))


def _box(box: object) -> Segmentation | None:
    """A box of x, y, width, height as a polygon; None for anything else."""
    if not isinstance(box, list) or len(box) != 4 or any(type(v) not in (int, float) for v in box):
        return None
    x, y, width, height = box
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def _file_name(image: Mapping[str, Any]) -> str:
    """The image's path, with the separators of any system, escaped as image ids are."""
    parts = image["file_name"].replace("\\", "/").removeprefix("./").split("/")
    return "/".join(escape_name(part) for part in parts)


def _match(
    config: DataConfig, file: _File, names: Mapping[object, str]
) -> tuple[dict[str, Sample], dict[object, str]]:
    """The images of the first folder that has some of the file's, and the image_id of each that is there.

    Names are only compared with those of a listing: no path of the file is opened.

    Raises:
        UserError: no folder has one of them, or a name leads out of the data set.
    """
    tried, root = [], data_tree(config)
    key = file.place.images_key
    for named in file.place.folders:
        tree, folder = named_place(config, root, key, named) if named else (root, "")
        samples = list_samples(config, folder, tree)
        listed = Names(i.removeprefix(f"{folder}/") if folder else i for i in samples)
        paths = {number: listed.find_path(name) for number, name in names.items()}
        ids = {n: f"{folder}/{name}" if folder else name for n, name in paths.items() if name is not None}
        for number in names.keys() - ids.keys():
            check_image_id(names[number], f"file_name in {file.place.name.rpartition('/')[2]}")
        if ids:
            return samples, ids
        tried.append(storage.display(storage.join(tree.root, folder) if folder else tree.root))
    raise UserError(f"{file.shown} names none of the images in {' or '.join(tried)}; {key}=FOLDER names it")

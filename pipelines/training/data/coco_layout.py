"""Where COCO, Roboflow, CVAT and Label Studio put their JSON files and images."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from segray.pipelines.config.commands.train import DataConfig
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.sources.trees import Tree
from segray.pipelines.training.data.places import data_tree
from segray.pipelines.understood import name_some

ANNOTATIONS = "annotations"
_ROBOFLOW = "_annotations.coco.json"
_PARTS = {"train": ("train",), "val": ("val", "valid", "validation")}
_SINGLE = ("instances_default.json", "result.json", "annotations.json", _ROBOFLOW, "coco.json")


@dataclass(frozen=True)
class Place:
    """An instances file and the folders where its images may be.

    Attributes:
        uri: the file.
        name: its path under the root.
        folders: paths under the root, the likeliest first; "" is the root.
        images_key: the configuration key that names the folder.
    """

    uri: str
    name: str
    folders: tuple[str, ...]
    images_key: str = "data.images"


def find_places(config: DataConfig) -> tuple[Place, Place | None]:
    """The training and the validation file: those of the keys, or else those of a known layout.

    Raises:
        UserError: no instances file, or several that nothing tells apart.
    """
    root = data_tree(config)
    if config.annotations is not None:
        train = _named(root, config.annotations, config.images, "data.annotations")
        if config.val_annotations is None:
            return train, None
        images = config.val_images or config.images
        return train, _as_val(_named(root, config.val_annotations, images, "data.val_annotations"))
    if config.val_annotations is not None:
        raise UserError("data.val_annotations: only with data.annotations, which names the training file")
    train = _part(root, "train", config.images) or _single(root, config.images)
    elsewhere = config.images if config.images and not root.exists(config.images.strip("/")) else None
    val = _part(root, "val", config.val_images or elsewhere)
    return train, None if val is None else _as_val(val)


def _as_val(place: Place) -> Place:
    return replace(place, images_key="data.val_images")


def is_coco(root: Tree) -> bool:
    """Whether a folder has COCO's folder of annotations, or a file that a known tool writes."""
    in_parts = (f"{part}/{_ROBOFLOW}" for parts in _PARTS.values() for part in parts)
    return any(root.exists(name) for name in (ANNOTATIONS, *_SINGLE, *in_parts))


def named_file(root: Tree, name: str, key: str) -> str:
    """A file that a key names, below the root or anywhere.

    Raises:
        UserError: there is none.
    """
    if storage.is_local(name) and not name.startswith("/") and root.exists(name):
        return root.uri(name)
    if not storage.exists(name):
        raise UserError(f"{key}: no file {storage.display(name)!r}, neither there nor below data.root")
    return name


def _named(root: Tree, name: str, images: str | None, key: str) -> Place:
    return _place(root, named_file(root, name, key), name, images)


def _place(root: Tree, uri: str, name: str, images: str | None) -> Place:
    if images is not None:
        return Place(uri, name, (images,))
    folder = name.rpartition("/")[0] if uri != name else ""
    stem = name.rpartition("/")[2].removesuffix(".json").removeprefix("instances_")
    folders = dict.fromkeys([stem, f"images/{stem}", folder, f"{folder}/images".strip("/"), "images", ""])
    return Place(
        uri,
        name,
        tuple(f for f in folders if f != ANNOTATIONS and (not f or root.exists(f))),
    )


def _part(root: Tree, kind: str, images: str | None) -> Place | None:
    """The newest year's instances file of a part, or Roboflow's file in the part's folder."""
    names = root.names(ANNOTATIONS)
    part_names = "|".join(_PARTS[kind])
    files = [
        name for name in names if re.fullmatch(rf"instances_({part_names})\w*\.json", name, re.IGNORECASE)
    ]
    if files:
        name = f"{ANNOTATIONS}/{files[-1]}"
        return _place(root, root.uri(name), name, images)
    for word in _PARTS[kind]:
        name = f"{word}/{_ROBOFLOW}"
        if root.exists(name):
            return _place(root, root.uri(name), name, images)
    return None


def _single(root: Tree, images: str | None) -> Place:
    """The one JSON file of a tool that does not divide its images."""
    files = [f"{ANNOTATIONS}/{name}" for name in root.names(ANNOTATIONS)]
    files = [name for name in [*files, *root.names("")] if _may_train(name)]
    usual = [name for name in files if name.rpartition("/")[2] in _SINGLE] or files
    if len(usual) == 1:
        return _place(root, root.uri(usual[0]), usual[0], images)
    where = storage.display(storage.join(root.root, ANNOTATIONS))
    there = f"; there is {name_some(files, 5)}" if files else ""
    raise UserError(f"data.root: no instances_train*.json in {where}{there}; data.annotations=FILE names it")


def _may_train(name: str) -> bool:
    """Whether a file is JSON and not named as one of validation or test images."""
    return re.search(r"\.json$", name, re.IGNORECASE) is not None and re.search(r"_(val|test)", name) is None

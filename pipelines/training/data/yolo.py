"""YOLO's segmentation labels in Ultralytics' layout: data.yaml, and a text file of polygons per image."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

from segray.pipelines.config.commands.train import DataConfig
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.images import ImageProblem
from segray.pipelines.io.members import display_part
from segray.pipelines.io.names import Names
from segray.pipelines.io.sources.trees import Tree
from segray.pipelines.printing import visible
from segray.pipelines.training.data.annotated import Annotations, Drawing
from segray.pipelines.training.data.coco_layout import named_file
from segray.pipelines.training.data.labelled_outlines import AnnotatedImage, outlined_images
from segray.pipelines.training.data.mask_checks import image_shape
from segray.pipelines.training.data.places import data_tree, list_samples
from segray.pipelines.training.data.samples import DataSet, Sample
from segray.pipelines.training.data.splits import read_names
from segray.pipelines.training.data.yolo_labels import (
    BadLines,
    named_description,
    read_description,
    read_label_file,
    read_polygons,
)

_READERS = 8
_MAX_PATHS, _DEEPEST = 100, 16
_NO_IMAGE = "label files are of images that are not there"
_UNANNOTATED = "images have an empty label file: they count as background alone"
_NO_FOLDER = "folders that data.yaml names are not there"
_UNUSED = "images are not used: of the part test, or of the part val and without a label file"


def open_yolo(config: DataConfig) -> DataSet:
    """Images and their label files: that of `images/train/a.jpg` is `labels/train/a.txt`.

    An image with an empty label file is background alone; one without a label file is unlabelled. Smaller
    objects lie on top of larger ones. The parts are those of data.yaml; images in folders called val are for
    validation, too.

    Raises:
        UserError: no data.yaml, no label file, or one that holds anything else than polygons.
    """
    tree = data_tree(config)
    annotations = Annotations()
    description = _Description(tree, config.annotations or named_description(tree), annotations)
    samples = list_samples(config, "", tree)
    files = tree.files("", follow=config.image.follow_links).uris
    labels = _label_files(samples, files, annotations)
    if not labels:
        image_id, where = next(iter(samples)), storage.display(config.root)
        raise UserError(
            f"data.root={where}: no label file (looked for {_label_of(image_id)} of {image_id}, ...)"
        )
    train, val, test = (description.part(key, files, samples) for key in ("train", "val", "test"))
    for image_id in sorted((val - labels.keys() | test - val) - train):
        annotations.leave_out(_UNUSED, image_id)
        del samples[image_id]
        labels.pop(image_id, None)
    images = list(_annotated(labels, files, samples, description.names, val - train))
    for image in images:
        if not image.outlines:
            annotations.leave_out(_UNANNOTATED, image.image_id)
    names = list(description.names.values())
    return outlined_images(config, samples, images, annotations, names, ordered=False)


class _Description:
    """What data.yaml says.

    Attributes:
        names: class names by their numbers in label files.

    Args:
        tree: the data set.
        file: its name, or another place of it.
        annotations: notes what it names and is not there.

    Raises:
        UserError: there is none, or it has no names.
    """

    def __init__(self, tree: Tree, file: str, annotations: Annotations) -> None:
        self._root, self._annotations = posixpath.basename(tree.root.rstrip("/")), annotations
        where = named_file(tree, file, "data.annotations")
        name = file.rpartition("/")[2]
        self._shown = display_part(where, name)
        self._content, self.names = read_description(where, name)

    def part(self, key: str, files: Mapping[str, str], samples: Mapping[str, Sample]) -> set[str]:
        """The images of a part. Its paths are only compared with those that are there.

        Raises:
            UserError: they are no paths, or one of a list of images that is not there.
        """
        value = self._content.get(key) or []
        paths = value if isinstance(value, list) else [value]
        if len(paths) > _MAX_PATHS or not all(isinstance(path, str) for path in paths):
            raise UserError(f"{self._shown}: {key} is no path, and no list of at most {_MAX_PATHS} paths")
        known = {folder for image_id in samples for folder in _folders(image_id.rpartition("/")[0])}
        folders: set[str] = set()
        images: set[str] = set()
        for path in paths:
            if path.endswith(".txt"):
                images.update(self._listed(key, path, files, samples))
            elif (found := next((end for end in self._folders(path) if end in known), None)) is not None:
                folders.add(found)
            elif key != "train":
                self._annotations.leave_out(_NO_FOLDER, f"{key}: {visible(path)[:100]}")
        return images | {i for i in samples if not folders.isdisjoint(_folders(i.rpartition("/")[0]))}

    def _folders(self, path: str) -> list[str]:
        """What a path may name in the data set; its last part alone where the one before it is the root."""
        ends = _ends(path, 2)
        before, _, last = ends[-1].partition("/") if ends else ("", "", "")
        return [*ends, last] if last and before == self._root else ends

    def _listed(
        self, key: str, path: str, files: Mapping[str, str], samples: Mapping[str, Sample]
    ) -> list[str]:
        name = next((end for end in _ends(path, 1) if end in files), None)
        if name is None and key == "test":
            return []
        if name is None:
            raise UserError(f"{self._shown}: {key} is the list {path[:100]!r}, which is not there")
        return read_names(files[name], f"{self._shown}: {key}", samples)


def _ends(path: str, least: int) -> list[str]:
    """A path, and what is left of it without its first folders: data.yaml counts from several places."""
    parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".", "..")][-_DEEPEST:]
    return ["/".join(parts[n:]) for n in range(max(min(1, len(parts)), len(parts) - least + 1))]


@lru_cache(1 << 12)
def _folders(folder: str) -> frozenset[str]:
    """A folder and all above it, up to the root, of those that a path may name."""
    parts = folder.split("/")[:_DEEPEST]
    return frozenset("/".join(parts[:n]) for n in range(len(parts) + 1))


def _label_files(
    samples: Mapping[str, Sample], files: Mapping[str, str], annotations: Annotations
) -> dict[str, str]:
    """The label file of each image that has one."""
    listed = Names(name for name in files if name.endswith(".txt"))
    found = ((image_id, listed.find(_label_of(image_id))) for image_id in samples)
    labels = {image_id: name for image_id, name in found if name is not None}
    for name in sorted(set(listed) - set(labels.values())):
        if "labels" in name.split("/"):
            annotations.leave_out(_NO_IMAGE, name)
    return labels


def _label_of(image_id: str) -> str:
    before, found, after = f"/{image_id}".rpartition("/images/")
    path = f"{before}/labels/{after}" if found else after
    return f"{path.rpartition('.')[0]}.txt".removeprefix("/")


def _annotated(
    labels: Mapping[str, str],
    files: Mapping[str, str],
    samples: Mapping[str, Sample],
    names: Mapping[int, str],
    validation: set[str],
) -> Iterator[AnnotatedImage]:
    bad = BadLines()
    with ThreadPoolExecutor(_READERS) as pool:
        shown = {image_id: display_part(files[name], name) for image_id, name in labels.items()}
        contents = pool.map(lambda i: _read(files[labels[i]], shown[i], samples[i].image), labels)
        for (image_id, name), (text, size) in zip(labels.items(), contents, strict=True):
            polygons = read_polygons(text, names, shown[image_id], bad)
            outlines = tuple(polygon.outline(size) for polygon in polygons)
            drawing = Drawing(files[name], name, *size)
            yield AnnotatedImage(image_id, drawing, outlines, image_id in validation)
    bad.refuse()


def _read(where: str, shown: str, image: str) -> tuple[str, tuple[int, int]]:
    """A label file, and (height, width) of its image."""
    try:
        return read_label_file(where, shown), image_shape(image)
    except ImageProblem as problem:
        raise UserError(f"image {image}: {problem.reason}") from None

"""Data sets with the folders images/ and masks/, as `segray picture-book` writes them."""

from __future__ import annotations

import re

from segray.models.label_space import LabelSpace
from segray.pipelines.config.commands.train import DataConfig
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.members import parse_member
from segray.pipelines.io.sources.trees import Tree
from segray.pipelines.masks.options import MaskOptions
from segray.pipelines.training.data.class_names import (
    configured_space,
    dataset_space,
    mask_options,
)
from segray.pipelines.training.data.mask_checks import MaskedImages, MaskFolders
from segray.pipelines.training.data.places import LABELMAP, data_tree, list_samples, place_of
from segray.pipelines.training.data.samples import DataSet, Sample

IMAGES, MASKS = "images", "masks"
_VAL_FILE = re.compile(r"val(id|idation)?([^a-z].*)?\.(tar|zip|parquet)", re.IGNORECASE)


def open_folder(config: DataConfig) -> DataSet:
    """A folder with images/ and masks/, which mirror each other: `images/a/1.jpg` has `masks/a/1.png`.

    `data.images` and `data.masks` give the two other names, or other sources. Of archives, lists and tables
    without these folders, all images and masks count. images/train/ and images/val/ are the parts. Without
    images/train/, all images outside images/val/ are training images; without images/val/, the data set has
    no validation part. A shard or table whose name starts with val is a validation part, too.

    Raises:
        UserError: no image, no mask but one is needed, no class names, or a mask that matches two images.
    """
    root = data_tree(config)
    images_tree, folder = place_of(config, root, "images", IMAGES)
    images = list_samples(config, folder, images_tree)
    options = mask_options(config)
    space = _space(config, root, options)
    masks_tree, masks_folder = place_of(config, root, "masks", MASKS)
    together = (images_tree.root, folder) == (masks_tree.root, masks_folder)
    masks = MaskFolders(masks_tree, [masks_folder], options.bound(space))
    data = MaskedImages(
        config.root, space, images, masks, folder=folder, together=together, required=config.needs_masks
    )
    start = f"{folder}/" if folder else ""
    val = [i for i, sample in data.samples.items() if i.startswith(f"{start}val/") or _in_val_file(sample)]
    train = [i for i in data.samples if i.startswith(f"{start}train/")]
    data.train = train or sorted(data.samples.keys() - set(val))
    data.candidates = [i for i in data.train if data.samples[i].mask]
    data.val = val or None
    return data


def _in_val_file(sample: Sample) -> bool:
    """Whether an image is in a shard or table of validation images, by its name."""
    member = parse_member(sample.image)
    name = member.file.rpartition("/")[2] if member else ""
    return _VAL_FILE.match(name) is not None


def _space(config: DataConfig, root: Tree, options: MaskOptions) -> LabelSpace:
    if config.classes is not None:
        return configured_space(config.classes)
    space = dataset_space(root, config.ignore_index) or options.space()
    if space is None and config.kind != "picture_book":
        hint = f" ({LABELMAP} there is such a table)" if root.exists(LABELMAP) else ""
        where = f"data.root={storage.display(config.root)}"
        raise UserError(
            f"{where} has no class_names.txt; write it (line 1 is id 0), or set data.classes or "
            f"data.colors{hint}"
        )
    return space or configured_space("picture_book")

"""Data sets with the folders images/ and masks/, as `segray picture-book` writes them."""

from __future__ import annotations

from segray.models.label_space import LabelSpace
from segray.pipelines.config.commands.train import DataConfig
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.masks.options import MaskOptions
from segray.pipelines.training.data.class_names import (
    configured_space,
    dataset_space,
    mask_options,
)
from segray.pipelines.training.data.mask_checks import MaskedImages, MaskFolders, list_samples
from segray.pipelines.training.data.samples import DataSet

IMAGES, MASKS = "images", "masks"


def open_folder(config: DataConfig) -> DataSet:
    """A folder with images/ and masks/, which mirror each other: `images/a/1.jpg` has `masks/a/1.png`.

    `data.images` and `data.masks` give the two other names. images/train/ and images/val/ are its parts.
    Without images/train/, all images outside images/val/ are training images; without images/val/, the data
    set has no validation part.

    Raises:
        UserError: no image, no mask, no class names, or a mask that matches two images.
    """
    folder = (config.images or IMAGES).strip("/")
    images = list_samples(config.root, folder, follow=config.image.follow_links)
    options = mask_options(config)
    space = _space(config, options)
    masks = MaskFolders(config.root, [(config.masks or MASKS).strip("/")], options.bound(space))
    data = MaskedImages(config.root, space, images, masks, folder=folder)
    val = [i for i in data.samples if i.startswith(f"{folder}/val/")]
    train = [i for i in data.samples if i.startswith(f"{folder}/train/")]
    data.train = train or [i for i in data.samples if not i.startswith(f"{folder}/val/")]
    data.candidates = [i for i in data.train if data.samples[i].mask]
    data.val = val or None
    return data


def _space(config: DataConfig, options: MaskOptions) -> LabelSpace:
    if config.classes is not None:
        return configured_space(config.classes)
    space = dataset_space(config.root, config.ignore_index) or options.space()
    if space is None and config.kind != "picture_book":
        where = f"data.root={storage.display(config.root)}"
        raise UserError(
            f"{where} has no class_names.txt; write it (line 1 is id 0), or set data.classes or data.colors"
        )
    return space or configured_space("picture_book")

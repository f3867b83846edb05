"""Data sets of images/ and masks/, as `segray picture-book` writes them."""

from __future__ import annotations

from segray.models.label_space import LabelSpace
from segray.pipelines.config.commands.train import DataConfig
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.training.data.class_names import given_space, own_space
from segray.pipelines.training.data.mask_checks import MaskedImages, MaskFolders, listed
from segray.pipelines.training.data.samples import DataSet

IMAGES, MASKS = "images", "masks"


def open_folder(config: DataConfig) -> DataSet:
    """A folder with images/ and masks/, which mirror each other: `images/a/1.jpg` has `masks/a/1.png`.

    images/train/ and images/val/ are its parts. Without images/train/, everything outside of images/val/ is
    for training; without images/val/, the data set has no validation part of its own.

    Raises:
        UserError: no image, no mask, no class names, or a mask that two images could have.
    """
    images = listed(config.root, IMAGES)
    space = _space(config)
    masks = MaskFolders(config.root, [MASKS])
    data = MaskedImages(config.root, space, images, masks, folder=IMAGES, void=config.ignore_index)
    val = [i for i in data.items if i.startswith(f"{IMAGES}/val/")]
    train = [i for i in data.items if i.startswith(f"{IMAGES}/train/")]
    data.train = train or [i for i in data.items if not i.startswith(f"{IMAGES}/val/")]
    data.candidates = [i for i in data.train if data.items[i].mask]
    data.val = val or None
    return data


def _space(config: DataConfig) -> LabelSpace:
    if config.classes is not None:
        return given_space(config.classes)
    own = own_space(config.root)
    if own is None and config.kind != "picture_book":
        where = f"data.root={storage.display(config.root)}"
        raise UserError(f"{where} has no class_names.txt; write it (line 1 is id 0) or give data.classes")
    return own or given_space("picture_book")

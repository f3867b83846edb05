"""PASCAL VOC's layout: JPEGImages, SegmentationClass, ImageSets/Segmentation."""

from __future__ import annotations

from segray.pipelines.config.commands.train import DataConfig
from segray.pipelines.io import storage
from segray.pipelines.training.data.class_names import given_space, own_space
from segray.pipelines.training.data.mask_checks import MaskedImages, MaskFolders, listed
from segray.pipelines.training.data.samples import DataSet, Item
from segray.pipelines.training.data.splits import read_split

IMAGES = "JPEGImages"
MASKS = ("SegmentationClass", "SegmentationClassAug")
"""VOC's own masks go before those that SBD adds."""
SETS = "ImageSets/Segmentation"


def open_voc(config: DataConfig) -> DataSet:
    """The training images are those of trainaug.txt, else of train.txt, else all that val.txt does not name.

    Labelled images are drawn from train.txt, the unlabelled rest comes from all training images, as published
    comparisons have it. Masks of SegmentationClassAug stand in where SegmentationClass has none.

    Raises:
        UserError: no image, no mask, a list that names images which are not there, or bad class names.
    """
    images = listed(config.root, IMAGES)
    given = None if config.classes is None else given_space(config.classes)
    space = given or own_space(config.root) or given_space("voc")
    masks = MaskFolders(config.root, MASKS)
    data = MaskedImages(config.root, space, images, masks, folder=IMAGES, void=config.ignore_index)
    val = _named(data, "val")
    outside = {item.image_id for item in val or ()}
    train = _named(data, "train")
    wider = _named(data, "trainaug") or train
    everything = [item for i, item in data.items.items() if i not in outside]
    data.train = sorted(item.image_id for item in (everything if wider is None else wider))
    drawn = train or wider or everything
    data.candidates = sorted(item.image_id for item in drawn if item.mask)
    data.val = None if val is None else [item.image_id for item in val]
    return data


def _named(data: DataSet, name: str) -> tuple[Item, ...] | None:
    """The images of one of VOC's lists; None without the list."""
    path = storage.join(data.root, SETS, f"{name}.txt")
    return read_split(path, data, "data.root") if storage.exists(path) else None

"""PASCAL VOC's layout: JPEGImages, SegmentationClass, ImageSets/Segmentation."""

from __future__ import annotations

from segray.pipelines.config.commands.train import DataConfig
from segray.pipelines.io.sources.trees import Tree
from segray.pipelines.training.data.class_names import (
    configured_space,
    dataset_space,
    mask_options,
)
from segray.pipelines.training.data.mask_checks import MaskedImages, MaskFolders
from segray.pipelines.training.data.places import data_tree, list_samples, place_of
from segray.pipelines.training.data.samples import DataSet, Sample
from segray.pipelines.training.data.splits import read_split

IMAGES = "JPEGImages"
MASKS = ("SegmentationClass", "SegmentationClassAug")
"""VOC's own masks have precedence over those that SBD adds."""
SETS = "ImageSets/Segmentation"


def open_voc(config: DataConfig) -> DataSet:
    """PASCAL VOC; its training images are those of trainaug.txt, else of train.txt, else all not in val.txt.

    Labelled images are sampled from train.txt, unlabelled ones are all other training images, as in published
    comparisons. SegmentationClassAug has the masks that SegmentationClass lacks.

    Raises:
        UserError: no image, no mask, a list with images that do not exist, or bad class names.
    """
    root = data_tree(config)
    tree, folder = place_of(config, root, "images", IMAGES)
    images = list_samples(config, folder, tree)
    configured = None if config.classes is None else configured_space(config.classes)
    options = mask_options(config)
    declared = configured or dataset_space(root, config.ignore_index) or options.space()
    space = declared or configured_space("voc")
    masks = MaskFolders(root, MASKS, options.bound(space))
    data = MaskedImages(config.root, space, images, masks, folder=folder)
    val = _image_set(root, data, "val")
    val_ids = {sample.image_id for sample in val or ()}
    train = _image_set(root, data, "train")
    augmented = _image_set(root, data, "trainaug") or train
    others = [sample for i, sample in data.samples.items() if i not in val_ids]
    data.train = sorted(sample.image_id for sample in (others if augmented is None else augmented))
    candidates = train or augmented or others
    data.candidates = sorted(sample.image_id for sample in candidates if sample.mask)
    data.val = None if val is None else [sample.image_id for sample in val]
    return data


def _image_set(root: Tree, data: DataSet, name: str) -> tuple[Sample, ...] | None:
    """The images of a list in ImageSets; None without the list."""
    path = f"{SETS}/{name}.txt"
    return read_split(root.uri(path), data, "data.root") if root.exists(path) else None

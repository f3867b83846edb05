from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from segray.pipelines.training.data.datasets import LabelledImages
from segray.pipelines.training.data.samples import Sample
from tests.pipelines.training.data.small_sets import mask_of, names, opened, refusal, shared, voc_set


def ids(samples: Sequence[Sample]) -> list[int]:
    return [int(name[-6:]) for name in (n.removesuffix(".jpg") for n in names(samples))]


def test_labelled_from_train_the_rest_from_trainaug(tmp_path: Path) -> None:
    data = opened(voc_set(tmp_path), kind="voc", labelled="2")
    assert len(data.labelled) == 2
    assert set(ids(data.labelled)) < {0, 1, 2, 3}
    assert sorted(ids(data.labelled) + ids(data.unlabelled)) == [0, 1, 2, 3, 4, 5]
    assert ids(data.validation) == [6, 7]
    assert (len(data.space.classes), data.space.classes[20]) == (21, "tvmonitor")


def test_palette_masks_are_class_ids(tmp_path: Path) -> None:
    data = opened(voc_set(tmp_path), kind="voc")
    assert ids(data.labelled) == [0, 1, 2, 3]
    assert torch.equal(LabelledImages(data.labelled)[2][1], torch.from_numpy(mask_of(3, void=255)))


def test_without_sbd_the_rest_comes_from_train(tmp_path: Path) -> None:
    root = voc_set(tmp_path)
    (root / "ImageSets" / "Segmentation" / "trainaug.txt").unlink()
    assert ids(opened(root, kind="voc", labelled="3").unlabelled) in [[i] for i in range(4)]


def test_without_lists_all_images_train_and_some_masks_validate(tmp_path: Path) -> None:
    data = opened(voc_set(tmp_path, lists=False), kind="voc")
    assert (len(data.labelled), len(data.unlabelled), len(data.validation)) == (6, 1, 2)
    assert ids(data.unlabelled) == [8]


def test_unimatch_lists_find_the_augmented_masks(tmp_path: Path) -> None:
    root = voc_set(tmp_path)
    lines = [f"JPEGImages/2007_{i:06}.jpg SegmentationClass/2007_{i:06}.png\n" for i in (0, 4)]
    (root / "labelled.txt").write_text("".join(lines))
    data = opened(root, kind="voc", labelled=str(root / "labelled.txt"))
    masks = [sample.mask_id for sample in data.labelled]
    assert masks == ["SegmentationClass/2007_000000.png", "SegmentationClassAug/2007_000004.png"]
    assert ids(data.unlabelled) == [1, 2, 3, 5]
    (root / "labelled.txt").write_text("2007_000000.jpg SegmentationClassAug/2007_000000.png")
    data = opened(root, kind="voc", labelled=str(root / "labelled.txt"))
    assert torch.equal(LabelledImages(data.labelled)[0][1], torch.from_numpy(mask_of(20)))


def test_a_list_of_images_that_are_not_there_is_refused(tmp_path: Path) -> None:
    root = voc_set(tmp_path)
    path = root / "ImageSets" / "Segmentation" / "val.txt"
    path.write_text("2007_000006\n2007_999999\n")
    assert refusal(root, kind="voc") == f"data.root={path}, line 2: no image 2007_999999 in the data set"


def test_a_validation_image_without_a_mask_is_refused(tmp_path: Path) -> None:
    root = voc_set(tmp_path)
    (root / "SegmentationClass" / "2007_000007.png").unlink()
    text = refusal(root, kind="voc")
    assert text.startswith(
        f"image JPEGImages/2007_000007.jpg has no mask in {root}: looked for 2007_000007.png"
    )


def test_photographs_of_voc(tmp_path: Path) -> None:
    root = shared("voc-mini")
    (tmp_path / "l.txt").write_text("2011_000003\n2011_000025\n")
    (tmp_path / "v.txt").write_text("JPEGImages/2011_000006.jpg SegmentationClass/2011_000006.png\n")
    keys: dict[str, Any] = {"labelled": str(tmp_path / "l.txt"), "validation": str(tmp_path / "v.txt")}
    data = opened(root, kind="voc", classes="voc", **keys)
    image, mask = LabelledImages(data.labelled)[0]
    assert (image.shape, mask.unique().tolist()) == ((3, 338, 500), [0, 5, 15, 255])
    assert LabelledImages(data.validation)[0][1].unique().tolist() == [0, 9, 15, 18, 255]
    classes = opened(root, kind="voc", **keys).space.classes
    assert (classes[0], classes[5], classes[20], len(classes)) == ("background", "bottle", "tv/monitor", 21)

"""Small data sets in the real formats: images/ and masks/, PASCAL VOC, COCO."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from segray.models.label_space import label_space
from segray.pipelines.config.commands.train import DataConfig
from segray.pipelines.errors import UserError
from segray.pipelines.io.label_png import encode_gray_png
from segray.pipelines.training.data.samples import Sample, TrainingData
from segray.pipelines.training.data.training_data import open_data

CLASSES = ("background", "cat", "dog")
HEIGHT, WIDTH = 12, 16
SHARED = Path(__file__).parents[5] / "shared" / "data"


def shared(name: str) -> str:
    """A folder of real photographs beside the repository; tests that need it are skipped without it."""
    if not (SHARED / name).is_dir():
        pytest.skip(f"no photographs at {SHARED / name}")
    return str(SHARED / name)


def mask_of(*class_ids: int, void: int | None = None) -> NDArray[np.uint8]:
    """uint8 [12, 16]: a stripe of each class on background, and a last row of void."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for place, class_id in enumerate(class_ids):
        mask[1 + place] = class_id
    if void is not None:
        mask[-1] = void
    return mask


def draw_image(path: Path, size: tuple[int, int] = (WIDTH, HEIGHT), value: int = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 30, 60)).save(path)


def write_mask(path: Path, mask: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_gray_png(mask))


def write_palette(path: Path, mask: NDArray[np.uint8]) -> None:
    """As VOC's: indices into VOC's colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(mask, "P")
    image.putpalette(label_space("voc").palette().ravel().tolist())
    image.save(path)


def folder_set(root: Path, train: int = 6, val: int = 2, *, flat: bool = False) -> Path:
    """images/ and masks/; the last two training images have no mask; class 2 is in every third image."""
    for index in range(train + val):
        part = "" if flat else ("train" if index < train else "val")
        draw_image(root / "images" / part / f"{index:02}.png", value=index)
        if index not in (train - 1, train - 2):
            mask = mask_of(1, *([2] if index % 3 == 0 else []), void=255)
            write_mask(root / "masks" / part / f"{index:02}.png", mask)
    (root / "class_names.txt").write_text("\n".join(CLASSES))
    return root


def voc_set(root: Path, *, lists: bool = True) -> Path:
    """Four images of train.txt, two more of trainaug.txt with masks of SBD, two of val.txt, one of none."""
    names = [f"2007_{i:06}" for i in range(9)]
    for i, name in enumerate(names):
        draw_image(root / "JPEGImages" / f"{name}.jpg", value=i)
        if i < 8:
            folder = "SegmentationClassAug" if i in (4, 5) else "SegmentationClass"
            save = write_mask if i in (4, 5) else write_palette
            save(root / folder / f"{name}.png", mask_of(i + 1, void=255))
    # A mask that SBD drew of an image that VOC has, too.
    write_mask(root / "SegmentationClassAug" / f"{names[0]}.png", mask_of(20))
    if lists:
        sets = root / "ImageSets" / "Segmentation"
        sets.mkdir(parents=True)
        for list_name, chosen in (("train", names[:4]), ("trainaug", names[:6]), ("val", names[6:8])):
            (sets / f"{list_name}.txt").write_text("\n".join(chosen) + "\n")
    return root


CATEGORIES = [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}, {"id": 18, "name": "dog"}]


def annotation(
    number: int, image: int, category: int, segmentation: Any, *, crowd: int = 0
) -> dict[str, Any]:
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "segmentation": segmentation,
        "iscrowd": crowd,
    }


def box(x0: int, y0: int, x1: int, y1: int) -> list[list[int]]:
    """A polygon that covers the pixels x0 to x1 - 1 and y0 to y1 - 1."""
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


def instances(ids: Sequence[int], annotations: Sequence[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    images = [
        {"id": i, "file_name": f"{i:012}.jpg", "height": HEIGHT, "width": WIDTH, "coco_url": "x"} for i in ids
    ]
    content = {"info": {}, "images": images, "annotations": list(annotations), "categories": CATEGORIES}
    return {**content, **changes}


def coco_set(root: Path, annotations: Sequence[dict[str, Any]] | None = None, **changes: Any) -> Path:
    """Images 1 to 4 for training, the last without annotations, 7 and 8 for validation."""
    train = [annotation(i, i, [1, 18, 90][i - 1], box(0, 0, 4 * i, 6)) for i in (1, 2, 3)]
    parts = {
        "train2017": instances((1, 2, 3, 4), train if annotations is None else annotations, **changes),
        "val2017": instances((7, 8), [annotation(9, 7, 1, box(0, 0, 8, 8))]),
    }
    (root / "annotations").mkdir(parents=True)
    for name, content in parts.items():
        (root / "annotations" / f"instances_{name}.json").write_text(json.dumps(content))
        for image in (1, 2, 3, 4) if name == "train2017" else (7, 8):
            draw_image(root / name / f"{image:012}.jpg", value=image)
    return root


def opened(root: Path | str, seed: int = 0, **keys: Any) -> TrainingData:
    return open_data(DataConfig(root=str(root), **keys), seed)


def refusal(root: Path | str, **keys: Any) -> str:
    """The message that a data set is refused with."""
    with pytest.raises(UserError) as caught:
        opened(root, **keys)
    assert caught.value.exit_code == 2
    return str(caught.value)


def names(samples: Sequence[Sample]) -> list[str]:
    return [sample.image_id for sample in samples]

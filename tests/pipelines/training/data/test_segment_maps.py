"""The segments of a label set as maps of numbers, through reading, crop and flip."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segray.pipelines.errors import UserError
from segray.pipelines.label_set.store import write_part
from segray.pipelines.training.augmentation.augment import WeakAugment
from segray.pipelines.training.data.datasets import UnlabelledImages
from segray.pipelines.training.data.samples import Sample
from segray.pipelines.training.data.segment_maps import SegmentMaps
from tests.pipelines.label_sets import HEIGHT, PROVENANCE, WIDTH, ok_row, segment_row, tables

SHAPE = (HEIGHT, WIDTH)


@pytest.fixture
def root(tmp_path: Path) -> str:
    """Image a: a large segment under a small one and beside a third; image b: none; c: of another size."""
    masks = np.zeros((3, *SHAPE), bool)
    masks[0, 2:15, 3:20], masks[1, 4:8, 5:9], masks[2, 0:2, 22:30] = True, True, True
    rows = [segment_row("a.png", number, masks[k]) for number, k in enumerate((1, 0, 2))]
    rows += [segment_row("c.png", 0, np.ones((4, 4), bool))]
    write_part(str(tmp_path / "set"), *tables([ok_row("a.png"), ok_row("b.png"), ok_row("c.png")], rows))
    return str(tmp_path / "set")


def test_smaller_segments_lie_on_top_and_numbers_fall_with_the_area(root: str) -> None:
    maps = SegmentMaps(root, ["a.png", "b.png"])
    expected = np.zeros(SHAPE, np.int16)
    expected[2:15, 3:20], expected[4:8, 5:9], expected[0:2, 22:30] = 1, 2, 3
    # Both small ones have 16 pixels: the order of the table decides.
    for _ in range(2):
        np.testing.assert_array_equal(maps.read("a.png", SHAPE), expected)
    assert not maps.read("b.png", SHAPE).any()
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(maps)).read("a.png", SHAPE), expected)


def test_segments_of_another_size_are_refused(root: str) -> None:
    maps = SegmentMaps(root, ["c.png"])
    with pytest.raises(UserError, match=r"the segments of c\.png: a mask of another size than the image"):
        maps.read("c.png", SHAPE)


def test_a_label_set_without_segments_is_refused(root: str) -> None:
    with pytest.raises(UserError, match=r"^pseudo\.segments: data\.labels=\S+ has no segments; pseudo"):
        SegmentMaps(root, ["b.png"])


def test_they_ride_through_crop_and_flip_with_the_image(root: str, tmp_path: Path) -> None:
    """The image's red channel holds the numbers, so that both must move alike; padding has none."""
    numbers = SegmentMaps(root, ["a.png"]).read("a.png", SHAPE)
    pixels = np.repeat((numbers * 80).astype(np.uint8)[..., None], 3, 2)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    samples = [Sample("a.png", str(tmp_path / "a.png"))]
    image, *maps = UnlabelledImages(samples, root, PROVENANCE["classes"], segments=True)[0]
    assert [m.dtype for m in maps] == [torch.uint8, torch.uint8, torch.int16]
    for seed, flip in ((0, 0.0), (1, 0.0), (2, 1.0), (3, 1.0)):
        augment = WeakAugment(crop=26, scale=(1.0, 1.0), flip=flip)
        view = augment([image], [maps], torch.Generator().manual_seed(seed))
        assert torch.equal(view.maps[2][0], (view.images[0, 0] * 255 / 80).round().to(torch.int16))
        assert not view.maps[2][view.padding].any()
        assert view.padding.any()
    assert len(UnlabelledImages(samples, root, PROVENANCE["classes"])[0]) == 3

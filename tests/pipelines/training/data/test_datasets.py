from __future__ import annotations

import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from segray.pipelines.errors import UserError
from segray.pipelines.label_set.store import DamagedPartError, LabelStore
from segray.pipelines.training.data.datasets import LabelledImages, UnlabelledImages
from segray.pipelines.training.data.samples import Sample
from segray.pipelines.training.data.stored_labels import StoredLabels
from tests.pipelines.label_set.small_store import PROVENANCE, bad_row, ok_row, write_store
from tests.pipelines.training.data.small_sets import CLASSES, HEIGHT, WIDTH, draw_image, mask_of, write_mask

N = 300
"""Images of the label set: its first part has three row groups."""


def label_of(index: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """A label that tells its image's number."""
    label = np.zeros((HEIGHT, WIDTH), np.uint8)
    label.flat[: index % 150 + 1] = 1 + index // 150
    return label


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> str:
    rows = [ok_row(f"{i:03}.png", label_of(i)) for i in range(N)]
    rows[7] = bad_row("007.png")
    record = {**PROVENANCE, "classes": list(CLASSES)}
    return str(write_store(tmp_path_factory.mktemp("labels"), rows[:290], rows[290:], provenance=record))


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    folder = tmp_path_factory.mktemp("images")
    chosen = (0, 7, 127, 128, 200, 289, 295, 299)
    for i in chosen:
        draw_image(folder / f"{i:03}.png", value=i % 250)
    draw_image(folder / "unheard.png")
    names = [*(f"{i:03}.png" for i in chosen), "unheard.png"]
    return [Sample(f"images/{name}", str(folder / name), label_id=name) for name in names]


def test_label_and_confidence_belong_to_their_image(labels: str, samples: list[Sample]) -> None:
    images = UnlabelledImages(samples, labels, CLASSES)
    assert len(images) == 9
    for sample, (image, label, confidence) in zip(samples, (images[i] for i in range(9)), strict=True):
        name = sample.image_id.removeprefix("images/").removesuffix(".png")
        known = name not in ("007", "unheard")
        expected = label_of(int(name)) if known else np.full((HEIGHT, WIDTH), 255, np.uint8)
        assert np.array_equal(label.numpy(), expected), name
        assert np.array_equal(confidence.numpy(), np.where((expected > 0) & known, 204, 0)), name
        assert (image.dtype, label.dtype, confidence.dtype) == (torch.uint8,) * 3
        assert image.shape == (3, HEIGHT, WIDTH)
        assert image[:, 0, 0].tolist() == [90 if name == "unheard" else int(name) % 250, 30, 60]


def test_the_greatest_confidence_of_a_model_is_no_hand_s(tmp_path: Path) -> None:
    label = label_of(3)
    row = ok_row("a.png", label, confidence=np.full((HEIGHT, WIDTH), 255, np.uint8))
    record = {**PROVENANCE, "classes": list(CLASSES)}
    store = str(write_store(tmp_path / "labels", [row], provenance=record))
    found = UnlabelledImages([Sample("a.png", "a.png")], store, CLASSES).labels(0)
    assert found is not None
    confidence = found[1].numpy()
    assert np.array_equal(confidence, np.where(label == 255, 0, 254))


def test_large_label_sets_are_read_a_row_group_at_a_time(labels: str) -> None:
    ids = [f"{i:03}.png" for i in (299, 0, 7, 130, 1, 256, 129)]
    held, read = StoredLabels(labels, ids), StoredLabels(labels, ids, in_memory=0)
    assert [held.read(i) for i in ids] == [read.read(i) for i in ids]
    assert held.read("007.png") is None
    assert held.read("002.png") is None
    assert ("000.png" in held, "007.png" in held) == (True, False)
    far: StoredLabels = pickle.loads(pickle.dumps(read))
    assert [far.read(i) for i in ids] == [read.read(i) for i in ids]
    assert (
        len(pickle.dumps(read))
        < 2000
        < len(pickle.dumps(StoredLabels(labels, [f"{i:03}.png" for i in range(N)])))
    )


def test_processes_of_a_data_loader_read_the_same(labels: str, samples: list[Sample]) -> None:
    images = UnlabelledImages(samples, labels, CLASSES)
    images._labels = StoredLabels(labels, [str(sample.label_id) for sample in samples], in_memory=0)
    here = [images[i] for i in range(len(samples))]
    loader = DataLoader(images, batch_size=None, num_workers=2, multiprocessing_context="spawn")
    for mine, theirs in zip(here, loader, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def test_without_a_label_set_nothing_is_known(samples: list[Sample]) -> None:
    images = UnlabelledImages(samples, None, CLASSES)
    _, label, confidence = images[0]
    assert (label.unique().tolist(), confidence.unique().tolist()) == ([255], [0])
    assert images.labels(0) is None


def test_labels_alone_are_read_without_the_image(labels: str) -> None:
    images = UnlabelledImages([Sample("003.png", "/nosuch/003.png")], labels, CLASSES)
    stored = images.labels(0)
    assert stored is not None
    assert np.array_equal(stored[0].numpy(), label_of(3))


def test_an_unreadable_image_is_replaced_by_the_next(
    labels: str, samples: list[Sample], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cut = tmp_path / "cut.png"
    cut.write_bytes(Path(samples[0].image).read_bytes()[:45])
    images = UnlabelledImages([samples[0], Sample("cut.png", str(cut))], labels, CLASSES)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert torch.equal(images[1][0], images[0][0])
            assert torch.equal(images[1][1], images[0][1])
    assert caplog.messages == [f"unlabelled image {cut} is skipped: truncated"]
    with pytest.raises(UserError, match="none of the unlabelled images can be read"):
        UnlabelledImages([Sample("cut.png", str(cut))], labels, CLASSES)[0]


def test_a_label_of_another_size_is_refused(labels: str, tmp_path: Path) -> None:
    draw_image(tmp_path / "003.png", (WIDTH, HEIGHT + 1))
    images = UnlabelledImages([Sample("003.png", str(tmp_path / "003.png"))], labels, CLASSES)
    with pytest.raises(UserError, match=rf"label of 003\.png: the PNG is {WIDTH}x{HEIGHT}, its image 16x13"):
        images[0]


def test_a_part_that_breaks_later_is_named(labels: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    (copy / "labels").mkdir(parents=True)
    for part in LabelStore(labels).parts():
        (copy / "labels" / part).write_bytes((Path(labels) / "labels" / part).read_bytes())
    stored = StoredLabels(str(copy), ["000.png"], in_memory=0)
    fresh: StoredLabels = pickle.loads(pickle.dumps(stored))
    part = stored._place["000.png"][0]
    (copy / "labels" / part).unlink()
    with pytest.raises(DamagedPartError, match=f"cannot read labels/{part}"):
        fresh.read("000.png")


def test_labelled_images_that_changed_are_named(tmp_path: Path) -> None:
    image, mask = tmp_path / "a.png", tmp_path / "m.png"
    draw_image(image)
    write_mask(mask, mask_of(1))
    images = LabelledImages([Sample("a.png", str(image), str(mask))])
    assert images[0][1].unique().tolist() == [0, 1]
    write_mask(mask, mask_of(1)[:-1])
    with pytest.raises(UserError, match=r"m\.png no longer has the size of its image"):
        images[0]
    mask.unlink()
    with pytest.raises(UserError, match=r"mask .*m\.png: "):
        images[0]
    image.unlink()
    with pytest.raises(UserError, match=r"image .*a\.png: "):
        images[0]

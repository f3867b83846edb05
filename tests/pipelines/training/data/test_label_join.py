from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from segray.pipelines.label_set.store import DamagedPartError, LabelStore
from segray.pipelines.training.data.datasets import UnlabelledImages
from segray.pipelines.training.data.samples import Sample
from tests.pipelines.label_set.small_store import PROVENANCE, bad_row, ok_row, write_store
from tests.pipelines.training.data.small_sets import CLASSES, draw_image, folder_set, mask_of, opened, refusal

TRAIN = [f"0{i}.png" for i in range(6)]


def provenance(classes: Sequence[str] = CLASSES) -> dict[str, object]:
    return {**PROVENANCE, "classes": list(classes)}


def label_set(
    out: Path, ids: Sequence[str], bad: Sequence[str] = (), classes: Sequence[str] = CLASSES
) -> str:
    """A label set in two parts; every label is a stripe of class 1 and one of class 2."""
    rows = [*(ok_row(i, mask_of(1, 2)) for i in ids), *(bad_row(i) for i in bad)]
    half = (len(rows) + 1) // 2
    parts = [part for part in (rows[:half], rows[half:]) if part]
    return str(write_store(out, *parts, provenance=provenance(classes)))


def known(samples: Sequence[Sample], labels: str) -> list[bool]:
    """Which of the samples have a label."""
    images = UnlabelledImages(samples, labels, CLASSES)
    return [bool((images[i][1] != 255).any()) for i in range(len(images))]


@pytest.mark.parametrize(
    "prefix", ["", "train/", "images/train/", "set/images/train/", "deep/set/images/train/"]
)
def test_any_folder_above_or_below_the_root_may_have_been_annotated(tmp_path: Path, prefix: str) -> None:
    root = folder_set(tmp_path / "deep" / "set")
    labels = label_set(tmp_path / "out", [prefix + name for name in TRAIN])
    data = opened(root, labels=labels, labelled="2")
    assert [sample.label_id for sample in data.unlabelled] == [
        prefix + i.image_id[-6:] for i in data.unlabelled
    ]
    assert known(data.unlabelled, labels) == [True] * 4


def test_validation_images_have_labels_where_they_were_annotated_too(tmp_path: Path) -> None:
    root = folder_set(tmp_path / "set")
    both = label_set(tmp_path / "both", [f"train/{n}" for n in TRAIN] + ["val/06.png", "val/07.png"])
    data = opened(root, labels=both, labelled="2")
    assert known(data.validation, both) == [True, True]


def test_an_id_of_images_train_is_not_taken_for_one_of_images_val(tmp_path: Path) -> None:
    root = folder_set(tmp_path / "set")
    for name in TRAIN:
        draw_image(root / "images" / "val" / name)
        (root / "masks" / "val" / name).write_bytes((root / "masks" / "train" / "00.png").read_bytes())
    labels = label_set(tmp_path / "out", TRAIN)
    data = opened(root, labels=labels, labelled="2")
    assert known(data.unlabelled, labels) == [True] * 4
    assert known(data.validation, labels) == [False] * 8


def test_ids_that_fit_two_folders_are_refused(tmp_path: Path) -> None:
    root = folder_set(tmp_path / "set", train=6, val=0, flat=True)
    for folder in ("a", "b"):
        for name in ("x.png", "y.png"):
            draw_image(root / "images" / folder / name)
    text = refusal(root, labels=label_set(tmp_path / "out", ["x.png", "y.png"]))
    assert text == (
        f"data.labels={tmp_path / 'out'}: its ids fit images under {root}/images/a as well as under "
        f"{root}/images/b; annotate {root} as a whole, so that ids differ, or set data.match=sha256"
    )


def test_ids_of_other_images_are_refused(tmp_path: Path) -> None:
    labels = label_set(tmp_path / "out", ["holiday/1.jpg", "holiday/2.jpg"])
    text = refusal(folder_set(tmp_path / "set"), labels=labels)
    assert text.startswith(
        f"data.labels={labels}: none of its images (such as holiday/1.jpg) is a training image"
    )


def test_missing_and_bad_images_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = folder_set(tmp_path / "set")
    (root / "l.txt").write_text("00.png\n")
    labels = label_set(tmp_path / "out", TRAIN[:3], bad=[TRAIN[4]])
    with caplog.at_level(logging.WARNING):
        data = opened(root, labels=labels, labelled=str(root / "l.txt"))
    assert [sample.image_id[-6:] for sample in data.unlabelled] == ["01.png", "02.png", "03.png", "05.png"]
    assert known(data.unlabelled, labels) == [True, True, False, False]
    assert caplog.messages == [
        f"1 unlabelled images are skipped: unreadable according to {labels}",
        f"2 of 4 unlabelled images have no zero-shot label in {labels}",
    ]


@pytest.mark.parametrize(
    ("classes", "difference"),
    [
        (("background", "cat", "fox"), "class 2 is 'fox' in the label set and 'dog' in the data"),
        (("background", "dog", "cat"), "class 1 is 'dog' in the label set and 'cat' in the data"),
        (("background", "cat"), "the label set has 2 classes, the data 3"),
        (("background", "cat", "dog", "fox"), "the label set has 4 classes, the data 3"),
    ],
)
def test_other_classes_are_refused_with_the_difference(
    tmp_path: Path, classes: tuple[str, ...], difference: str
) -> None:
    labels = label_set(tmp_path / "out", TRAIN, classes=classes)
    text = refusal(folder_set(tmp_path / "set"), labels=labels)
    assert text == f"data.labels={labels}: {difference}; set data.classes, or relabel"


def test_background_and_void_are_both_no_class(tmp_path: Path) -> None:
    labels = label_set(tmp_path / "out", TRAIN, classes=("void", "cat", "dog"))
    assert known(opened(folder_set(tmp_path / "set"), labels=labels).unlabelled, labels) == [True, True]


def test_where_every_pixel_has_a_class_no_class_is_unknown(tmp_path: Path) -> None:
    root = folder_set(tmp_path / "set")
    (root / "class_names.txt").write_text("road\ncat\ndog\n")
    sure = np.full(mask_of().shape, 99, np.uint8)
    record = provenance(("background", "road", "cat", "dog"))
    rows = [ok_row(i, mask_of(1, 2), confidence=sure) for i in TRAIN]
    labels = str(write_store(tmp_path / "out", rows, provenance=record))
    data = opened(root, labels=labels)
    _, label, confidence = UnlabelledImages(data.unlabelled, labels, data.space.classes)[0]
    expected = np.full(label.shape, 255)
    expected[1], expected[2] = 0, 1
    assert np.array_equal(label.numpy(), expected)
    assert np.array_equal(confidence.numpy(), np.where(expected == 255, 0, 99))


def test_no_label_set(tmp_path: Path) -> None:
    text = refusal(folder_set(tmp_path / "set"), labels=str(tmp_path / "nosuch"))
    assert text.startswith(f"data.labels={tmp_path}/nosuch: no label set here")


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    changed = bytearray(data)
    changed[len(data) // 2] ^= 1
    contents = {"cut": data[: len(data) // 2], "flipped": bytes(changed), "emptied": b""}
    path.write_bytes(contents[how])


@pytest.mark.parametrize("how", ["cut", "flipped", "emptied"])
@pytest.mark.parametrize("which", [0, 1])
def test_a_damaged_part_is_refused_by_name(tmp_path: Path, how: str, which: int) -> None:
    root, labels = folder_set(tmp_path / "set"), label_set(tmp_path / "out", TRAIN)
    part = LabelStore(labels).parts()[which]
    damage(Path(labels) / "labels" / part, how)
    with pytest.raises(DamagedPartError) as caught:
        opened(root, labels=labels)
    assert f"labels/{part} is damaged" in str(caught.value)
    assert f"segray verify out={labels} repair=true" in str(caught.value)


def test_a_deleted_part_is_refused_by_name(tmp_path: Path) -> None:
    root, labels = folder_set(tmp_path / "set"), label_set(tmp_path / "out", TRAIN)
    (Path(labels) / "run.json").write_text(json.dumps({"rows": {"ok": 6}}))
    assert len(opened(root, labels=labels).unlabelled) == 2
    part = LabelStore(labels).parts()[1]
    (Path(labels) / "labels" / part).unlink()
    with pytest.raises(DamagedPartError, match=rf"labels/{part} is missing: 3 of 6 rows are there"):
        opened(root, labels=labels)

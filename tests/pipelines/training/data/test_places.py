"""Unlabelled images elsewhere than the masks, and labels that find their images by content or by name."""

from __future__ import annotations

import logging
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from segray.models.label_space import IGNORE_INDEX
from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.io.sources import list_images, write_manifest
from segray.pipelines.training.data.datasets import UnlabelledImages
from segray.pipelines.training.data.samples import TrainingData
from segray.pipelines.training.data.splits import write_split
from segray.pipelines.training.data.summary import data_lines
from tests.pipelines.label_set.small_store import PROVENANCE, ok_row, write_store
from tests.pipelines.training.data.small_sets import (
    CLASSES,
    draw_image,
    folder_set,
    mask_of,
    opened,
    refusal,
)


def annotated(out: Path, images: Path, ids: Sequence[str] | None = None) -> str:
    """A label set of images, with their contents; the label of the n-th has n % 2 + 1 as its only class."""
    names = sorted(str(p.relative_to(images)) for p in images.rglob("*.png"))
    rows = []
    for index, name in enumerate(names if ids is None else ids):
        row = ok_row(name, mask_of(index % 2 + 1), image=(images / name).read_bytes())
        rows.append(row)
    return str(write_store(out, rows, provenance={**PROVENANCE, "classes": list(CLASSES)}))


def photographs(folder: Path, n: int = 4) -> Path:
    for index in range(n):
        draw_image(folder / f"{index // 2}" / f"p{index}.png", value=100 + index)
    return folder


def classes_found(data: TrainingData, labels: str) -> list[int]:
    """The only class in the label of each unlabelled image; 0 without a label."""
    images = UnlabelledImages(data.unlabelled, labels, CLASSES)
    found = (set(images[i][1].unique().tolist()) - {IGNORE_INDEX, 0} for i in range(len(images)))
    return [next(iter(ids), 0) for ids in found]


def zero_shot_line(root: Path, data: TrainingData, **keys: Any) -> str:
    run = TrainConfig.model_validate({"out": "run", "data": {"root": str(root), **keys}})
    return next(text for text in data_lines(run, data) if text.startswith("zero-shot"))


def re_sorted(tmp_path: Path) -> tuple[Path, str]:
    """A data set that was annotated, and whose images were then sorted into other folders."""
    root = folder_set(tmp_path / "set")
    labels = annotated(tmp_path / "labels", root / "images" / "train")
    for number in (4, 5):
        target = root / "images" / "train" / "new" / "place" / f"{number:02}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        (root / "images" / "train" / f"{number:02}.png").rename(target)
    return root, labels


def test_images_in_other_folders_are_found_by_content(tmp_path: Path) -> None:
    root, labels = re_sorted(tmp_path)
    assert classes_found(opened(root, labels=labels, match="sha256"), labels) == [1, 2]


def test_images_under_other_names_are_found_by_content_alone(tmp_path: Path) -> None:
    root, labels = re_sorted(tmp_path)
    (root / "images/train/new/place/05.png").rename(root / "images/train/new/place/five.png")
    by_content = opened(root, labels=labels, match="sha256")
    assert classes_found(by_content, labels) == [1, 2]
    assert zero_shot_line(root, by_content, labels=labels, match="sha256") == (
        f"zero-shot   2 of 2 unlabelled images by sha256, 0 of 2 validation images by sha256, from {labels}"
    )
    by_name = opened(root, labels=labels, match="name")
    assert classes_found(by_name, labels) == [1, 0]


def test_images_in_other_folders_are_found_by_name(tmp_path: Path) -> None:
    root, labels = re_sorted(tmp_path)
    assert classes_found(opened(root, labels=labels, match="name"), labels) == [1, 2]


def test_a_file_that_has_changed_is_not_found_by_content(tmp_path: Path) -> None:
    root, labels = re_sorted(tmp_path)
    draw_image(root / "images/train/new/place/04.png", value=222)
    assert classes_found(opened(root, labels=labels, match="sha256"), labels) == [0, 2]


def test_an_image_that_is_not_found_by_content_gets_no_label_by_its_id(tmp_path: Path) -> None:
    root, photos = folder_set(tmp_path / "set"), photographs(tmp_path / "photos")
    labels = annotated(tmp_path / "labels", photos)
    draw_image(photos / "0" / "p0.png", value=222)
    data = opened(root, labels=labels, unlabelled=str(photos), match="sha256")
    assert classes_found(data, labels) == [0, 2, 1, 2]


def test_ambiguous_names_are_refused_in_one_line(tmp_path: Path) -> None:
    root, labels = re_sorted(tmp_path)
    draw_image(root / "images/train/more/05.png", value=7)
    assert refusal(root, labels=labels, match="name") == (
        "data.match=name: 1 names are ambiguous, such as 05.png: images/train/more/05.png and "
        "images/train/new/place/05.png in the data; data.match=sha256 tells them apart"
    )


def test_a_name_that_the_label_set_has_twice_is_refused(tmp_path: Path) -> None:
    root = folder_set(tmp_path / "set")
    photos = photographs(tmp_path / "photos")
    shutil.copy(root / "images/train/04.png", photos / "0" / "04.png")
    draw_image(photos / "1" / "04.png", value=9)
    labels = annotated(tmp_path / "labels", photos)
    assert refusal(root, labels=labels, match="name") == (
        f"data.match=name: 1 names are ambiguous, such as 04.png: 0/04.png and 1/04.png in "
        f"data.labels={labels}; data.match=sha256 tells them apart"
    )
    assert sorted(classes_found(opened(root, labels=labels, match="sha256"), labels)) == [0, 1]


@pytest.mark.parametrize(("match", "what"), [("sha256", "content"), ("name", "file name")])
def test_a_label_set_of_other_images_is_refused(tmp_path: Path, match: str, what: str) -> None:
    root = folder_set(tmp_path / "set")
    labels = annotated(tmp_path / "labels", photographs(tmp_path / "photos"))
    assert refusal(root, labels=labels, match=match) == (
        f"data.labels={labels}: none of 4 images has the {what} of one of its images"
    )


def test_the_error_for_other_ids_names_the_key(tmp_path: Path) -> None:
    labels = annotated(tmp_path / "labels", photographs(tmp_path / "photos"))
    assert refusal(folder_set(tmp_path / "set"), labels=labels).endswith(
        "or set data.match=sha256 (by content) or data.match=name (by file name)"
    )


@pytest.mark.parametrize("annotated_folder", [".", ".."])
def test_unlabelled_images_lie_elsewhere(tmp_path: Path, annotated_folder: str) -> None:
    root, photos = folder_set(tmp_path / "set", val=0), photographs(tmp_path / "all" / "photos")
    labels = annotated(tmp_path / "labels", (photos / annotated_folder).resolve())
    data = opened(root, labels=labels, unlabelled=str(photos))
    assert [sample.image_id for sample in data.unlabelled] == ["0/p0.png", "0/p1.png", "1/p2.png", "1/p3.png"]
    assert classes_found(data, labels) == [1, 2, 1, 2]
    assert len(data.labelled) + len(data.validation) == 4


def test_what_was_understood_names_the_source(tmp_path: Path) -> None:
    root, photos = folder_set(tmp_path / "set"), photographs(tmp_path / "photos")
    labels = annotated(tmp_path / "labels", photos, ["0/p0.png", "1/p3.png"])
    data = opened(root, labels=labels, unlabelled=str(photos))
    run = TrainConfig.model_validate({"out": "run", "data": {"root": str(root), "labels": labels}})
    assert data_lines(run, data)[1:3] == [
        f"images      4 labelled, 4 unlabelled from {photos}, 2 validation",
        f"zero-shot   2 of 4 unlabelled images by id, 0 of 2 validation images by sha256, from {labels}",
    ]


def test_validation_images_elsewhere_are_not_matched_by_their_ids(tmp_path: Path) -> None:
    root, photos = folder_set(tmp_path / "set"), photographs(tmp_path / "photos")
    # An id as that of images/val/06.png, of another image; 07.png is the image itself.
    draw_image(photos / "06.png", value=200)
    shutil.copy(root / "images/val/07.png", photos / "other.png")
    labels = annotated(tmp_path / "labels", photos)
    data = opened(root, labels=labels, unlabelled=str(photos))
    assert [sample.label_id for sample in data.validation] == ["", "other.png"]
    # A copy of a validation image is not trained on.
    assert "other.png" not in [sample.image_id for sample in data.unlabelled]
    assert len(data.unlabelled) == 5


@pytest.mark.parametrize("kind", ["glob", "manifest", "tar", "list", "several"])
def test_unlabelled_images_of_other_kinds_of_sources(tmp_path: Path, kind: str) -> None:
    root, photos = folder_set(tmp_path / "set"), photographs(tmp_path / "photos")
    labels = annotated(tmp_path / "labels", photos)
    source = str(photos / "1" / "*.png")
    if kind == "manifest":
        source = str(photos / "some.parquet")
        write_manifest([ref for ref in list_images(str(photos)) if ref.image_id.startswith("1/")], source)
    elif kind == "tar":
        source = str(tmp_path / "photos.tar")
        with tarfile.open(source, "w") as archive:
            archive.add(photos / "1", "1")
    elif kind == "list":
        source = str(photos / "some.txt")
        Path(source).write_text(f"{photos}/1/p2.png\n{photos}/1/p3.png\n")
    elif kind == "several":
        source = f"{photos}/1/p2.png,{photos}/1/p3.png"
    data = opened(root, labels=labels, unlabelled=source)
    assert classes_found(data, labels) == [1, 2]


def test_a_manifest_may_not_leave_its_folder_without_the_key(tmp_path: Path) -> None:
    root, photos = folder_set(tmp_path / "set"), photographs(tmp_path / "photos")
    manifest = tmp_path / "list" / "some.parquet"
    manifest.parent.mkdir()
    write_manifest(list_images(str(photos)), str(manifest))
    text = refusal(root, unlabelled=str(manifest))
    assert text.startswith(f"data.unlabelled={manifest}: manifest ")
    assert "with data.image.roots=FOLDER" in text
    data = opened(root, unlabelled=str(manifest), image={"roots": [str(photos)]})
    assert len(data.unlabelled) == 4


def test_a_link_in_a_manifests_folder_does_not_lead_out(tmp_path: Path) -> None:
    root, photos = folder_set(tmp_path / "set"), photographs(tmp_path / "photos")
    secret = tmp_path / "secret.png"
    draw_image(secret)
    refs = list(list_images(str(photos)))
    write_manifest(refs, str(photos / "some.parquet"))
    Path(refs[0].uri).unlink()
    Path(refs[0].uri).symlink_to(secret)
    images = UnlabelledImages(opened(root, unlabelled=str(photos / "some.parquet")).unlabelled, None, CLASSES)
    # It is left out: another image comes in its place.
    assert images[0][0][0, 0, 0] == 101


def test_labelled_and_validation_images_are_not_unlabelled_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = folder_set(tmp_path / "set")
    photos = photographs(tmp_path / "photos")
    (photos / "00.png").symlink_to(root / "images/train/00.png")
    (photos / "06.png").symlink_to(root / "images/val/06.png")
    with caplog.at_level(logging.INFO):
        data = opened(root, unlabelled=str(photos))
    assert len(data.unlabelled) == 4
    assert f"data.unlabelled={photos}: 2 images are labelled or validation images too" in caplog.messages


def test_a_source_of_nothing_but_masked_images_is_refused(tmp_path: Path) -> None:
    root = folder_set(tmp_path / "set")
    text = refusal(root, unlabelled=str(root / "images" / "val"))
    assert text == (
        f"data.unlabelled={root}/images/val: all of its 2 images are labelled or validation images"
    )


def test_a_source_without_images_is_refused_with_the_key(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    text = refusal(folder_set(tmp_path / "set"), unlabelled=str(tmp_path / "empty"))
    assert text.startswith(f"data.unlabelled={tmp_path}/empty: no image in {tmp_path}/empty;")


def test_a_missing_source_is_refused_with_what_is_allowed(tmp_path: Path) -> None:
    text = refusal(folder_set(tmp_path / "set"), unlabelled=str(tmp_path / "nosuch"))
    assert text == (
        f"data.unlabelled: no file '{tmp_path}/nosuch' "
        "(allowed: a split file, a folder, or another source as in annotate)"
    )


def test_the_split_of_a_run_names_images_elsewhere_by_their_path(tmp_path: Path) -> None:
    root, photos = folder_set(tmp_path / "set"), photographs(tmp_path / "photos", 2)
    write_split(str(tmp_path / "u.txt"), opened(root, unlabelled=str(photos)).unlabelled)
    assert (tmp_path / "u.txt").read_text() == f"{photos}/0/p0.png\n{photos}/0/p1.png\n"

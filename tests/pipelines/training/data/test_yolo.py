"""YOLO's polygons as training's data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segray.models import plain_yaml
from segray.pipelines.config.commands.train import DataConfig
from segray.pipelines.training.data import coco_masks, yolo, yolo_labels
from segray.pipelines.training.data.datasets import LabelledImages
from segray.pipelines.training.data.samples import TrainingData
from segray.pipelines.training.data.training_data import READERS
from tests.pipelines.exporting.labelled import CLASSES, LABELS, RECORD, export, no_ignored, write_labels
from tests.pipelines.label_set.small_store import ok_row, write_manifest, write_store
from tests.pipelines.training.data.small_sets import HEIGHT, WIDTH, draw_image, names, opened, refusal

YAML = "path: ../datasets/animals\ntrain: images/train\nval: images/val\nnames:\n  0: cat\n  1: dog\n"


def polygon(class_id: object, *corners: tuple[int, int]) -> str:
    """A line of a label file, of corners in pixels."""
    return " ".join([str(class_id), *(f"{x / WIDTH:.6f} {y / HEIGHT:.6f}" for x, y in corners)])


def square(class_id: object, low: int, high: int) -> str:
    return polygon(class_id, (low, low), (high, low), (high, high), (low, high))


def write_label(root: Path, name: str, *lines: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def yolo_set(root: Path, *lines: str, described: str = YAML) -> Path:
    """Two images for training and one for validation, each with all lines."""
    for name in ("train/a", "train/b", "val/c"):
        draw_image(root / "images" / f"{name}.jpg")
        write_label(root, f"labels/{name}.txt", *lines)
    (root / "data.yaml").write_text(described)
    return root


def masks(data: TrainingData) -> dict[str, np.ndarray[Any, Any]]:
    samples = (*data.labelled, *data.validation)
    pairs = zip(samples, LabelledImages(samples), strict=True)  # type: ignore[call-overload]
    return {sample.image_id: mask.numpy() for sample, (_, mask) in pairs}


def test_polygons_are_drawn_the_smaller_ones_on_top(tmp_path: Path) -> None:
    bent = polygon(0, (8, 6), (14, 6), (14, 8), (10, 8), (10, 11), (8, 11))
    data = opened(yolo_set(tmp_path, square(0, 2, 4), "", square("1", 0, 8), bent), kind="yolo")
    assert data.space.classes == ("background", "cat", "dog")
    assert names(data.labelled) == ["images/train/a.jpg", "images/train/b.jpg"]
    assert (names(data.validation), data.left_out) == (["images/val/c.jpg"], ())
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[:8, :8], expected[2:4, 2:4] = 2, 1
    expected[6:8, 8:14], expected[8:11, 8:10] = 1, 1
    assert all(np.array_equal(mask, expected) for mask in masks(data).values())


def test_classes_are_matched_by_name(tmp_path: Path) -> None:
    root = yolo_set(tmp_path, square(0, 0, 4), square(1, 6, 9))
    data = opened(root, kind="yolo", classes="dog")
    assert set(np.unique(masks(data)["images/train/a.jpg"])) == {0, 1}
    assert any("name that the class list leaves out" in line and "cat" in line for line in data.left_out)


def test_what_labels_and_parts_do_not_say(tmp_path: Path) -> None:
    """Roboflow's layout: an empty label, images without one, a label without its image, a part for tests."""
    labelled = ("train/{}/a", "valid/{}/c", "test/{}/e")
    for name in (*labelled, "train/{}/bare", "train/{}/none", "valid/{}/d"):
        draw_image(tmp_path / f"{name.format('images')}.jpg")
    for name in (*labelled, "train/{}/gone"):
        write_label(tmp_path, f"{name.format('labels')}.txt", square(0, 1, 5))
    write_label(tmp_path, "train/labels/bare.txt")
    paths = "train: ../train/images\nval: ../valid/images\n"
    (tmp_path / "data.yaml").write_text(f"{paths}test: ../test/images\nnc: 1\nnames: ['cat']\n")
    data = opened(tmp_path, kind="yolo")
    assert names(data.labelled) == ["train/images/a.jpg", "train/images/bare.jpg"]
    assert (names(data.unlabelled), names(data.validation)) == (
        ["train/images/none.jpg"],
        ["valid/images/c.jpg"],
    )
    assert not masks(data)["train/images/bare.jpg"].any()
    assert data.left_out == (
        "1 label files are of images that are not there (such as train/labels/gone.txt)",
        f"2 {yolo._UNUSED} (such as test/images/e.jpg)",
        "1 images have an empty label file: they count as background alone (such as train/images/bare.jpg)",
    )


@pytest.mark.parametrize(
    ("parts", "validation"),
    [
        ("train: images/one\nval: images/two\n", ["two/c.jpg", "two/d.jpg"]),
        ("train: [/home/me/images/one]\nval: ['D:\\\\me\\\\images\\\\two']\n", ["two/c.jpg", "two/d.jpg"]),
        ("train: train.txt\nval: ./val.txt\ntest: test-dev.txt\n", ["two/d.jpg"]),
        # The same for both, as segray and others write it where there is one part.
        ("train: images\nval: images\n", []),
        ("val: images/elsewhere\n", []),
    ],
)
def test_parts_of_other_names(tmp_path: Path, parts: str, validation: list[str]) -> None:
    for name in ("one/a", "one/b", "two/c", "two/d"):
        draw_image(tmp_path / "images" / f"{name}.jpg")
        write_label(tmp_path, f"labels/{name}.txt", square(0, 1, 5))
    (tmp_path / "train.txt").write_text("data/images/one/a.jpg\ndata/images/one/b.jpg\n")
    (tmp_path / "val.txt").write_text("./images/two/d.jpg\n")
    (tmp_path / "data.yaml").write_text(f"{parts}names: [cat]\n")
    data = READERS["yolo"](DataConfig(kind="yolo", root=str(tmp_path)))
    assert list(data.val or ()) == [f"images/{name}" for name in validation]
    assert len(data.train) == 4 - len(validation)


@pytest.mark.parametrize("before", ["/home/me/set", "../set", "D:\\\\me\\\\set"])
def test_folders_of_the_root_s_own_name_and_folders_that_are_not_there(tmp_path: Path, before: str) -> None:
    root = tmp_path / "set"
    for name in ("first/a", "first/b", "second/c", "third/d"):
        draw_image(root / f"{name}.jpg")
        write_label(root, f"{name}.txt", square(0, 1, 5))
    parts = f'val: "{before}/second"\ntest: ["{before}/third", "{before}/fourth"]\n'
    (root / "data.yaml").write_text(f"{parts}names: [cat]\n")
    data = opened(root, kind="yolo")
    assert names(data.labelled) == ["first/a.jpg", "first/b.jpg"]
    assert names(data.validation) == ["second/c.jpg"]
    (line,) = (line for line in data.left_out if yolo._NO_FOLDER in line)
    assert "fourth" in line


def test_labels_beside_their_images_and_a_description_elsewhere(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for name in "ab":
        draw_image(root / f"{name}.jpg")
        write_label(root, f"{name}.txt", square(1, 1, 5))
    (tmp_path / "animals.yaml").write_text(YAML)
    assert refusal(root, kind="yolo") == (
        "data.annotations: no file 'data.yaml', neither there nor below data.root"
    )
    data = opened(root, kind="yolo", annotations=str(tmp_path / "animals.yaml"), validation="none")
    assert names(data.labelled) == ["a.jpg", "b.jpg"]
    assert "give the folder of the images, and data.annotations=FILE" in refusal(tmp_path / "animals.yaml")
    for path in root.glob("*.txt"):
        path.unlink()
    assert refusal(root, kind="yolo", annotations=str(tmp_path / "animals.yaml")) == (
        f"data.root={root}: no label file (looked for a.txt of a.jpg, ...)"
    )


def test_names_of_a_program_without_a_description(tmp_path: Path) -> None:
    root = yolo_set(tmp_path, square(0, 0, 4), square(1, 6, 9))
    (root / "data.yaml").unlink()
    (root / "classes.txt").write_text("cat\ndog\n")
    data = opened(root, kind="yolo")
    assert data.space.classes == ("background", "cat", "dog")
    assert names(data.validation) == ["images/val/c.jpg"]
    # Labels of each part beside its images.
    for part in ("train", "val"):
        for kind in ("images", "labels"):
            (root / part).mkdir(exist_ok=True)
            (root / kind / part).rename(root / part / kind)
    for kind in ("images", "labels"):
        (root / kind).rmdir()
    assert opened(root, kind="yolo").space.classes == ("background", "cat", "dog")


def test_a_name_s_line_is_its_number_whatever_the_name_is(tmp_path: Path) -> None:
    root = yolo_set(tmp_path, square(1, 0, 4), square(3, 6, 9))
    (root / "data.yaml").unlink()
    (root / "classes.txt").write_text("# 1\n2 euro\n\na, b\n")
    assert opened(root, kind="yolo").space.classes == ("background", "# 1", "2 euro", "a, b")
    (root / "classes.txt").write_text("\n")
    assert "it holds no class name; allowed: one per line, the first is class 0" in refusal(root, kind="yolo")


GOOD = square(0, 1, 5)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("0 0.5 0.5 0.2 0.2", "line 2: a box; boxes are no masks: export polygons"),
        (
            "0 0.1 0.1 0.9 0.9 0.5",
            "line 2: 6 numbers; allowed: a class, then x and y of three corners or more",
        ),
        ("0", "line 2: 1 numbers; allowed"),
        (f"{GOOD} 0.5", "line 2: 10 numbers; allowed"),
        (square(2, 1, 5), "line 2: class 2 has no name; there are 2 names"),
        (square(-1, 1, 5), "line 2: class -1 has no name"),
        (square("0.5", 1, 5), "line 2: class 0.5 has no name"),
        (square("nan", 1, 5), "line 2: class nan has no name"),
        (square("cat", 1, 5), "line 2: not numbers alone; allowed: a class, then x and y of each corner"),
        ("0 0 0 1 0 1 1.5", "line 2: a coordinate of 1.5; allowed: shares of the image's sides, 0 to 1"),
        ("0 0 0 1 0 1 -0.1", "line 2: a coordinate of -0.1;"),
        ("0 0 0 1 0 1 nan", "line 2: a coordinate of nan;"),
        ("0 0 0 1 0 1 1e999", "line 2: a coordinate of inf;"),
        ("0 0 0 600 0 600 400", "line 2: a coordinate of 600;"),
    ],
)
def test_label_files_of_anything_else_than_polygons_are_refused(tmp_path: Path, line: str, why: str) -> None:
    text = refusal(yolo_set(tmp_path, GOOD, line), kind="yolo")
    assert text.startswith(f"{tmp_path}/labels/train/a.txt, {why}")
    assert "\n" not in text


def test_bad_lines_are_counted_and_the_first_few_problems_have_an_example(tmp_path: Path) -> None:
    box = "0 0.5 0.5 0.2 0.2"
    root = yolo_set(tmp_path, box, GOOD, box, square(7, 1, 5))
    write_label(root, "labels/val/c.txt", "cat", "0 0 0 1 0 1 2", "0 0 0 1 0 1 3")
    first = f"{root}/labels/train/a.txt"
    assert refusal(root, kind="yolo") == (
        f"{first}, line 1: a box; boxes are no masks: export polygons, as YOLO's segmentation tasks have "
        f"them (3 more such lines); {first}, line 4: class 7 has no name; there are 2 names (1 more such "
        f"lines); {root}/labels/val/c.txt, line 1: not numbers alone; allowed: a class, then x and y of each "
        "corner; 9 bad lines in 3 files"
    )


def test_label_files_that_are_made_to_harm_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = yolo_set(tmp_path, GOOD) / "labels" / "train" / "a.txt"
    path.write_bytes(b"\xff\xfe0 0 0 1 0 1 1")
    assert f"{path}: no label file of YOLO ('utf-8' codec" in refusal(tmp_path, kind="yolo")
    path.write_bytes(f"{GOOD}\r".encode() * 3)
    monkeypatch.setattr(coco_masks, "MAX_ANNOTATIONS", 2)
    assert f"{path}: 3 annotations (allowed: at most 2 per image)" in refusal(tmp_path, kind="yolo")
    monkeypatch.setattr(yolo_labels, "_MAX_BYTES", len(GOOD))
    assert f"{path}: no label file of YOLO (" in refusal(tmp_path, kind="yolo")
    (tmp_path / "images" / "train" / "a.jpg").write_bytes(b"hello")
    path.write_text(GOOD)
    assert refusal(tmp_path, kind="yolo").startswith(f"image {tmp_path}/images/train/a.jpg: ")


@pytest.mark.parametrize(
    ("described", "why"),
    [
        ("train: images/train\n", "no list of class names; YOLO's data.yaml has one under `names`"),
        ("names: {cat: 0}", "no list of class names"),
        ("names: [[cat]]", "a name that is a list or a mapping"),
        ("names: [", "not YAML"),
        ("names: !!python/object/apply:os.system [touch x]", "not YAML"),
        ("names: [cat]\nval: 5", "val is no path, and no list of at most 100 paths"),
        ("names: [cat]\ntrain: {a: b}", "train is no path"),
        (f"names: [cat]\nval: [{'images/val,' * 101}]", "val is no path"),
        ("names: [cat]\nval: gone.txt", "val is the list 'gone.txt', which is not there"),
        # Outside of the data set there is such a file.
        ("names: [cat]\nval: ../secret.txt", "val is the list '../secret.txt', which is not there"),
        ('names: [cat]\nval: "a\\0.txt"', r"val is the list 'a\x00.txt', which is not there"),
        ("names: [cat]\nval: hidden.txt", "no image nothing.jpg in the data set"),
    ],
)
def test_a_description_that_is_damaged_or_leads_out_is_refused(
    tmp_path: Path, described: str, why: str
) -> None:
    root = yolo_set(tmp_path / "set", GOOD, described=described)
    (tmp_path / "secret.txt").write_text("images/val/c.jpg\n")
    (root / "hidden.txt").write_text("nothing.jpg\n")
    text = refusal(root, kind="yolo")
    assert text.startswith(f"{root}/data.yaml: ")
    assert why in text
    assert "\n" not in text


@pytest.mark.parametrize("key", ["images", "masks", "val_annotations", "val_images"])
def test_keys_that_yolo_does_not_read_are_refused(tmp_path: Path, key: str) -> None:
    root = yolo_set(tmp_path, GOOD)
    text = refusal(root, kind="yolo", **{key: "images/train"})
    assert "picture_book" not in text
    assert text.startswith(f"data.{key}: only for data.kind=")
    assert text.endswith(", not yolo")


def test_a_long_description_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yolo_labels, "read_plain_yaml", lambda _: pytest.fail("it was parsed"))
    root = yolo_set(tmp_path, GOOD, described=f"{YAML}#{'x' * plain_yaml.MAX_BYTES}\n")
    assert refusal(root, kind="yolo").startswith(f"{root}/data.yaml: ")


def test_paths_that_lead_out_of_the_data_set_name_nothing(tmp_path: Path) -> None:
    root = yolo_set(tmp_path / "set", GOOD, described="train: /etc\nval: ../../../..\nnames: [cat]\n")
    data = opened(root, kind="yolo")
    assert names(data.validation) == ["images/val/c.jpg"]


def test_what_segray_exports_is_read_back(tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(write_labels(tmp_path), out, format="yolo-seg", val=0.25)
    data = opened(out, kind="yolo")
    assert data.space.classes == tuple(CLASSES)
    assert (len(data.labelled), len(data.validation)) == (3, 1)
    read = {name.split("/", 2)[2]: mask for name, mask in masks(data).items()}
    assert read.keys() == LABELS.keys()
    assert all(np.array_equal(mask, no_ignored(LABELS[name])) for name, mask in read.items())


def test_an_object_in_a_hole_of_another_is_read_back(tmp_path: Path) -> None:
    """The format has no holes: what is nothing in one is filled, what is another object lies on top."""
    label = np.zeros((HEIGHT, WIDTH), np.uint8)
    label[1:10, 1:10], label[3:7, 3:7], label[8, 2:5] = 1, 2, 0
    image = tmp_path / "photos" / "x.png"
    draw_image(image)
    row = {**ok_row("x.png", label, image=image.read_bytes()), "image": None}
    labels = write_store(tmp_path / "labels", [row], provenance=RECORD)
    write_manifest(labels, {"x.png": str(image)})
    export(labels, tmp_path / "out", format="yolo-seg")
    data = opened(tmp_path / "out", kind="yolo", validation="none")
    label[8, 2:5] = 1
    assert np.array_equal(masks(data)["images/train/x.png"], label)

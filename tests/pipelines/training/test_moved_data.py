"""A training run whose data was moved: places are not what makes a run, the data is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segray.pipelines.commands import train
from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.config.loading import load
from segray.pipelines.errors import UserError
from segray.pipelines.training.data.training_data import open_data
from segray.pipelines.training.data_record import DATA, data_differences, data_record
from segray.pipelines.training.run_folder import RunFolder
from tests.pipelines.training.runs import book, config


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set and its label set; never changed."""
    folder = tmp_path_factory.mktemp("original") / "book"
    book(folder, n=8)
    return folder


def places(folder: Path, original: Path) -> tuple[Path, Path]:
    """(label set, data set) of a copy in another folder."""
    shutil.copytree(original, folder)
    labels, root = book_places(original)
    return folder / labels.relative_to(original), folder / root.relative_to(original)


def book_places(folder: Path) -> tuple[Path, Path]:
    labels = next(folder.rglob("labels/part-*.parquet")).parent.parent
    return labels, next(path.parent for path in folder.rglob("masks") if path.is_dir())


def image_files(root: Path) -> list[Path]:
    return sorted((root / "images").iterdir())


def begun(tmp_path: Path, original: Path, *overrides: str) -> TrainConfig:
    """A run that was stopped before its first checkpoint."""
    run = config(tmp_path / "run", *book_places(original), *overrides)
    RunFolder(run).begin(open_data(run.data, run.seed))
    return run


def check(run: TrainConfig) -> None:
    """What `train` does before it starts."""
    folder = RunFolder(run)
    folder.check(may_move=True)
    folder.check_data(open_data(run.data, run.seed))


def refusal(run: TrainConfig) -> list[str]:
    with pytest.raises(UserError) as caught:
        check(run)
    assert caught.value.exit_code == 2
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{run.out} was made with another configuration:"
    assert lines[-1] == "give another out=DIR"
    return lines[1:-1]


@pytest.mark.slow
def test_a_run_is_resumed_with_moved_data(tmp_path: Path, original: Path) -> None:
    first = config(tmp_path / "run", *book_places(original), "train.epochs=1")
    train.execute(first)
    history = (tmp_path / "run" / "history.json").read_bytes()
    moved = config(tmp_path / "run", *places(tmp_path / "new", original), "train.epochs=1")
    train.execute(moved)
    assert (tmp_path / "run" / "history.json").read_bytes() == history
    assert load(TrainConfig, str(tmp_path / "run" / "config.yaml")).data == moved.data


def test_moved_data_is_the_same_data(tmp_path: Path, original: Path) -> None:
    begun(tmp_path, original)
    check(config(tmp_path / "run", *places(tmp_path / "new", original)))


def test_moved_split_files_are_the_same_if_their_images_are(tmp_path: Path, original: Path) -> None:
    names = [path.name for path in image_files(book_places(original)[1])]
    for file, line in (("a.txt", names[1]), ("same.txt", f"images/{names[1]}"), ("other.txt", names[2])):
        (tmp_path / file).write_text(f"{line}\n")
    begun(tmp_path, original, f"data.labelled={tmp_path}/a.txt")
    new = places(tmp_path / "new", original)
    check(config(tmp_path / "run", *new, f"data.labelled={tmp_path}/same.txt"))
    other = config(tmp_path / "run", *new, f"data.labelled={tmp_path}/other.txt")
    assert refusal(other)[0] == "  data.labelled: other images, by their ids"


def test_another_setting_is_refused_with_moved_data(tmp_path: Path, original: Path) -> None:
    begun(tmp_path, original)
    moved = config(tmp_path / "run", *places(tmp_path / "new", original), "train.lr=0.5", "data.labelled=4")
    assert refusal(moved) == ["  data.labelled: '3' -> '4'", "  train.lr: 0.0005 -> 0.5"]


def unlabelled_files(run: TrainConfig) -> list[Path]:
    return [Path(sample.image) for sample in open_data(run.data, run.seed).unlabelled]


def test_less_images_are_refused(tmp_path: Path, original: Path) -> None:
    begun(tmp_path, original)
    moved = config(tmp_path / "run", *places(tmp_path / "new", original))
    lost = unlabelled_files(moved)[0]
    lost.unlink()
    lines = refusal(moved)
    assert all(line.startswith("  data.") for line in lines)
    assert any("images" in line for line in lines)


def test_another_image_of_that_name_is_refused_by_its_size(tmp_path: Path, original: Path) -> None:
    begun(tmp_path, original)
    moved = config(tmp_path / "run", *places(tmp_path / "new", original))
    Image.new("RGB", Image.open(unlabelled_files(moved)[0]).size).save(unlabelled_files(moved)[0])
    assert refusal(moved) == ["  data.unlabelled: other images, by their sizes"]


def test_other_contents_of_a_training_image_are_refused(tmp_path: Path, original: Path) -> None:
    begun(tmp_path, original)
    moved = config(tmp_path / "run", *places(tmp_path / "new", original))
    path = unlabelled_files(moved)[-1]
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert refusal(moved) == [f"  data: images/{path.name} is not the file that was trained on"]


def test_other_masks_are_refused(tmp_path: Path, original: Path) -> None:
    begun(tmp_path, original)
    moved = config(tmp_path / "run", *places(tmp_path / "new", original))
    mask = Path(str(open_data(moved.data, moved.seed).validation[0].mask))
    pixels = np.array(Image.open(mask))
    Image.fromarray(np.where(pixels == pixels[0, 0], 2, pixels).astype(np.uint8)).save(mask)
    assert refusal(moved) == ["  data.validation: other masks, by the pixels of their classes"]


def test_another_label_set_is_refused(tmp_path: Path, original: Path) -> None:
    run = begun(tmp_path, original)
    data = open_data(run.data, run.seed)
    old = data_record(data)
    other = {**old, "labels": "f" * 64}
    assert data_differences(other, old) == ["data.labels: a label set that was made otherwise"]
    assert data_differences(old, old) == []


def test_changed_data_at_the_same_place_is_refused_before_the_end(tmp_path: Path, original: Path) -> None:
    labels, root = places(tmp_path / "new", original)
    run = config(tmp_path / "run", labels, root)
    RunFolder(run).begin(open_data(run.data, run.seed))
    check(run)
    Image.new("RGB", (48, 48)).save(root / "images" / "more.png")
    assert refusal(run) == ["  data.unlabelled: 2 images -> 3"]


def test_a_run_of_an_older_segray_compares_places(tmp_path: Path, original: Path) -> None:
    begun(tmp_path, original)
    (tmp_path / "run" / DATA).unlink()
    moved = config(tmp_path / "run", *places(tmp_path / "new", original))
    assert any(line.startswith("  data.root: ") for line in refusal(moved))


@pytest.mark.parametrize("text", ["", "[]", '{"labelled": 3, "contents": null}'])
def test_a_damaged_record_is_no_crash(tmp_path: Path, original: Path, text: str) -> None:
    begun(tmp_path, original)
    (tmp_path / "run" / DATA).write_text(text)
    assert refusal(config(tmp_path / "run", *places(tmp_path / "new", original)))


def test_the_record_holds_no_place(tmp_path: Path, original: Path) -> None:
    begun(tmp_path, original)
    record: dict[str, Any] = json.loads((tmp_path / "run" / DATA).read_bytes())
    assert str(original) not in json.dumps(record)
    assert record["labelled"]["images"] == 3

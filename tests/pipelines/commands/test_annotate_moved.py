"""`segray annotate` after its images were moved: the place is not what makes a label set."""

from __future__ import annotations

import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest

from segray.pipelines.commands import annotate
from segray.pipelines.commands import verify as verify_command
from segray.pipelines.commands.verify import verify
from segray.pipelines.config.commands.verify import VerifyConfig
from segray.pipelines.config.loading import load
from segray.pipelines.config.source import parse_yaml
from segray.pipelines.errors import UserError
from segray.pipelines.io.manifest import read_manifest
from segray.pipelines.io.sources import list_images
from segray.pipelines.label_set.store import LabelStore
from tests.faults.invariant import contents, files
from tests.pipelines.plain_runs import config_of, draw_scenes, label_plainly


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images and their label set in two parts; never changed."""
    folder = tmp_path_factory.mktemp("moved")
    images = draw_scenes(folder / "images", 4)
    label_plainly(config_of(images, folder / "labels"), [2, 2])
    annotate.run(config_of(images, folder / "labels"))
    return folder


@pytest.fixture
def out(labelled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(labelled / "labels", tmp_path / "labels"))


@pytest.fixture
def moved(labelled: Path, tmp_path: Path) -> Path:
    """The images on another disk, with the time of the copy."""
    target = Path(shutil.copytree(labelled / "images", tmp_path / "elsewhere", copy_function=shutil.copyfile))
    for path in target.iterdir():
        os.utime(path, (1, 1))
    return target


def parts(out: Path) -> dict[str, bytes]:
    return {name: data for name, data in files(out).items() if "part-" in name}


def refusal(images: Path | str, out: Path, *words: str) -> str:
    before = files(out)
    with pytest.raises(UserError) as caught:
        annotate.run(config_of(images, out, *words))
    assert caught.value.exit_code == 2
    assert files(out) == before
    return str(caught.value)


def test_moved_images_are_the_same_images(out: Path, moved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = parts(out)
    annotate.run(config_of(moved, out))
    assert f"4 images, nothing to do in {out}" in capsys.readouterr().err
    assert parts(out) == before
    assert [ref.uri for ref in read_manifest(str(out / "manifest.parquet"))] == [
        f"{moved}/scene-{i}.png" for i in range(4)
    ]
    assert parse_yaml((out / "config.yaml").read_bytes(), "config")["images"] == str(moved)


def test_an_unfinished_run_goes_on_with_moved_images(labelled: Path, out: Path, moved: Path) -> None:
    store = LabelStore(str(out))
    store.discard(store.parts()[0])
    annotate.run(config_of(moved, out))
    assert contents(out) == contents(labelled / "labels")
    assert verify(str(out)).problems == []
    # And back again.
    annotate.run(config_of(labelled / "images", out))
    assert contents(out) == contents(labelled / "labels")


@pytest.mark.slow
def test_more_images_at_the_new_place_are_labelled(out: Path, moved: Path) -> None:
    draw_scenes(moved, 1, first=9)
    before = parts(out)
    annotate.run(config_of(moved, out))
    assert parts(out).items() > before.items()
    assert verify(str(out), [ref.image_id for ref in list_images(str(moved))]).problems == []


def test_the_same_relative_path_in_another_folder(
    labelled: Path, out: Path, moved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(labelled)
    annotate.run(config_of("images", out))
    moved.rename(tmp_path / "images")
    monkeypatch.chdir(tmp_path)
    annotate.run(config_of("images", out))
    assert next(read_manifest(str(out / "manifest.parquet"))).uri == f"{tmp_path}/images/scene-0.png"
    draw_scenes(tmp_path / "other" / "images", 4, first=20)
    monkeypatch.chdir(tmp_path / "other")
    assert "images: 4 of 4 images are not in images, such as scene-0.png" in refusal("images", out)


def test_missing_images_are_refused(out: Path, moved: Path) -> None:
    (moved / "scene-1.png").unlink()
    (moved / "scene-3.png").unlink()
    assert refusal(moved, out) == (
        f"{out} was made with another configuration:\n"
        f"  images: 2 of 4 images are not in {moved}, such as scene-1.png\n"
        "give another out=DIR, or new_run=true to start beside it"
    )


def test_images_of_another_size_are_refused(out: Path, moved: Path) -> None:
    shutil.copy(moved / "scene-1.png", moved / "scene-2.png")
    assert f"  images: 1 of 4 images have another size in {moved}, such as scene-2.png" in refusal(moved, out)


def test_other_contents_of_the_same_size_are_refused(out: Path, moved: Path) -> None:
    data = (moved / "scene-2.png").read_bytes()
    (moved / "scene-2.png").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert f"  images: scene-2.png in {moved} is not the file that was labelled" in refusal(moved, out)


@pytest.mark.slow
def test_other_images_start_beside_the_old_ones_on_request(out: Path, tmp_path: Path) -> None:
    others = draw_scenes(tmp_path / "others", 1, first=20)
    before = files(out)
    annotate.run(config_of(others, out, "new_run=true"))
    assert files(out) == before
    assert verify(f"{out}-2", ["scene-20.png"]).problems == []


def test_another_setting_is_refused_for_moved_images_too(out: Path, moved: Path) -> None:
    assert "  label.threshold: 0.0 -> 0.5" in refusal(moved, out, "label.threshold=0.5")


@pytest.mark.slow
def test_a_changed_file_at_the_same_place_is_labelled_again(out: Path, moved: Path) -> None:
    annotate.run(config_of(moved, out))
    os.utime(moved / "scene-0.png", (2, 2))
    before = parts(out)
    annotate.run(config_of(moved, out))
    assert parts(out) != before


@pytest.mark.slow
def test_verify_repairs_with_the_images_where_they_are_now(labelled: Path, out: Path, moved: Path) -> None:
    part = out / "labels" / LabelStore(str(out)).parts()[1]
    part.write_bytes(part.read_bytes()[:-9])
    verify_command.run(load(VerifyConfig, None, [f"out={out}", "repair=true", f"images={moved}"]))
    assert verify(str(out)).problems == []
    assert contents(out) == contents(labelled / "labels")


@pytest.mark.slow
def test_an_archive_is_resumed_and_gives_the_same_labels(labelled: Path, tmp_path: Path) -> None:
    spec, out = tmp_path / "images.zip", tmp_path / "labels"
    with zipfile.ZipFile(spec, "w") as archive:
        for path in sorted((labelled / "images").iterdir()):
            archive.write(path, path.name)
    label_plainly(config_of(spec, out), [2, 2])
    store = LabelStore(str(out))
    store.discard(store.parts()[1])
    annotate.run(config_of(spec, out))
    assert verify(str(out), [ref.image_id for ref in list_images(str(spec))]).problems == []
    assert contents(out) == contents(labelled / "labels")
    before = parts(out)
    annotate.run(config_of(spec, out))
    assert parts(out) == before


def test_images_that_were_packed_are_the_same_images(labelled: Path, out: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "images.tar", "w") as archive:
        archive.add(labelled / "images", ".")
    before = parts(out)
    annotate.run(config_of(tmp_path / "images.tar", out))
    assert parts(out) == before
    manifest = read_manifest(str(out / "manifest.parquet"))
    assert next(manifest).uri.startswith(f"{tmp_path}/images.tar#tar=")


@pytest.mark.slow
def test_several_sources_are_labelled_and_resumed(labelled: Path, tmp_path: Path) -> None:
    more, out = draw_scenes(tmp_path / "more", 1, first=30), tmp_path / "labels"
    both = f"{labelled}/images,{more}"
    annotate.run(config_of(both, out))
    before = files(out)
    annotate.run(config_of(both, out))
    assert files(out) == before
    assert verify(str(out), [ref.image_id for ref in list_images(both)]).problems == []
    assert set(contents(out)) == {*(f"scene-{i}.png" for i in range(4)), "scene-30.png"}

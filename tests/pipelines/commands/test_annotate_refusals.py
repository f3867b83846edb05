"""Runs of `segray annotate` that end with one line and a code, without a worker."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from segray.pipelines.commands import annotate
from segray.pipelines.commands.verify import verify
from segray.pipelines.errors import UserError
from segray.pipelines.io.run_lock import RunLock
from segray.pipelines.label_set.store import LabelStore
from tests.faults.invariant import files
from tests.pipelines.plain_runs import config_of, draw_scenes, label_plainly


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One picture; never changed."""
    return draw_scenes(tmp_path_factory.mktemp("refusals") / "images", 1)


def _annotate(images: Path, out: Path, *words: str) -> None:
    annotate.run(config_of(images, out, *words))


def _rows(out: Path) -> Any:
    run = LabelStore(str(out)).run()
    assert run is not None
    return run["rows"]


# What is refused before the first image, with nothing written


def _assert_refused(images: Path, out: Path, text: str, *words: str, code: int = 2) -> None:
    with pytest.raises(UserError, match=text) as caught:
        _annotate(images, out, *words)
    assert caught.value.exit_code == code
    assert "\n" not in str(caught.value)
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["classes=a,a"], "classes: 'a' is listed twice"),
        (["label.aliases.cow=cow"], "aliases of unknown class 'cow'"),
        (["images=/nowhere/at/all"], "images: no such path: /nowhere"),
        (["clip.model=ViT-B-17"], "unknown CLIP model 'ViT-B-17'; did you mean"),
        (["clip.model=ViT-B-16-quickgelu"], "weights"),
        (["clip.depth=40"], "depth 40 is not possible"),
        (["clip.image_size=70"], "does not fit patches of 16x16 px"),
        (["sam.crop_n_layers=2", "sam.crop_n_points_downscale_factor=4"], "must be at least 1"),
    ],
)
def test_a_configuration_that_cannot_work(images: Path, tmp_path: Path, words: list[str], text: str) -> None:
    _assert_refused(images, tmp_path / "out", text, *words)


def test_a_folder_without_images_and_an_output_of_something_else(images: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    _assert_refused(tmp_path, tmp_path / "out", "images: no image in")
    with pytest.raises(UserError, match="holds 1 files of something else"):
        _annotate(images, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_output_in_use_is_left_alone(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels"
    label_plainly(config_of(images, out), [1])
    before = files(out)
    with RunLock(str(out)), pytest.raises(UserError, match="is in use by pid") as caught:
        _annotate(images, out)
    assert caught.value.exit_code == 4
    assert files(out) == before


# Bad images


def test_nothing_but_bad_images_exit_with_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = tmp_path / "images", tmp_path / "labels"
    folder.mkdir()
    (folder / "bad-1.png").write_bytes(b"no picture")
    (folder / "bad-2.png").write_bytes(b"")
    label_plainly(config_of(folder, out), [1, 1])
    for _ in range(2):
        with pytest.raises(UserError, match="not one of 2 images could be labelled") as caught:
            _annotate(folder, out)
        assert caught.value.exit_code == 3
        shown = capsys.readouterr()
        assert "  error   bad-2.png: not an image (empty file)\n" in shown.err
        assert "images      2: 0 ok, 2 error, 0 skipped\n" in shown.out
    assert verify(str(out)).problems == []
    assert _rows(out) == {"ok": 0, "error": 2, "skipped": 0}


def test_more_bad_images_than_allowed_exit_with_3(images: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "images", tmp_path / "labels"
    folder.mkdir()
    shutil.copy(images / "scene-0.png", folder)
    (folder / "bad.png").write_bytes(b"")
    label_plainly(config_of(folder, out), [2])
    for share in ("0.5", "1", "null"):
        _annotate(folder, out, f"max_bad={share}")
    with pytest.raises(UserError, match=r"^1 of 2 images are bad, max_bad=0\.4 allows fewer$") as caught:
        _annotate(folder, out, "max_bad=0.4")
    assert caught.value.exit_code == 3
    assert _rows(out) == {"ok": 1, "error": 1, "skipped": 0}

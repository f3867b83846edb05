from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segray.models.label_space import PICTURE_BOOK, PICTURE_BOOK_GROUNDS
from segray.pipelines.commands.picture_book import run
from segray.pipelines.config.commands.picture_book import PictureBookConfig
from segray.pipelines.errors import UserError
from segray.pipelines.io.label_png import decode_gray_png
from segray.pipelines.scenes import picture_book
from segray.pipelines.scenes.picture_book import MIN_VISIBLE, Scene, draw_scene
from segray.pipelines.scenes.shapes import SHAPES


@pytest.fixture(scope="module", params=[32, 96])
def scenes(request: pytest.FixtureRequest) -> list[Scene]:
    return [draw_scene(5, index, request.param) for index in range(60)]


def test_a_scene_does_not_depend_on_those_before_it() -> None:
    for index in (7, 3, 7):
        first = draw_scene(11, index, 64)
        draw_scene(12, index, 64)
        again = draw_scene(11, index, 64)
        assert np.array_equal(first.image, again.image)
        assert np.array_equal(first.instances, again.instances)
        assert (first.objects, first.ground) == (again.objects, again.ground)


def test_other_seeds_and_numbers_give_other_scenes() -> None:
    images = {draw_scene(seed, index, 48).image.tobytes() for seed in range(4) for index in range(4)}
    assert len(images) == 16


def test_masks_hold_the_nine_classes_and_ground(scenes: list[Scene]) -> None:
    assert len(PICTURE_BOOK) == len(SHAPES) == 9
    assert set(SHAPES) == set(PICTURE_BOOK)
    for scene in scenes:
        size = len(scene.image)
        assert scene.image.shape == (size, size, 3)
        assert scene.mask.shape == scene.instances.shape == (size, size)
        assert scene.image.dtype == scene.mask.dtype == scene.instances.dtype == np.uint8
        assert scene.mask.max() <= 9
    assert {int(i) for scene in scenes for i in np.unique(scene.mask)} == set(range(10))
    assert {scene.ground for scene in scenes} == set(PICTURE_BOOK_GROUNDS)


def test_masks_name_each_instance(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert 1 <= len(scene.objects) <= 5
        assert np.array_equal(scene.mask == 0, scene.instances == 0)
        assert sorted(np.unique(scene.instances[scene.instances > 0])) == [*range(1, len(scene.objects) + 1)]
        for number, name in enumerate(scene.objects, 1):
            assert set(np.unique(scene.mask[scene.instances == number])) == {PICTURE_BOOK.index(name) + 1}


def test_captions_name_what_is_in_view_and_nothing_else(scenes: list[Scene]) -> None:
    for scene in scenes:
        in_view = {PICTURE_BOOK[i - 1] for i in np.unique(scene.mask) if i}
        things, _, ground = scene.caption.removeprefix("a photo of ").partition(" on ")
        assert {thing.removeprefix("a ") for thing in things.split(" and ")} == in_view
        assert len(things.split(" and ")) == len(in_view)
        assert ground == scene.ground


def test_the_mask_is_where_the_object_is() -> None:
    # Without the object a scene of the same numbers would be smooth: edges in the image lie on the mask's.
    hits = []
    for index in range(20):
        scene = draw_scene(2, index, 128)
        image = scene.image.astype(int)
        steps = np.abs(np.diff(image, axis=1)).sum(2)
        edges = scene.instances[:, 1:] != scene.instances[:, :-1]
        ground = (scene.instances[:, 1:] == 0) & (scene.instances[:, :-1] == 0)
        hits.append(np.median(steps[edges]) / np.median(steps[ground]))
    assert min(hits) > 1.5


def test_nothing_is_hidden_for_the_most_part(monkeypatch: pytest.MonkeyPatch) -> None:
    whole: list[int] = []
    original = picture_book._place

    def place(*args: object) -> bool:
        placed = original(*args)  # type: ignore[arg-type]
        full_areas = args[2]
        assert isinstance(full_areas, list)
        whole[:] = full_areas
        return placed

    monkeypatch.setattr(picture_book, "_place", place)
    for index in range(40):
        scene = draw_scene(9, index, 96)
        for number, area in enumerate(whole, 1):
            assert (scene.instances == number).sum() >= MIN_VISIBLE * area


# The command


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_book_is_the_same_bytes_for_the_same_seed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = PictureBookConfig(out=str(tmp_path / "a"), n=7, seed=4, size=40, val=0.3)
    run(config)
    assert capsys.readouterr().out == f"7 scenes (5 train, 2 val) of 40 px in {tmp_path / 'a'}\n"
    run(config.model_copy(update={"out": str(tmp_path / "b")}))
    files = _files(tmp_path / "a")
    assert files == _files(tmp_path / "b")
    splits = [*["train"] * 5, *["val"] * 2]
    names = [f"{split}/scene-{i:06}.png" for i, split in enumerate(splits)]
    assert sorted(files) == sorted(
        ["class_names.txt", *(f"images/{n}" for n in names), *(f"masks/{n}" for n in names)]
    )
    assert files["class_names.txt"].decode().split() == ["background", *PICTURE_BOOK]
    for index, name in enumerate(names):
        scene = draw_scene(4, index, 40)
        assert np.array_equal(decode_gray_png(files[f"masks/{name}"]), scene.mask)
        assert np.array_equal(np.asarray(Image.open(tmp_path / "a" / "images" / name)), scene.image)


def test_a_longer_book_begins_with_the_shorter_one(tmp_path: Path) -> None:
    for n in (2, 4):
        run(PictureBookConfig(out=str(tmp_path / str(n)), n=n, size=32, val=0))
    shorter, longer = _files(tmp_path / "2"), _files(tmp_path / "4")
    assert shorter == {name: longer[name] for name in shorter}


def test_a_folder_in_use_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="is not an empty folder; give a new one") as caught:
        run(PictureBookConfig(out=str(tmp_path), n=1, size=32))
    assert caught.value.exit_code == 2
    with pytest.raises(UserError, match="is not an empty folder"):
        run(PictureBookConfig(out=str(tmp_path / "mine.txt"), n=1, size=32))
    assert _files(tmp_path) == {"mine.txt": b"keep"}


def test_an_empty_folder_will_do(tmp_path: Path) -> None:
    run(PictureBookConfig(out=str(tmp_path), n=1, size=32))
    assert (tmp_path / "class_names.txt").exists()

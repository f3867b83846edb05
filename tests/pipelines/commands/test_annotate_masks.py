"""`segray annotate sam.model=none calibrate.masks=...`: a few masks teach the names of pixels."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import segray
from segray.pipelines.calibration import masked_images, pixels
from segray.pipelines.commands import annotate
from segray.pipelines.commands.evaluate import evaluate
from segray.pipelines.commands.report import build
from segray.pipelines.commands.verify import run as verify_run
from segray.pipelines.commands.verify import verify
from segray.pipelines.config.commands.annotate import AnnotateConfig
from segray.pipelines.config.commands.verify import VerifyConfig
from segray.pipelines.config.loading import load
from segray.pipelines.corrections import CorrectionLog
from segray.pipelines.errors import UserError
from segray.pipelines.label_set.store import LabelStore
from segray.pipelines.scenes.picture_book import draw_scene
from segray.pipelines.training.transition import read_transition
from tests.faults.invariant import contents
from tests.pipelines.commands.test_report import assert_closed

N_TAUGHT, N_SCENES = 6, 14


@pytest.fixture(scope="module", autouse=True)
def _few_cells() -> Iterator[None]:
    """Each run learns in a second what takes ten with all cells."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pixels, "_MOST_CELLS", 900)
        yield


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`images`, `masks` of the first six, `truth` of all; never changed."""
    folder = tmp_path_factory.mktemp("masks-teach")
    for name in ("images", "masks", "truth"):
        (folder / name).mkdir()
    for index in range(N_SCENES):
        scene = draw_scene(5, index, 160)
        Image.fromarray(scene.image).save(folder / "images" / f"{index:02}.png")
        for name in ("masks", "truth")[index >= N_TAUGHT :]:
            Image.fromarray(scene.mask).save(folder / name / f"{index:02}.png")
    return folder


@pytest.fixture(scope="module")
def taught(book: Path) -> Path:
    """The label set that the masks teach; never changed."""
    out = book / "taught"
    annotate.execute(_config(book, out))
    return out


def _config(book: Path, out: Path, *words: str) -> AnnotateConfig:
    places = [f"images={book / 'images'}", f"out={out}", f"calibrate.masks={book / 'masks'}"]
    # CLIP's tokens, the weakest names.
    return load(
        AnnotateConfig,
        None,
        [*places, "classes=picture_book", "sam.model=none", "clip.features=clip", *words],
    )


def _plain(book: Path, out: Path, *words: str) -> Path:
    return _labelled(book, out, "calibrate.masks=null", *words)


def _labelled(book: Path, out: Path, *words: str) -> Path:
    annotate.execute(_config(book, out, *words))
    return out


def _told(out: Path) -> Any:
    return json.loads((out / "calibration.json").read_text())


def _refused(config: AnnotateConfig, text: str) -> None:
    with pytest.raises(UserError, match=text) as caught:
        annotate.execute(config)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert not Path(config.out).exists()


def test_images_without_masks_gain(book: Path, taught: Path, tmp_path: Path) -> None:
    plain = _plain(book, tmp_path / "plain")
    for index in range(N_TAUGHT, N_SCENES):
        (tmp_path / "fresh").mkdir(exist_ok=True)
        shutil.copy(book / "truth" / f"{index:02}.png", tmp_path / "fresh")
    before, after = (
        evaluate(str(labels), str(tmp_path / "fresh"), allow_missing=True).miou for labels in (plain, taught)
    )
    assert after > before
    assert verify(str(taught)).problems == []


def test_what_was_as_it_was_is_what_the_plain_run_makes(book: Path, taught: Path, tmp_path: Path) -> None:
    plain, told = _plain(book, tmp_path / "plain"), _told(taught)
    scored = evaluate(str(plain), str(book / "masks"), allow_missing=True)
    assert told["miou_before"] == pytest.approx(scored.miou, abs=1e-9)
    assert told["held_out_miou"]["text, clip.refine=0"] == told["miou_before"]
    assert told["miou_after"] == max(told["held_out_miou"].values())


def test_the_label_set_tells_what_the_masks_chose(taught: Path) -> None:
    told, record = _told(taught), segray.LabelSet(taught).provenance
    assert told["images"] == [f"{index:02}.png" for index in range(N_TAUGHT)]
    assert told["masks"] == N_TAUGHT
    assert told["names"] == "text and masks"
    assert record["calibration"] == {key: told[key] for key in record["calibration"]}
    assert (record["config"]["clip.refine"], told["refine"]) == (0, 10)
    assert [entry["name"] for entry in told["classes"]][:2] == ["background", "tree"]
    assert read_transition(str(taught), record["classes"]).shape == (10, 10)


def test_the_page_shows_it(taught: Path) -> None:
    told, text = _told(taught), assert_closed(build(str(taught))).text().replace("\u00a0", " ")
    was, now = 100 * told["miou_before"], 100 * told["miou_after"]
    assert f"Corrected by {N_TAUGHT} masks. On their images" in text
    assert f"the mean IoU was {was:.1f} % and is {now:.1f} %" in text
    assert "names no label set" not in text


def test_the_same_command_labels_what_is_missing_and_other_masks_are_refused(
    book: Path, taught: Path, tmp_path: Path
) -> None:
    out, store = tmp_path / "out", LabelStore(str(tmp_path / "out"))
    shutil.copytree(taught, out)
    before = contents(out)
    annotate.execute(_config(book, out))
    assert contents(out) == before
    lost = store.parts()[0]
    store.discard(lost)
    result = annotate.execute(_config(book, out))
    assert (result.ok, verify(str(out)).problems) == (N_SCENES, [])
    labels = [{s.image_id: s.label for s in segray.LabelSet(folder)} for folder in (taught, out)]
    assert all(np.array_equal(labels[0][image_id], labels[1][image_id]) for image_id in labels[0])
    other = tmp_path / "masks"
    shutil.copytree(book / "masks", other)
    annotate.execute(_config(book, out, f"calibrate.masks={other}"))
    mask = np.array(Image.open(other / "00.png"))
    mask[:40] = 3
    Image.fromarray(mask).save(other / "00.png")
    with pytest.raises(UserError, match="what the masks and segments chose"):
        annotate.execute(_config(book, out, f"calibrate.masks={other}"))
    with pytest.raises(UserError, match="what the masks and segments chose: None -> 'these masks'"):
        annotate.execute(_config(book, _plain(book, tmp_path / "plain")))


def test_an_image_that_changed_does_not_teach_the_rest_something_else(book: Path, tmp_path: Path) -> None:
    folder = tmp_path / "book"
    shutil.copytree(book / "images", folder / "images")
    shutil.copytree(book / "masks", folder / "masks")
    out = _labelled(folder, tmp_path / "out")
    changed = folder / "images" / "00.png"
    Image.fromarray(255 - np.array(Image.open(changed))).save(changed)
    with pytest.raises(UserError, match="what the masks and segments chose"):
        annotate.execute(_config(folder, out))


def test_a_new_run_beside_another_one_is_taught_and_resumed(book: Path, taught: Path, tmp_path: Path) -> None:
    out, beside = tmp_path / "out", tmp_path / "out-2"
    shutil.copytree(taught, out)
    before = contents(out)
    _labelled(book, out, "clip.features=gem", "new_run=true")
    assert contents(out) == before
    assert segray.LabelSet(beside).provenance["clip"]["features"] == "gem"
    first = contents(beside)
    _labelled(book, out, "clip.features=gem", "new_run=true")
    assert contents(beside) == first
    assert not (tmp_path / "out-3").exists()


def test_a_resumed_label_set_keeps_what_it_chose(
    book: Path, taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another machine's sums might choose otherwise."""
    out = tmp_path / "out"
    shutil.copytree(taught, out)
    monkeypatch.setattr(pixels, "_outcomes", None)
    annotate.execute(_config(book, out))
    assert _told(out) == _told(taught)


def test_no_image_is_judged_by_what_it_taught(book: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    shutil.copytree(book / "masks", masks)
    mask = np.array(Image.open(masks / "02.png"))
    # One mask calls its ground "sun", which no other does.
    mask[mask == 0] = 9
    Image.fromarray(mask).save(masks / "02.png")
    config = _config(book, tmp_path / "out", f"calibrate.masks={masks}")
    space = annotate.space_of(config)
    masked, plain = annotate.masked_images(config, space), annotate.prepare(config, space)
    assert masked is not None
    found = pixels.calibrate_pixels(plain, masked, None, {})
    reader = masked_images.MaskedImageReader.of(plain, None)
    (image,) = reader.images({"02.png": masked["02.png"]})
    flattered = image.confusion(found.text, 0, len(space.classes))
    assert found.way.taught
    assert found.outcomes[pixels.Way(True, 0)].confusions[2][9, 9] < flattered[9, 9] / 2


def test_only_the_images_of_a_split_teach(book: Path, tmp_path: Path) -> None:
    split = tmp_path / "split.txt"
    split.write_text("00.png\nimages/02.png\n04\n")
    out = _labelled(book, tmp_path / "out", f"calibrate.split={split}")
    assert _told(out)["images"] == ["00.png", "02.png", "04.png"]


def test_steps_that_the_user_sets_stay(book: Path, tmp_path: Path) -> None:
    out = _labelled(book, tmp_path / "out", "clip.refine=3")
    assert _told(out)["refine"] == 3
    assert {key.rpartition("=")[2] for key in _told(out)["held_out_miou"]} == {"3"}


def test_masks_that_say_nothing_change_nothing(book: Path, tmp_path: Path) -> None:
    # The masks are the labels as they are, so that no other names can be better.
    plain = _plain(book, tmp_path / "plain")
    own = tmp_path / "own"
    own.mkdir()
    for sample in list(segray.LabelSet(plain))[:N_TAUGHT]:
        Image.fromarray(sample.label).save(own / sample.image_id)
    out = _labelled(book, tmp_path / "out", f"calibrate.masks={own}")
    assert _told(out)["names"] == "text"
    for ours, as_it_was in zip(segray.LabelSet(out), segray.LabelSet(plain), strict=True):
        assert np.array_equal(ours.label, as_it_was.label)
        assert np.array_equal(ours.confidence, as_it_was.confidence)


def test_one_mask_cannot_be_held_out(book: Path, tmp_path: Path) -> None:
    split = tmp_path / "split.txt"
    split.write_text("00.png\n")
    out = _labelled(book, tmp_path / "out", f"calibrate.split={split}")
    assert _told(out)["names"] == "text"
    assert _told(out)["gain"]["standard_error"] is None


def test_the_tiles_of_an_image_teach_together(book: Path, tmp_path: Path) -> None:
    folder = tmp_path / "book"
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
        for index in range(3):
            shutil.copy(book / name / f"{index:02}.png", folder / name)
    out = _labelled(folder, tmp_path / "out", "image.tile=112")
    assert verify(str(out)).problems == []
    assert _told(out)["miou_after"] >= _told(out)["miou_before"]


def test_more_masks_than_needed_are_thinned(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(masked_images, "MOST_IMAGES", 3)
    out = _labelled(book, tmp_path / "out")
    assert _told(out)["images"] == ["00.png", "02.png", "05.png"]


def test_a_corrected_label_set_teaches_as_masks_do(book: Path, taught: Path, tmp_path: Path) -> None:
    corrected = tmp_path / "corrected"
    shutil.copytree(taught, corrected)
    log = CorrectionLog(corrected)
    log.append([log.make(image_id, "good") for image_id in ("00.png", "01.png")])
    out = _labelled(book, tmp_path / "out", f"calibrate.masks={corrected}")
    assert _told(out)["images"] == ["00.png", "01.png"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["calibrate.masks=/nowhere"], r"^calibrate\.masks=/nowhere: no such file or folder"),
        (["calibrate.split=/nowhere.txt"], "^calibrate.split: no file '/nowhere.txt'"),
        (["calibrate.colors=/nowhere.txt"], "^calibrate.colors: no file"),
        (["classes=cat,dog", "clip.model=builtin"], " id "),
    ],
)
def test_masks_that_cannot_be_used(book: Path, tmp_path: Path, words: list[str], text: str) -> None:
    _refused(_config(book, tmp_path / "out", *words), text)


def test_a_mask_without_an_image(book: Path, tmp_path: Path) -> None:
    masks, out = tmp_path / "masks", tmp_path / "out"
    shutil.copytree(book / "masks", masks)
    shutil.copy(masks / "00.png", masks / "elsewhere.png")
    text = "^calibrate.masks=.*elsewhere.png: no image .*has 00.png.*; calibrate.allow_missing=true leaves"
    _refused(_config(book, out, f"calibrate.masks={masks}"), text)
    _labelled(book, out, f"calibrate.masks={masks}", "calibrate.allow_missing=true")
    assert _told(out)["masks"] == N_TAUGHT


def test_a_mask_of_another_size_or_of_one_class(book: Path, tmp_path: Path) -> None:
    masks, out = tmp_path / "masks", tmp_path / "out"
    masks.mkdir()
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(masks / "00.png")
    _refused(_config(book, out, f"calibrate.masks={masks}"), "9x9 pixels, its image's label 160x160")
    Image.fromarray(np.zeros((160, 160), np.uint8)).save(masks / "00.png")
    _refused(_config(book, out, f"calibrate.masks={masks}"), "hold background alone")


def test_an_image_with_a_mask_that_cannot_be_read(book: Path, tmp_path: Path) -> None:
    folder = tmp_path / "book"
    shutil.copytree(book / "images", folder / "images")
    shutil.copytree(book / "masks", folder / "masks")
    (folder / "images" / "03.png").write_bytes(b"no image")
    text = "image 03.png cannot be read: .*; calibrate.allow_missing=true"
    _refused(_config(folder, tmp_path / "out"), text)
    out = _labelled(folder, tmp_path / "out", "calibrate.allow_missing=true")
    assert "03.png" not in _told(out)["images"]
    assert _told(out)["masks"] == N_TAUGHT - 1


def test_a_lost_part_is_repaired_by_the_users_own_masks(book: Path, taught: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(taught, out)
    before = {sample.image_id: sample.label for sample in segray.LabelSet(out)}
    part = next((out / "labels").iterdir())
    part.write_bytes(part.read_bytes()[:-40])
    words = [f"out={out}", "repair=true", f"images={book / 'images'}"]
    with pytest.raises(UserError, match=r"masks=\S+ is in \S+config\.yaml, which may be anyone's"):
        verify_run(load(VerifyConfig, None, words))
    verify_run(load(VerifyConfig, None, [*words, f"masks={book / 'masks'}"]))
    assert verify(str(out)).problems == []
    after = {sample.image_id: sample.label for sample in segray.LabelSet(out)}
    assert all(np.array_equal(before[image_id], after[image_id]) for image_id in before)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["sam.model=builtin"], "calibrate.masks teaches the names of pixels: set sam.model=none"),
        (["calibrate.masks=null", "calibrate.split=a.txt"], "calibrate.split has no effect without"),
    ],
)
def test_keys_without_an_effect(book: Path, tmp_path: Path, words: list[str], text: str) -> None:
    with pytest.raises(UserError, match=text):
        _config(book, tmp_path / "out", *words)

"""Every command that reads labels reads them as they were corrected."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import segray
from segray.models.label_map import LabelMap
from segray.models.masks import encode_rle, segment_from_mask
from segray.pipelines.calibration.examples import ReadMask, folder_masks
from segray.pipelines.commands import calibrate, relabel, train
from segray.pipelines.commands.evaluate import evaluate
from segray.pipelines.commands.report import build
from segray.pipelines.commands.verify import verify
from segray.pipelines.config.commands.calibrate import CalibrateConfig
from segray.pipelines.config.commands.relabel import RelabelConfig
from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.config.loading import load
from segray.pipelines.corrections import CorrectedStore, Correction, CorrectionLog
from segray.pipelines.errors import UserError
from segray.pipelines.io.label_png import decode_gray_png
from segray.pipelines.label_set.store import LabelStore
from segray.pipelines.masks.options import MaskOptions
from segray.pipelines.reporting.page import percent
from segray.pipelines.training.data.datasets import LabelledImages, UnlabelledImages
from segray.pipelines.training.data.stored_labels import StoredLabels
from segray.pipelines.training.data.summary import data_lines
from segray.pipelines.training.data.training_data import open_data
from segray.pipelines.training.run_folder import RunFolder
from tests.pipelines.exporting.labelled import export, read
from tests.previous_version.archive import unpack


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`labels`, with embeddings, and the data set `book`; no GPU is seen."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return unpack(tmp_path)


def ids(root: Path) -> list[str]:
    return sorted(i for i, status, _ in LabelStore(str(root / "labels")).statuses() if status == "ok")


def truth(root: Path, image_id: str) -> LabelMap:
    path = root / "book" / "masks" / image_id
    return decode_gray_png(path.with_suffix(".png").read_bytes())


def stored(labels: Path) -> dict[str, LabelMap]:
    rows = LabelStore(str(labels)).rows(["image_id", "label.bytes"])
    return {row["image_id"]: decode_gray_png(row["label"]["bytes"]) for row in rows}


def shown(labels: Path | str) -> dict[str, LabelMap]:
    return {sample.image_id: sample.label for sample in segray.LabelSet(labels)}


def paint_truth(root: Path, image_id: str, *, good: bool = True) -> list[Correction]:
    """The true mask of an image, painted class by class."""
    log, mask = CorrectionLog(root / "labels"), truth(root, image_id)
    names = LabelStore(str(root / "labels")).provenance["classes"]
    paints = [
        log.make(image_id, "paint", class_name=names[i], mask=rle(mask == i))
        for i in np.unique(mask).tolist()
    ]
    log.append([*paints, *([log.make(image_id, "good")] if good else [])])
    return log.read(image_id)


def name_one(root: Path, image_id: str, class_name: str | None, segment: int = 0) -> Correction:
    log = CorrectionLog(root / "labels")
    one = log.make(image_id, "name", segments=(segment,), class_name=class_name)
    log.append([one])
    return one


def rle(mask: Any) -> bytes:
    return encode_rle(segment_from_mask(mask), *mask.shape)[1]


def test_rows_segments_exports_and_scores_are_those_of_the_corrected_labels(
    root: Path, tmp_path: Path
) -> None:
    labels, masks = root / "labels", root / "book" / "masks"
    before, fingerprint = evaluate(str(labels), str(masks)).miou, LabelStore(str(labels)).fingerprint()
    for image_id in ids(root)[:4]:
        paint_truth(root, image_id)
    name_one(root, ids(root)[5], "sun")
    after = evaluate(str(labels), str(masks)).miou
    assert after > before + 0.01
    result = export(labels, tmp_path / "out", format="png", images="none")
    corrected = shown(labels)
    for image_id, label in corrected.items():
        exported = read(tmp_path / "out" / "annotations" / "train" / Path(image_id).with_suffix(".png"))
        np.testing.assert_array_equal(exported, label)
    for image_id in ids(root)[:4]:
        np.testing.assert_array_equal(corrected[image_id], truth(root, image_id))
    pixels = np.bincount(np.concatenate([label.ravel() for label in corrected.values()]), minlength=10)
    assert result.class_pixels == tuple(pixels[:10].tolist())
    table = CorrectedStore(str(labels)).segments(LabelStore(str(labels)).parts()[0])
    assert table.schema == LabelStore(str(labels)).segments(LabelStore(str(labels)).parts()[0]).schema
    assert LabelStore(str(labels)).fingerprint() == fingerprint
    assert verify(str(labels)).problems == []
    assert f"a mean IoU of {percent(after)}." in build(str(labels), masks=str(masks))
    name_one(root, ids(root)[6], "sun")
    with pytest.raises(UserError, match="labels"):
        export(labels, tmp_path / "out", format="png", images="none")


def test_a_named_segment_has_its_class_in_the_segments_table(root: Path) -> None:
    labels, image_id = root / "labels", ids(root)[0]
    name_one(root, image_id, "fish", 1)
    name_one(root, image_id, None, 2)
    sample = next(sample for sample in segray.LabelSet(labels) if sample.image_id == image_id)
    classes = segray.LabelSet(labels).classes
    assert [classes[sample.segments[k].class_id] for k in (1, 2)] == ["fish", "background"]
    assert (sample.label == 255).any()
    pngs = StoredLabels(str(labels), [image_id], corrections=CorrectionLog(labels).by_image()).read(image_id)
    assert pngs is not None
    np.testing.assert_array_equal(decode_gray_png(pngs[0]), sample.label)


def test_the_id_of_ignored_pixels_is_not_read_at_each_image(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CorrectedStore(str(root / "labels"))
    assert store.ignore_index == 255
    monkeypatch.setattr(LabelStore, "parts", lambda _: [])  # without parts, there is nothing to read it from
    assert store.ignore_index == 255


def test_verify_checks_the_log(root: Path) -> None:
    labels = root / "labels"
    one = name_one(root, ids(root)[0], "fish", 99)
    (problem,) = verify(str(labels)).problems
    assert (problem.part, problem.image_id) == ("", one.image)
    assert "segment 99 is none of the image's" in problem.what
    with pytest.raises(UserError, match="segment 99 is none"):
        shown(labels)
    (part,) = (labels / "corrections").iterdir()
    part.write_bytes(part.read_bytes()[:-5])
    (problem,) = verify(str(labels)).problems
    assert "is damaged (truncated or not Parquet); delete it" in problem.what


def _relabel(root: Path, out: Path, classes: str) -> Path:
    relabel.execute(
        load(RelabelConfig, None, [f"labels={root / 'labels'}", f"out={out}", f"classes={classes}"])
    )
    return out


def test_relabel_keeps_what_hands_gave_and_good_images_as_they_were(root: Path, tmp_path: Path) -> None:
    good, named = ids(root)[:2]
    paint_truth(root, good)
    name_one(root, named, "fish")
    again = _relabel(root, tmp_path / "fewer", "sun,fish,house")
    names, old = segray.LabelSet(again).classes, segray.LabelSet(root / "labels").classes
    table = np.array([names.index(name) if name in names else 255 for name in old])
    new, before = shown(again), stored(again)
    np.testing.assert_array_equal(new[good], table[truth(root, good)])
    store = CorrectedStore(str(root / "labels"))
    hand = dict(store.corrected_labels())[named].hand
    assert (new[named][hand] == names.index("fish")).all()
    np.testing.assert_array_equal(new[named][~hand], before[named][~hand])
    assert verify(str(again)).problems == []
    # Run again, it carries what is new, and nothing twice.
    count = len(CorrectionLog(again).read())
    _relabel(root, again, "sun,fish,house")
    assert len(CorrectionLog(again).read()) == count
    name_one(root, ids(root)[2], "sun")
    _relabel(root, again, "sun,fish,house")
    assert len(CorrectionLog(again).read()) == count + 1


def test_background_by_hand_is_unknown_where_there_are_more_classes(root: Path, tmp_path: Path) -> None:
    image_id = ids(root)[0]
    log = CorrectionLog(root / "labels")
    log.append([log.make(image_id, "erase", segments=(0,))])
    (erased,) = dict(CorrectedStore(str(root / "labels")).corrected_labels()).values()
    assert (erased.label[erased.hand] == 0).all()
    more = _relabel(root, tmp_path / "more", "tree,house,car,boat,ball,flower,fish,person,sun,kite")
    (carried,) = dict(CorrectedStore(str(more)).corrected_labels()).values()
    assert (carried.label[carried.hand] == 255).all()
    assert carried.hand.any()


def test_corrected_images_are_masks_of_a_calibration(root: Path) -> None:
    labels, good, partly = root / "labels", *ids(root)[:2]
    classes = segray.LabelSet(labels).classes
    statuses = dict.fromkeys(ids(root), "ok")

    def masks() -> dict[str, ReadMask]:
        options = MaskOptions.of()
        return folder_masks(str(labels), options, statuses, classes, split=None, allow_missing=False)

    with pytest.raises(UserError, match="a label set in which no image of this one is corrected"):
        masks()
    paint_truth(root, good)
    name_one(root, partly, "fish")
    assert sorted(masks()) == [good, partly]
    shape = truth(root, good).shape
    height, width = shape
    np.testing.assert_array_equal(masks()[good]((height, width)), truth(root, good))
    assert set(np.unique(masks()[partly]((height, width)))) == {classes.index("fish"), 255}
    with pytest.raises(UserError, match=f"{good} has another size there"):
        masks()[good]((1, 2))


@pytest.mark.slow
def test_calibrate_learns_from_corrections(root: Path, tmp_path: Path) -> None:
    words = [f"labels={root / 'labels'}", f"masks={root / 'labels'}", f"out={tmp_path / 'out'}"]
    for image_id in ids(root)[:3]:
        paint_truth(root, image_id)
    name_one(root, ids(root)[3], "fish")
    result = calibrate.execute(load(CalibrateConfig, None, words))
    assert result.masks == 4
    new = shown(tmp_path / "out")
    for image_id in ids(root)[:3]:
        np.testing.assert_array_equal(new[image_id], truth(root, image_id))


WORDS = [
    "data.kind=picture_book",
    "data.labelled=2",
    "train.precision=fp32",
    "data.validation=2",
    "network.name=builtin",
    "network.pretrained=false",
    "augment.crop=32",
    "train.epochs=1",
    "train.batch=2",
    "trackers=",
]


def _config(root: Path, *words: str) -> TrainConfig:
    places = [f"out={root / 'run'}", f"data.root={root / 'book'}", f"data.labels={root / 'labels'}"]
    return load(TrainConfig, None, [*WORDS, *places, *words])


def test_training_reads_corrections(root: Path) -> None:
    config = _config(root)
    plain = open_data(config.data, 0)
    good, partly, tested, masked = (
        *(sample.stored_id for sample in plain.unlabelled[:2]),
        plain.validation[0].stored_id,
        plain.labelled[0].image_id.removeprefix("images/"),
    )
    paint_truth(root, good)
    name_one(root, partly, "fish")
    name_one(root, tested, "fish")
    name_one(root, masked, "fish")
    data = open_data(config.data, 0)
    # Images of the validation part, and those of `data.labelled`, are not labelled by corrections.
    new = data.labelled[2:]
    assert [sample.stored_id for sample in new] == [good]
    assert data.labelled[:2] == plain.labelled
    assert data.validation == plain.validation
    assert [sample.image_id for sample in data.unlabelled] == [sample.image_id for sample in plain.unlabelled]
    np.testing.assert_array_equal(LabelledImages(new)[0][1].numpy(), truth(root, good))
    hand = dict(CorrectedStore(str(root / "labels")).corrected_labels())[partly].hand
    fish = data.space.classes.index("fish")
    added = sum(data.labelled_pixels.pixels) - sum(plain.labelled_pixels.pixels)
    assert added == truth(root, good).size
    assert "2 corrected images of" in data.corrected
    assert "1 good, labelled besides data.labelled; 1 unlabelled" in data.corrected
    for method, ending in (
        ("segray", "with pixels by hand"),
        ("supervised", "which supervised does not use"),
    ):
        shown = next(t for t in data_lines(_config(root, f"method={method}"), data) if "2 corrected" in t)
        assert shown.endswith(ending)
    images = UnlabelledImages(data.unlabelled, str(root / "labels"), data.space.classes, data.corrections)
    index = next(i for i, sample in enumerate(images.samples) if sample.stored_id == partly)
    _, label, confidence = images[index]
    assert (label.numpy()[hand] == fish).all()
    np.testing.assert_array_equal(confidence.numpy() == 255, hand)
    whole = next(i for i, sample in enumerate(images.samples) if sample.stored_id == good)
    assert (images[whole][2] == 255).all()
    before = UnlabelledImages(data.unlabelled, str(root / "labels"), data.space.classes)[index]
    np.testing.assert_array_equal(label.numpy()[~hand], before[1].numpy()[~hand])
    np.testing.assert_array_equal(confidence.numpy()[~hand], before[2].numpy()[~hand])
    assert before[2].max() < 255


def test_a_run_trains_on_the_corrections_that_it_began_with(root: Path) -> None:
    config = _config(root)
    first = paint_truth(root, open_data(config.data, 0).unlabelled[0].stored_id)
    folder = RunFolder(config)
    folder.begin(open_data(config.data, 0, folder.corrections()))
    paint_truth(root, open_data(config.data, 0).unlabelled[1].stored_id)
    assert folder.corrections() == first
    result = train.execute(config)
    assert result.last_miou is not None
    assert len((root / "run" / "splits" / "labelled.txt").read_text().splitlines()) == 2
    resumed = open_data(config.data, 0, folder.corrections())
    folder.check_data(resumed)
    shutil.rmtree(root / "run" / "checkpoints")
    with pytest.raises(UserError, match=r"data.labelled: 3 images -> 4"):
        folder.check_data(open_data(config.data, 0))


def test_good_images_are_enough_to_train_without_any_mask(root: Path) -> None:
    expected = {image_id: truth(root, image_id) for image_id in ids(root)[:2]}
    for image_id in expected:
        paint_truth(root, image_id)
    place = [
        "data.kind=folder",
        f"data.root={root / 'book' / 'images'}",
        "data.images=.",
        f"out={root / 'good'}",
    ]
    config = _config(root, *place, "data.classes=picture_book", "data.labelled=none", "data.validation=none")
    data = open_data(config.data, 0)
    assert [sample.stored_id for sample in data.labelled] == list(expected)
    for i, mask in enumerate(expected.values()):
        np.testing.assert_array_equal(LabelledImages(data.labelled)[i][1].numpy(), mask)
    assert data.labelled_pixels.masks == 2
    assert sum(data.labelled_pixels.pixels) == sum(mask.size for mask in expected.values())
    assert set(data.labelled) < set(data.unlabelled)
    train.execute(config)
    RunFolder(config).check_data(open_data(config.data, 0))
    assert (root / "good" / "last" / "state.json").exists()
    assert (root / "good" / "splits" / "labelled.txt").read_text() == ""


def test_without_a_mask_and_a_good_image_there_is_nothing_to_learn_from(root: Path) -> None:
    name_one(root, ids(root)[0], "fish")
    for words in ((), ("data.labels=null", "method=fixmatch")):
        config = _config(root, "data.labelled=none", *words)
        with pytest.raises(UserError, match=r"^data.labelled=none: no training image is marked good in "):
            open_data(config.data, 0)
    shutil.rmtree(root / "book" / "masks")
    for split in ("data.labelled=none", "data.validation=none"):
        with pytest.raises(UserError, match="no image has a mask"):
            open_data(_config(root, "data.validation=2", split).data, 0)

"""`segray calibrate` on a label set of eight scenes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import segray
from segray.models.calibration import selection
from segray.pipelines.calibration import fit
from segray.pipelines.calibration.label_set import CalibratedSet
from segray.pipelines.commands import calibrate, relabel
from segray.pipelines.commands.evaluate import evaluate
from segray.pipelines.commands.verify import run as verify_run
from segray.pipelines.commands.verify import verify
from segray.pipelines.config.commands.calibrate import CalibrateConfig
from segray.pipelines.config.commands.relabel import RelabelConfig
from segray.pipelines.config.commands.verify import VerifyConfig
from segray.pipelines.config.loading import load
from segray.pipelines.errors import UserError
from segray.pipelines.label_set.part_files import encode_part
from segray.pipelines.label_set.store import LabelStore
from tests.faults.invariant import contents, files
from tests.previous_version.archive import unpack

SYNONYMS = ["label.aliases.tree=plant", "label.aliases.car=vehicle", "label.aliases.boat=ship"]


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`labels`, with embeddings, and `book/masks` of all its images; never changed."""
    return unpack(tmp_path_factory.mktemp("calibrate"))


@pytest.fixture(scope="module")
def misnamed(book: Path) -> Path:
    """The label set with names that its CLIP does not know."""
    out = book.parent / "misnamed"
    words = [f"labels={book / 'labels'}", f"out={out}", "classes=picture_book", *SYNONYMS]
    relabel.execute(load(RelabelConfig, None, words))
    return out


def _config(labels: Path, masks: Path, out: Path, *words: str) -> CalibrateConfig:
    return load(CalibrateConfig, None, [f"labels={labels}", f"masks={masks}", f"out={out}", *words])


def _refused(config: CalibrateConfig, text: str) -> None:
    with pytest.raises(UserError, match=text) as caught:
        calibrate.execute(config)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert not Path(config.out).exists()


def test_masks_in_an_archive_teach_the_same(misnamed: Path, book: Path, tmp_path: Path) -> None:
    packed = shutil.make_archive(str(tmp_path / "masks"), "zip", book / "book", "masks")
    results = [
        calibrate.execute(_config(misnamed, masks, tmp_path / name))
        for name, masks in (("a", book / "book" / "masks"), ("b", Path(packed)))
    ]
    assert results[0].report == results[1].report
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_wrong_names_are_corrected(misnamed: Path, book: Path, tmp_path: Path) -> None:
    masks, out = book / "book" / "masks", tmp_path / "out"
    result = calibrate.execute(_config(misnamed, masks, out, "alpha=0"))
    assert result.masks == 8
    assert result.miou_after > result.miou_before + 0.05
    before, after = (evaluate(str(labels), str(masks)).miou for labels in (misnamed, out))
    assert result.miou_before == pytest.approx(before, abs=1e-3)
    assert after > before + 0.05
    assert verify(str(out)).problems == []
    assert "average of" in str(result)


def test_the_label_set_tells_what_the_masks_chose(misnamed: Path, book: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = calibrate.execute(_config(misnamed, book / "book" / "masks", out))
    told = json.loads((out / "calibration.json").read_text())
    assert told["miou_after"] == result.miou_after
    assert len(told["images"]) == told["masks"] == 8
    assert [entry["name"] for entry in told["classes"]][:2] == ["background", "tree"]
    matrix = np.array(told["transition"]["shares"])
    assert matrix.shape == (10, 10)
    assert matrix.sum(1) == pytest.approx(np.ones(10), abs=1e-4)
    assert sum(told["transition"]["prior"]) == pytest.approx(1, abs=1e-4)
    record = segray.LabelSet(out).provenance
    assert record["calibration"]["naming"] == told["naming"]
    assert record["prompts"]["names"][1] == ["plant"]
    assert record["sam"] == segray.LabelSet(misnamed).provenance["sam"]


def test_what_is_not_trusted_is_unknown_not_background(misnamed: Path, book: Path, tmp_path: Path) -> None:
    masks = book / "book" / "masks"
    calibrate.execute(_config(misnamed, masks, tmp_path / "all", "alpha=0"))
    calibrate.execute(_config(misnamed, masks, tmp_path / "sure", "alpha=0.6"))
    every, sure = (segray.LabelSet(tmp_path / name) for name in ("all", "sure"))
    unknown = 0
    for known, doubted in zip(every, sure, strict=True):
        lost = doubted.label == 255
        unknown += int(lost.sum())
        assert np.array_equal(doubted.label[~lost], known.label[~lost])
        assert not doubted.confidence[lost].any()
        assert not (known.label == 255).any()
    assert unknown > 0
    assert verify(str(tmp_path / "sure")).problems == []
    fractions = [
        sum(row["labelled_fraction"] for row in LabelStore(str(tmp_path / name)).rows())
        for name in ("all", "sure")
    ]
    assert fractions[1] < fractions[0]


def test_names_to_try_are_added_where_they_pay(misnamed: Path, book: Path, tmp_path: Path) -> None:
    words = ["candidates.aliases.tree=tree", "candidates.aliases.car=car", "candidates.aliases.boat=boat"]
    result = calibrate.execute(_config(misnamed, book / "book" / "masks", tmp_path / "out", *words))
    told = json.loads((tmp_path / "out" / "calibration.json").read_text())
    assert told["names_added"]
    assert set(told["names_added"]) <= {"tree", "car", "boat"}
    assert f"added {', '.join(told['names_added'])}" in str(result)


def test_only_the_images_of_a_split_are_learned_from(misnamed: Path, book: Path, tmp_path: Path) -> None:
    ids = sorted(row["image_id"] for row in LabelStore(str(misnamed)).rows(["image_id"]))
    split = tmp_path / "split.txt"
    split.write_text(f"images/{ids[0]} masks/{ids[0]}\n{ids[1]}\n{Path(ids[2]).stem}\n")
    masks = book / "book" / "masks"
    calibrate.execute(_config(misnamed, masks, tmp_path / "out", f"split={split}"))
    assert json.loads((tmp_path / "out" / "calibration.json").read_text())["images"] == ids[:3]
    split.write_text("nowhere.png\n")
    _refused(_config(misnamed, masks, tmp_path / "bad", f"split={split}"), "line 1: no image nowhere.png")


def test_going_on_does_only_what_is_missing(misnamed: Path, book: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    config = _config(misnamed, book / "book" / "masks", out)
    calibrate.execute(config)
    whole, store = contents(out), LabelStore(str(out))
    store.discard(store.parts()[0])
    result = calibrate.execute(config)
    assert contents(out) == whole
    assert result.labels.images == 8
    run = store.run()
    assert run is not None
    assert run["this_run"]["images"] == 4


def test_class_centres_come_from_the_segments_of_all_images(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks, out, labels = book / "book" / "masks", tmp_path / "out", tmp_path / "labels"
    shutil.copytree(book / "labels", labels)
    monkeypatch.setattr(selection, "LEAST_SEGMENTS", 10)
    config = _config(labels, masks, out, "allow_missing=true")
    result = calibrate.execute(config)
    assert "drawn to class centres" in str(result)
    assert json.loads((out / "calibration.json").read_text())["centres"] is True
    assert verify(str(out)).problems == []
    whole, store = contents(out), LabelStore(str(out))
    store.discard(store.parts()[0])
    calibrate.execute(config)
    assert contents(out) == whole
    # Other segments have other centres: a label set that lost or gained some is another one.
    other = LabelStore(str(labels))
    other.discard(other.parts()[1])
    with pytest.raises(UserError, match="another configuration:\n  what the masks and segments chose"):
        calibrate.execute(config)
    assert contents(out) == whole


def test_the_digest_tells_other_centres(book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[fit.Calibration] = []
    monkeypatch.setattr(selection, "LEAST_SEGMENTS", 10)

    def no_lines(calibrated: CalibratedSet) -> list[str]:
        seen.append(calibrated.calibration)
        return []

    monkeypatch.setattr(calibrate, "report_lines", no_lines)
    calibrate.execute(_config(book / "labels", book / "book" / "masks", tmp_path / "out"))
    (calibration,) = seen
    naming = calibration.choice.naming
    centres = naming.centres
    assert centres is not None
    others = [
        replace(naming, centres=None),
        replace(naming, factor=2 * naming.factor),
        replace(naming, centres=replace(centres, mean=centres.mean + 0.1)),
        replace(naming, centres=replace(centres, weights=2 * centres.weights)),
        replace(naming, centres=replace(centres, bias=centres.bias + 1)),
        replace(naming, centres=replace(centres, taught=~centres.taught)),
        replace(naming, centres=replace(centres, possible=~centres.possible)),
    ]
    changed = [replace(calibration, choice=replace(calibration.choice, naming=other)) for other in others]
    assert len({calibration.digest(), *(other.digest() for other in changed)}) == 1 + len(others)


def test_other_masks_are_not_mixed_in(misnamed: Path, book: Path, tmp_path: Path) -> None:
    masks, out = tmp_path / "masks", tmp_path / "out"
    shutil.copytree(book / "book" / "masks", masks)
    config = _config(misnamed, masks, out)
    calibrate.execute(config)
    before = files(out)
    first = next(path for path in sorted(masks.rglob("*.png")))
    first.unlink()
    with pytest.raises(
        UserError, match="was made with another configuration:\n  what the masks and segments chose"
    ):
        calibrate.execute(config)
    assert files(out) == before


def test_repair_makes_just_the_lost_images_again(misnamed: Path, book: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    calibrate.execute(_config(misnamed, book / "book" / "masks", out))
    whole = contents(out)
    (out / "labels" / LabelStore(str(out)).parts()[0]).write_bytes(b"PAR1")
    places = {"labels": str(misnamed), "masks": str(book / "book" / "masks")}
    verify_run(VerifyConfig(out=str(out), repair=True, **places))
    assert contents(out) == whole


@pytest.mark.slow
def test_a_calibrated_set_can_be_calibrated_and_relabelled(
    misnamed: Path, book: Path, tmp_path: Path
) -> None:
    masks = book / "book" / "masks"
    calibrate.execute(_config(misnamed, masks, tmp_path / "one"))
    calibrate.execute(_config(tmp_path / "one", masks, tmp_path / "two"))
    words = [f"labels={tmp_path / 'one'}", f"out={tmp_path / 'three'}", "classes=picture_book", *SYNONYMS]
    relabel.execute(load(RelabelConfig, None, words))
    assert contents(tmp_path / "three") == contents(misnamed)


def test_the_python_function_returns_what_it_wrote(book: Path, tmp_path: Path) -> None:
    result = segray.calibrate(labels=book / "labels", masks=book / "book" / "masks", out=tmp_path / "out")
    assert (result.labels.out, result.labels.ok, result.masks) == (str(tmp_path / "out"), 8, 8)
    assert result.miou_after >= result.miou_before


# Refusals


def _masks(folder: Path, source: Path, count: int) -> Path:
    """The first masks of a folder."""
    for path in sorted(source.rglob("*.png"))[:count]:
        target = folder / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return folder


def _first(folder: Path) -> Path:
    return sorted(folder.rglob("*.png"))[0]


def test_masks_of_other_images_are_refused(misnamed: Path, book: Path, tmp_path: Path) -> None:
    masks = _masks(tmp_path / "masks", book / "book" / "masks", 3)
    shutil.copy(_first(masks), masks / "stranger.png")
    _refused(
        _config(misnamed, masks, tmp_path / "out"), "stranger.png: no image of the label set has this name"
    )
    calibrate.execute(_config(misnamed, masks, tmp_path / "out", "allow_missing=true"))
    only = tmp_path / "only"
    only.mkdir()
    shutil.copy(_first(masks), only / "stranger.png")
    _refused(
        _config(misnamed, only, tmp_path / "none", "allow_missing=true"),
        "no image of the label set has a mask",
    )


def test_masks_of_another_size_are_refused(misnamed: Path, book: Path, tmp_path: Path) -> None:
    masks = _masks(tmp_path / "masks", book / "book" / "masks", 2)
    Image.fromarray(np.zeros((5, 7), np.uint8)).save(_first(masks))
    _refused(_config(misnamed, masks, tmp_path / "out"), "is 7x5 pixels, its image's label 96x96")


def test_masks_with_other_ids_are_refused(misnamed: Path, book: Path, tmp_path: Path) -> None:
    masks = _masks(tmp_path / "masks", book / "book" / "masks", 2)
    Image.fromarray(np.full((96, 96), 77, np.uint8)).save(_first(masks))
    _refused(_config(misnamed, masks, tmp_path / "out"), r"holds id 77 .* allowed: 0 to 9 and 255")


def test_more_classes_than_memory_holds_are_refused_before_a_mask_is_read(
    misnamed: Path, book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks = _masks(tmp_path / "masks", book / "book" / "masks", 2)
    _first(masks).write_bytes(b"no image")
    monkeypatch.setattr(fit, "_MOST_COUNTS", 2 * 10**2 - 1)
    text = "2 images of a label set with 10 classes are too many to calibrate on; allowed .*: 9 classes"
    _refused(_config(misnamed, masks, tmp_path / "out"), text)


def test_masks_of_one_class_are_refused(misnamed: Path, book: Path, tmp_path: Path) -> None:
    masks = _masks(tmp_path / "masks", book / "book" / "masks", 1)
    Image.fromarray(np.full((96, 96), 3, np.uint8)).save(_first(masks))
    _refused(
        _config(misnamed, masks, tmp_path / "out"), "hold car alone; calibration needs at least two classes"
    )


def test_a_label_set_without_embeddings_is_refused(misnamed: Path, book: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    shutil.copytree(misnamed, plain)
    for path in (plain / "segments").iterdir():
        table = pq.read_table(path).drop_columns("embedding")
        table = table.append_column("embedding", pa.nulls(table.num_rows))
        pq.write_table(table.replace_schema_metadata(pq.read_schema(path).metadata), path)
    _refused(_config(plain, book / "book" / "masks", tmp_path / "out"), "holds no embeddings")


@pytest.mark.parametrize("count", [2, 5])
def test_the_least_stable_segments_are_those_of_the_whole_label_set(
    misnamed: Path, book: Path, tmp_path: Path, count: int
) -> None:
    masks = _masks(tmp_path / "masks", book / "book" / "masks", count)
    calibrate.execute(_config(misnamed, masks, tmp_path / "out"))
    stored = [pq.read_table(path) for path in sorted((misnamed / "segments").glob("*.parquet"))]
    scores = pa.concat_tables(stored)["stability_score"].to_numpy().astype(float)
    chosen = json.loads((tmp_path / "out" / "calibration.json").read_text())["least_stability"]
    assert chosen == pytest.approx(np.quantile(scores, selection.STABILITY_SHARES[0]))


@pytest.mark.parametrize(
    ("column", "text"),
    [
        ("embedding", "an embedding that is missing or not finite"),
        ("stability_score", "a stability score that is missing or not finite"),
    ],
)
def test_a_missing_value_of_an_image_without_mask_is_one_line(
    book: Path, tmp_path: Path, column: str, text: str
) -> None:
    labels, masks = tmp_path / "labels", _masks(tmp_path / "masks", book / "book" / "masks", 2)
    shutil.copytree(book / "labels", labels)
    taught = {path.stem for path in masks.rglob("*.png")}
    for path in sorted((labels / "segments").glob("*.parquet")):
        rows = pq.read_table(path)
        whole = rows.to_pylist()
        for row in whole:
            if Path(row["image_id"]).stem not in taught:
                row[column] = None
        path.write_bytes(encode_part(pa.Table.from_pylist(whole, schema=rows.schema), row_group_size=64))
    with pytest.raises(UserError, match=text) as caught:
        calibrate.execute(_config(labels, masks, tmp_path / "out"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("candidates.aliases.cow=cow", "candidates.aliases: no class 'cow'"),
        ("candidates.aliases.tree=house", "have the same prompt"),
        ("candidates.templates=nothing", "unknown templates 'nothing'"),
        ("split=nowhere.txt", "split: no file 'nowhere.txt'"),
    ],
)
def test_bad_words_are_refused(misnamed: Path, book: Path, tmp_path: Path, word: str, text: str) -> None:
    _refused(_config(misnamed, book / "book" / "masks", tmp_path / "out", word), text)


def test_the_label_set_that_is_read_is_never_written(misnamed: Path, book: Path) -> None:
    before = files(misnamed)
    with pytest.raises(UserError, match="out must differ from labels"):
        calibrate.execute(_config(misnamed, book / "book" / "masks", misnamed))
    assert files(misnamed) == before


@pytest.mark.parametrize("value", [None, float("nan")])
def test_a_damaged_stability_score_is_one_line(
    misnamed: Path, book: Path, tmp_path: Path, value: float | None
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(misnamed, damaged)
    for path in (damaged / "segments").iterdir():
        table = pq.read_table(path)
        index = table.schema.get_field_index("stability_score")
        column = pa.array([value] * table.num_rows, pa.float32())
        pq.write_table(table.set_column(index, table.schema.field(index), column), path)
    with pytest.raises(UserError, match="see segray verify") as caught:
        calibrate.execute(_config(damaged, book / "book" / "masks", tmp_path / "out"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()

"""What the page of a calibrated label set says of its calibration."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import segray
from segray.models.label_map import LabelMap
from segray.pipelines.commands import calibrate, relabel
from segray.pipelines.commands.report import build
from segray.pipelines.config.commands.calibrate import CalibrateConfig
from segray.pipelines.config.commands.relabel import RelabelConfig
from segray.pipelines.config.loading import load
from segray.pipelines.label_set.part_files import encode_part
from tests.pipelines.commands.test_report import Page, assert_closed
from tests.previous_version.archive import unpack


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `misnamed`, and `calibrated`, which was made from it; never changed."""
    folder = unpack(tmp_path_factory.mktemp("calibrated"))
    names = ["classes=picture_book", "label.aliases.tree=plant", "label.aliases.car=vehicle"]
    words = [f"labels={folder / 'labels'}", f"out={folder / 'misnamed'}", *names]
    relabel.execute(load(RelabelConfig, None, words))
    _calibrate(folder, folder / "calibrated", "alpha=0")
    return folder


def _calibrate(folder: Path, out: Path, *words: str) -> None:
    places = [f"labels={folder / 'misnamed'}", f"masks={folder / 'book' / 'masks'}", f"out={out}"]
    calibrate.execute(load(CalibrateConfig, None, [*places, *words]))


@pytest.fixture
def calibrated(sets: Path, tmp_path: Path) -> Path:
    """A copy of the calibrated label set."""
    return Path(shutil.copytree(sets / "calibrated", tmp_path / "calibrated"))


def _page(folder: Path, n: int = 3) -> Page:
    return assert_closed(build(str(folder), n=n))


def _reported(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "calibration.json").read_text())
    return found


def test_the_page_tells_what_changed_and_for_which_class(sets: Path) -> None:
    page, reported = _page(sets / "calibrated"), _reported(sets / "calibrated")
    text = page.text().replace("\u00a0", " ")
    assert f"Corrected by 8 masks with {reported['segments']} segments" in text
    was, now = 100 * reported["miou_before"], 100 * reported["miou_after"]
    assert f"the mean IoU was {was:.1f} % and is {now:.1f} %: {now - was:+.1f} ±" in text
    changes = {e["name"]: 100 * ((e["iou_after"] or 0) - (e["iou_before"] or 0)) for e in reported["classes"]}
    listed = sorted((p for p in changes.values() if abs(p) >= 0.5), key=lambda p: -abs(p))
    cells = [text for tag, text in page.texts if tag == "td"]
    start = cells.index(f"{listed[0]:+.1f}")
    assert cells[start : start + 4 * len(listed) : 4] == [f"{points:+.1f}" for points in listed]


@pytest.mark.parametrize("alpha", [0, 0.6])
def test_the_images_are_those_with_the_greatest_change(sets: Path, tmp_path: Path, alpha: float) -> None:
    out = tmp_path / "calibrated"
    _calibrate(sets, out, f"alpha={alpha}")
    old, new = (segray.LabelSet(folder) for folder in (sets / "misnamed", out))
    was = {sample.image_id: sample.label for sample in old}
    areas = {s.image_id: _moved(was[s.image_id], s.label) for s in new}
    shares = {s.image_id: float(np.mean(s.label != was[s.image_id])) for s in new}
    page = _page(out, n=2)
    shown = [(a["alt"] or "").split()[3] for a in page.all("img") if (a["alt"] or "").endswith(" before")]
    chosen = sorted(areas, key=lambda name: -areas[name])[:2]
    assert shown == sorted(chosen, key=lambda name: -shares[name])
    cards = [text for tag, text in page.texts if tag == "b" and text.replace("\u00a0", " ").endswith(" %")]
    assert [c.replace("\u00a0", " ") for c in cards[-2:]] == [f"{100 * shares[name]:.1f} %" for name in shown]


def _moved(was: LabelMap, now: LabelMap) -> int:
    counts = [np.bincount(label.ravel(), minlength=256) for label in (was, now)]
    return int(np.abs(counts[0] - counts[1]).sum())


def test_a_lower_score_is_explained(calibrated: Path) -> None:
    reported = _reported(calibrated)
    reported["gain"]["miou"] = -0.02
    (calibrated / "calibration.json").write_text(json.dumps(reported))
    text = _page(calibrated).text()
    assert "-2.0 ±" in text
    assert "Class centres are used unless they are clearly worse" in text


def test_another_label_set_has_no_such_section(sets: Path) -> None:
    assert "Calibration" not in _page(sets / "misnamed").text()


def _with_source(calibrated: Path, place: str) -> None:
    (calibrated / "config.yaml").write_text(json.dumps({"labels": place}))


@pytest.mark.parametrize(
    "place", ["nowhere", "x" * 300, "null\0character", "config.yaml", "in_the_way", "labels"]
)
def test_without_the_label_set_as_it_was_there_are_figures_alone(
    sets: Path, calibrated: Path, place: str
) -> None:
    folder = sets if place == "labels" else calibrated
    (calibrated / "in_the_way").mkdir()
    (calibrated / "in_the_way" / "labels").write_text("a file where a folder is expected")
    _with_source(calibrated, f"{folder}/{place}")
    page = _page(calibrated)
    assert "Corrected by 8 masks" in page.text()
    assert "No images: " in page.text()
    assert "is not the label set that was calibrated; " in page.text()
    assert not [a for a in page.all("img") if (a["alt"] or "").endswith(" before")]


def test_of_a_place_outside_of_the_users_folders_no_reason_is_told(sets: Path, calibrated: Path) -> None:
    _with_source(calibrated, str(sets / "labels"))
    assert "calibrated; image.roots=FOLDER tells why." in _page(calibrated).text()
    shown = assert_closed(build(str(calibrated), n=3, roots=(str(sets),))).text()
    assert "labels is another label set." in shown


@pytest.mark.parametrize(
    "text", ["", "labels: [a, b]", "labels: {", "- labels", '%YAML 1.99999\n---\n"\\UFFFFFFFF"']
)
def test_a_configuration_that_names_no_label_set_is_told(calibrated: Path, text: str) -> None:
    (calibrated / "config.yaml").write_text(text)
    assert "config.yaml names no label set that was calibrated." in _page(calibrated).text()


@pytest.mark.parametrize("column", ["class_ids", "class_pixels"])
@pytest.mark.parametrize("value", [None, [], [None]])
def test_damaged_areas_are_told(sets: Path, calibrated: Path, column: str, value: list[None] | None) -> None:
    damaged = calibrated.parent / "misnamed"
    shutil.copytree(sets / "misnamed", damaged)
    for path in sorted((damaged / "labels").iterdir()):
        table = pq.read_table(path)
        rows = [row | {column: value} for row in table.to_pylist()]
        path.write_bytes(encode_part(pa.Table.from_pylist(rows, schema=table.schema), row_group_size=64))
    _with_source(calibrated, str(damaged))
    assert "is not the label set that was calibrated; " in _page(calibrated).text()


@pytest.mark.parametrize("place", ["s3://somebodys/labels", "zip://labels::/tmp/a.zip"])
def test_a_received_file_leads_to_no_bucket(calibrated: Path, place: str) -> None:
    _with_source(calibrated, place)
    shown = _page(calibrated).text()
    assert f"No images: labels={place} is in config.yaml, which may be anyone's" in shown
    assert "Corrected by 8 masks" in shown


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"miou_after": 7}, "is damaged (miou_after: Input should be less than or equal to 1)"),
        ({"classes": []}, "has 0 classes, the label set 10"),
        ({"gain": None}, "is damaged (gain: Input should be"),
    ],
)
def test_a_damaged_description_is_reported(calibrated: Path, change: dict[str, Any], text: str) -> None:
    (calibrated / "calibration.json").write_text(json.dumps(_reported(calibrated) | change))
    shown = _page(calibrated).text()
    assert "No figures: " in shown
    assert text in shown
    assert "areas of the classes changed most" in shown


def test_a_missing_description_is_reported(calibrated: Path) -> None:
    (calibrated / "calibration.json").unlink()
    assert "calibration.json cannot be read" in _page(calibrated).text()

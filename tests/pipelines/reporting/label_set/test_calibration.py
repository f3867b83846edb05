"""What the page of a calibrated label set says of its calibration."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import segray
from segray.pipelines.commands import calibrate, relabel
from segray.pipelines.commands.report import build
from segray.pipelines.config.commands.calibrate import CalibrateConfig
from segray.pipelines.config.commands.relabel import RelabelConfig
from segray.pipelines.config.loading import load
from tests.pipelines.commands.test_report import Page, assert_closed
from tests.previous_version.archive import unpack


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `misnamed`, and `calibrated`, which was made from it; never changed."""
    folder = unpack(tmp_path_factory.mktemp("calibrated"))
    names = ["classes=picture_book", "label.aliases.tree=plant", "label.aliases.car=vehicle"]
    words = [f"labels={folder / 'labels'}", f"out={folder / 'misnamed'}", *names]
    relabel.execute(load(RelabelConfig, None, words))
    places = [f"labels={folder / 'misnamed'}", f"masks={folder / 'book' / 'masks'}"]
    calibrate.execute(load(CalibrateConfig, None, [*places, f"out={folder / 'calibrated'}", "alpha=0"]))
    return folder


@pytest.fixture
def calibrated(sets: Path, tmp_path: Path) -> Path:
    """A copy of the calibrated label set."""
    return Path(shutil.copytree(sets / "calibrated", tmp_path / "calibrated"))


def _page(folder: Path, n: int = 3) -> Page:
    return assert_closed(build(str(folder), n=n))


def _told(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "calibration.json").read_text())
    return found


def test_the_page_tells_what_changed_and_for_which_class(sets: Path) -> None:
    page, told = _page(sets / "calibrated"), _told(sets / "calibrated")
    text = page.text().replace("\u00a0", " ")
    assert f"Corrected by 8 masks with {told['segments']} segments" in text
    was, now = 100 * told["miou_before"], 100 * told["miou_after"]
    assert f"the mean IoU was {was:.1f} % and is {now:.1f} %: {now - was:+.1f} ±" in text
    changes = {e["name"]: 100 * ((e["iou_after"] or 0) - (e["iou_before"] or 0)) for e in told["classes"]}
    listed = sorted((p for p in changes.values() if abs(p) >= 0.5), key=lambda p: -abs(p))
    cells = [text for tag, text in page.texts if tag == "td"]
    start = cells.index(f"{listed[0]:+.1f}")
    assert cells[start : start + 4 * len(listed) : 4] == [f"{points:+.1f}" for points in listed]


def test_the_pictures_are_those_with_the_greatest_change(sets: Path) -> None:
    old, new = (segray.LabelSet(sets / name) for name in ("misnamed", "calibrated"))
    was = {sample.image_id: sample.label for sample in old}
    moved = {s.image_id: float(np.mean(s.label != was[s.image_id])) for s in new}
    page = _page(sets / "calibrated", n=1)
    (shown,) = [a["alt"] or "" for a in page.all("img") if (a["alt"] or "").endswith(" before")]
    greatest = max(moved, key=moved.__getitem__)
    assert shown == f"label map of {greatest} before"
    assert f"{100 * moved[greatest]:.1f} % of the pixels have another class" in page.text().replace(
        "\u00a0", " "
    )


def test_a_lower_score_is_explained(calibrated: Path) -> None:
    told = _told(calibrated)
    told["gain"]["miou"] = -0.02
    (calibrated / "calibration.json").write_text(json.dumps(told))
    text = _page(calibrated).text()
    assert "-2.0 ±" in text
    assert "Class centres are used unless they are clearly worse" in text


def test_another_label_set_has_no_such_section(sets: Path) -> None:
    assert "Calibration" not in _page(sets / "misnamed").text()


def test_without_the_label_set_as_it_was_there_are_figures_alone(sets: Path, calibrated: Path) -> None:
    config = calibrated / "config.yaml"
    for place in (calibrated / "nowhere", sets / "labels"):
        config.write_text(config.read_text().replace(str(sets / "misnamed"), str(place)))
        page = _page(calibrated)
        assert "Corrected by 8 masks" in page.text()
        assert f"No images: {place}: the label set that was calibrated is not here any more." in page.text()
        assert not [a for a in page.all("img") if (a["alt"] or "").endswith(" before")]
        config.write_text(config.read_text().replace(str(place), str(sets / "misnamed")))


def test_a_received_file_leads_to_no_bucket(sets: Path, calibrated: Path) -> None:
    config = calibrated / "config.yaml"
    config.write_text(config.read_text().replace(str(sets / "misnamed"), "s3://somebodys/labels"))
    shown = _page(calibrated).text()
    assert "No images: labels=s3://somebodys/labels is in config.yaml, which may be anyone's" in shown
    assert "Corrected by 8 masks" in shown


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"miou_after": 7}, "is damaged (Input should be less than or equal to 1)"),
        ({"classes": []}, "has 0 classes, the label set 10"),
        ({"gain": None}, "is damaged (Input should be"),
    ],
)
def test_a_damaged_description_is_told(calibrated: Path, change: dict[str, Any], text: str) -> None:
    (calibrated / "calibration.json").write_text(json.dumps(_told(calibrated) | change))
    shown = _page(calibrated).text()
    assert "No figures: " in shown
    assert text in shown


def test_a_missing_description_is_told(calibrated: Path) -> None:
    (calibrated / "calibration.json").unlink()
    assert "calibration.json cannot be read" in _page(calibrated).text()

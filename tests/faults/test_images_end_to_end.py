"""A folder from the wild, every kind of bad image among good ones, through the whole path."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from segray.pipelines.commands import annotate, predict, train
from segray.pipelines.commands.verify import verify
from segray.pipelines.config.commands.predict import PredictConfig
from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.config.loading import load
from segray.pipelines.errors import UserError
from segray.pipelines.io.label_png import decode_gray_png, encode_gray_png
from segray.pipelines.label_set.store import LabelStore
from segray.pipelines.training.data.datasets import LabelledImages
from segray.pipelines.training.data.training_data import open_data
from segray.pipelines.training.trained import load_network, predict_label
from tests.faults.image_kinds import exact_kinds
from tests.faults.images import HEIGHT, WIDTH, Expected, scene, write_wild_folder
from tests.pipelines.plain_runs import config_of
from tests.pipelines.trained_network import write_run


def wrong(outcomes: dict[str, tuple[str, str]], expected: Expected) -> dict[str, object]:
    """Images whose status or reason is another than expected."""
    assert sorted(outcomes) == sorted(expected)
    return {
        name: (outcomes[name], wanted)
        for name, wanted in expected.items()
        if outcomes[name][0] != wanted[0] or not outcomes[name][1].startswith(wanted[1])
    }


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_every_image_of_the_wild_is_out_once_with_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "wild", tmp_path / "labels"
    folder.mkdir()
    expected = write_wild_folder(folder)
    assert len(expected) >= 100
    overrides = ("sam.points_per_side=2", "sam.workers=1", "clip.workers=1", "max_bad=0.1")
    config = config_of(folder, out, *overrides)
    bad = {name: status for name, (status, _) in expected.items() if status != "ok"}
    with pytest.raises(
        UserError, match=rf"{len(bad)} of {len(expected)} images are bad, max_bad=0\.1"
    ) as caught:
        annotate.run(config)
    assert caught.value.exit_code == 3
    assert verify(str(out), expected).problems == []
    rows = list(LabelStore(str(out)).rows(["image_id", "status", "error", "sha256", "label", "n_segments"]))
    assert len(rows) == len(expected)
    outcomes = {row["image_id"]: (row["status"], row["error"] or "") for row in rows}
    assert wrong(outcomes, expected) == {}
    assert all((row["label"]["bytes"] is not None) == (row["status"] == "ok") for row in rows if row["label"])
    run = LabelStore(str(out)).run()
    assert run is not None
    assert run["rows"] == Counter(status for status, _ in expected.values())
    assert run["this_run"]["restarts"] == 0
    err = capsys.readouterr().err
    assert err.count("  error   ") + err.count("  skipped ") == 20
    assert f"  ... and {len(bad) - 20} more bad images" in err
    # The same command again reads no image and prints the same.
    before = {path: path.stat().st_mtime_ns for path in (out / "labels").iterdir()}
    with pytest.raises(UserError, match="images are bad"):
        annotate.run(config)
    assert {path: path.stat().st_mtime_ns for path in (out / "labels").iterdir()} == before


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_the_wild_folder_is_predicted_with_a_row_for_each_image(tmp_path: Path) -> None:
    folder, out = tmp_path / "wild", tmp_path / "masks"
    folder.mkdir()
    expected = write_wild_folder(folder)
    run = write_run(tmp_path / "run")
    predict.run(
        load(PredictConfig, None, [f"checkpoint={run}", f"images={folder}", f"out={out}", "workers=1"])
    )
    with (out / "predictions.csv").open(encoding="utf-8", newline="") as table:
        # A name that a spreadsheet takes for a formula has a ' in front.
        rows = {
            row["image_id"].removeprefix("'"): (row["status"], row["error"]) for row in csv.DictReader(table)
        }
    # The name of its mask would be too long.
    long = next(name for name in expected if len(name) > 250)
    assert rows[long][0] == "error"
    assert wrong(rows | {long: ("ok", "")}, expected) == {}
    label = predict_label(load_network(str(run))[0], scene())
    for name in exact_kinds():
        np.testing.assert_array_equal(decode_gray_png((out / "masks" / f"{name}.png").read_bytes()), label)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_the_wild_folder_is_trained_on_without_its_bad_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    folder, labels = tmp_path / "wild", tmp_path / "labels"
    folder.mkdir()
    expected = write_wild_folder(folder)
    good = {name for name, (status, _) in expected.items() if status == "ok"}
    annotate.run(config_of(folder, labels, "sam.model=none", "clip.workers=1"))
    mask = encode_gray_png((np.mgrid[:HEIGHT, :WIDTH][0] % 9).astype(np.uint8))
    for name in (*exact_kinds(), "old.bmp", "huge_header.png"):
        path = tmp_path / "masks" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(mask)
    config = load(
        TrainConfig,
        None,
        [
            f"out={tmp_path / 'run'}",
            f"data.labels={labels}",
            *("data.kind=folder", f"data.root={tmp_path}", "data.images=wild", "data.masks=masks"),
            *("data.classes=picture_book", "data.validation=4", "network.name=builtin"),
            *("network.pretrained=false", "augment.crop=32", "train.epochs=1", "train.batch=4", "trackers="),
        ],
    )
    with pytest.raises(UserError, match=r"huge_header\.png: too large \(400 MP") as caught:
        train.run(config)
    assert caught.value.exit_code == 2
    (tmp_path / "masks" / "huge_header.png.png").unlink()
    data = open_data(config.data, config.seed)
    assert {sample.image_id.removeprefix("wild/") for sample in data.unlabelled} <= good
    masked = [s for s in data.labelled if s.image_id.removeprefix("wild/") in exact_kinds()]
    assert len(masked) > 20
    for index in range(len(masked)):
        image = LabelledImages(masked)[index][0]
        np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), scene())
    capsys.readouterr()
    train.run(config)
    assert "checkpoint " in capsys.readouterr().out
    assert "wild: 5 of 121 images are left out: symlink loop (2, such as loop)" in caplog.text
    assert "unlabelled images are skipped: unreadable according to" in caplog.text

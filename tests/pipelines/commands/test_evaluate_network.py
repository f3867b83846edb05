"""`segray evaluate` of a trained network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segray.pipelines.commands.evaluate import run
from segray.pipelines.config.commands.evaluate import EvaluateConfig
from segray.pipelines.errors import UserError
from segray.pipelines.training.trained import load_network, predict_label
from tests.pipelines.commands.masks import masks_in
from tests.pipelines.trained_network import CLASSES, write_run


def images_in(folder: Path, *names: str) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in names:
        Image.fromarray(rng.integers(0, 256, (20, 33, 3), np.uint8)).save(folder / name)
    return folder


def test_a_checkpoint_is_scored_by_what_it_predicts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = write_run(tmp_path / "run")
    images = images_in(tmp_path / "images", "a.png", "b.png", "c.png")
    network, _ = load_network(str(trained))
    predicted = {p.stem: predict_label(network, np.array(Image.open(p))) for p in images.iterdir()}
    assert len(np.unique(predicted["a"])) > 1
    wrong = (predicted["b"] + 1) % 3
    masks = masks_in(tmp_path, a=predicted["a"], b=wrong, c=predicted["c"], bad=predicted["a"])
    (images / "bad.jpg").write_bytes(b"no picture")
    run(EvaluateConfig(checkpoint=str(trained), images=str(images), masks=str(masks)))
    document = json.loads((trained / "evaluation.json").read_text())
    assert (trained / "evaluation.csv").exists()
    assert document["pixel_accuracy"] == pytest.approx(2 / 3)
    expected = [sum((predicted[n] == i).sum() for n in "abc") for i in range(3)]
    assert [row["label_pixels"] for row in document["classes"]] == expected
    assert [row["class"] for row in document["classes"]] == list(CLASSES)
    assert (document["n_images"], document["not_ok"]) == (3, {"error": 1})
    assert (document["checkpoint"], document["step"], document["window"]) == (str(trained), 7, None)
    assert "left out        1 with status error" in capsys.readouterr().out


def test_the_window_of_the_run_is_taken_unless_another_is_given(tmp_path: Path) -> None:
    trained = write_run(tmp_path / "run", window=32)
    images = images_in(tmp_path / "images", "a.png")
    masks = str(masks_in(tmp_path, a=np.zeros((20, 33), np.uint8)))
    found = []
    for window in (None, 32, 0):
        config = EvaluateConfig(
            checkpoint=str(trained / "best"), images=str(images), masks=masks, window=window
        )
        run(config)
        document = json.loads((trained / "evaluation.json").read_text())
        found.append((document["window"], document["confusion"]))
    assert [window for window, _ in found] == [32, 32, 0]
    assert found[0] == found[1]
    assert found[0][1] != found[2][1]


def test_an_image_without_a_mask_is_refused_before_any_is_predicted(tmp_path: Path) -> None:
    images = images_in(tmp_path / "images", "a.png", "b.png")
    masks = str(masks_in(tmp_path, a=np.zeros((20, 33), np.uint8)))
    trained = write_run(tmp_path / "run")
    places = {"checkpoint": str(trained), "images": str(images), "masks": masks}
    with pytest.raises(UserError, match=r"no mask for 1 image: b\.png; allow_missing=true leaves them out"):
        run(EvaluateConfig(**places))
    run(EvaluateConfig(**places, allow_missing=True))
    assert json.loads((trained / "evaluation.json").read_text())["missing_masks"] == ["b.png"]

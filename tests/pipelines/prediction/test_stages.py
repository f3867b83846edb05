"""The stages of a prediction, and the size of their pool."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from PIL import Image

from segray.pipelines.config.commands.predict import PredictConfig
from segray.pipelines.config.loading import load
from segray.pipelines.engine.cluster import Resources
from segray.pipelines.engine.guard import Guard
from segray.pipelines.engine.ledger import Ledger
from segray.pipelines.engine.pools import PoolPlan
from segray.pipelines.errors import UserError
from segray.pipelines.prediction.encoding import overlay
from segray.pipelines.prediction.graph import pool_plan
from segray.pipelines.prediction.job import Job
from segray.pipelines.prediction.prepare import prepare
from segray.pipelines.prediction.result import Outcome
from segray.pipelines.prediction.stages import PREDICTED_SCHEMA, PredictImages, WriteMasks
from tests.pipelines.label_sets import no_file_larger_than
from tests.pipelines.plain_runs import PLAN
from tests.pipelines.trained_network import CLASSES, write_run

GUARD = Guard(Ledger(), max_tries=3)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    places = {"checkpoint": write_run(tmp_path / "run"), "images": tmp_path, "out": tmp_path / "out"}
    config = load(PredictConfig, None, [f"{key}={path}" for key, path in places.items()])
    return prepare(config, None)[0]


def _predicted(image_id: str) -> pa.Table:
    row = {"image_id": image_id, "status": "ok", "width": 9, "height": 8, "reduced": 1}
    row |= {"pixels": bytes(216), "label": bytes(72), "confidence": b""}
    return pa.Table.from_pylist([{**dict.fromkeys(PREDICTED_SCHEMA.names), **row}], schema=PREDICTED_SCHEMA)


def test_workers_take_no_other_weights_than_the_run_began_with(job: Job, tmp_path: Path) -> None:
    changed = Job(**{**vars(job), "checkpoint": str(write_run(tmp_path / "other", seed=1))})
    table = PredictImages(changed, PLAN, GUARD)(_predicted("a.png"))
    with pytest.raises(UserError, match="has changed since this run began; run the command again") as caught:
        Outcome().add(WriteMasks(changed, GUARD)(table))
    assert caught.value.exit_code == 1
    assert not Path(job.out).exists()


def test_names_that_do_not_fit_are_bad_rows(job: Job) -> None:
    for image_id in ("a.png", "a.png.png/b.png"):
        (row,) = WriteMasks(job, GUARD)(_predicted(image_id)).to_pylist()
    assert (row["status"], row["class_pixels"]) == ("error", None)
    assert row["error"].startswith("no file of this name can be written to masks or overlays")


def test_a_full_disk_ends_the_run(job: Job) -> None:
    with no_file_larger_than(20):
        table = WriteMasks(job, GUARD)(_predicted("a.png"))
    with pytest.raises(UserError, match=r"cannot write .*: File too large; .*; finished masks are safe"):
        Outcome().add(table)
    assert not list(Path(job.out).rglob("*.png"))


def test_an_overlay_shows_the_image_through_the_colours_of_its_classes() -> None:
    pixels = np.full((16, 48, 3), 200, np.uint8)
    label = np.repeat(np.arange(3, dtype=np.uint8), 16)[None].repeat(16, 0)

    def shown(classes: tuple[str, ...]) -> NDArray[np.uint8]:
        with Image.open(io.BytesIO(overlay(pixels, label, classes))) as picture:
            return np.array(picture)[8, [8, 24, 40]]

    # PASCAL's colours: (128, 0, 0) is class 1, (0, 128, 0) class 2, and black class 0.
    assert np.allclose(shown(CLASSES), [[200] * 3, [164, 100, 100], [100, 164, 100]], atol=6)
    assert np.allclose(shown(("sky", *CLASSES[1:]))[0], [100] * 3, atol=6)


def test_an_overlay_larger_than_a_jpeg_is_made_smaller() -> None:
    pixels = np.zeros((8, 66_000, 3), np.uint8)
    with Image.open(io.BytesIO(overlay(pixels, pixels[..., 0], CLASSES))) as picture:
        assert picture.size[0] == 65_500


@pytest.mark.parametrize(
    ("workers", "resources", "plan"),
    [
        (None, Resources(2, 0), (2, 0.5, 0, 1)),
        (1, Resources(2, 0), (1, 0.5, 0, 2)),
        (None, Resources(1, 0), (1, 0, 0, 1)),
        (None, Resources(16, 4), (4, 0, 1, 1)),
        (3, Resources(16, 2), (3, 0, 0.5, 1)),
        (2, Resources(16, 4), (2, 0, 1, 1)),
    ],
)
def test_the_pool_fits_the_cluster(
    workers: int | None, resources: Resources, plan: tuple[int, float, float, int]
) -> None:
    made: PoolPlan = pool_plan(workers, resources, 10**6)
    assert (made.workers, made.num_cpus, made.num_gpus, made.threads) == plan
    assert made.workers * made.num_cpus <= max(0, resources.cpus - 1)

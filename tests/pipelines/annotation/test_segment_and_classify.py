"""Both models in one worker: the labels of two workers, whatever number of threads call it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pytest

from segray.models.sam.geometry import Rgb
from segray.pipelines.annotation import local
from segray.pipelines.annotation.stages import classify, segment
from segray.pipelines.annotation.stages.classify import ClassifySegments, TextEmbeddings
from segray.pipelines.annotation.stages.read import ReadImages
from segray.pipelines.annotation.stages.schemas import CLASSIFIED_SCHEMA
from segray.pipelines.annotation.stages.segment import SegmentImages
from segray.pipelines.annotation.stages.segment_and_classify import SegmentAndClassify
from segray.pipelines.commands import annotate
from segray.pipelines.config.commands.annotate import ClipConfig, SamConfig
from segray.pipelines.engine import gpu_meter, pools
from segray.pipelines.engine.gpu_meter import GpuMeter
from segray.pipelines.engine.guard import Guard
from segray.pipelines.engine.ledger import Ledger
from segray.pipelines.engine.pools import PoolPlan
from segray.pipelines.engine.rows import Row
from segray.pipelines.errors import UserError
from segray.pipelines.io.images import ImageOptions
from segray.pipelines.label_set.store import LabelStore
from tests.pipelines.plain_runs import PLAN, config_of, draw_scenes, manifest_table

SAM = SamConfig(model="builtin", points_per_side=3, pred_iou_thresh=0, stability_score_thresh=0)
CLIP = ClipConfig(model="builtin")


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """Four images and a broken one, read."""
    folder = draw_scenes(tmp_path_factory.mktemp("both") / "images", 4)
    (folder / "broken.png").write_bytes(b"no picture")
    return ReadImages(ImageOptions(), False, guard())(manifest_table(folder))


def guard(ledger: Ledger | None = None) -> Guard:
    return Guard(ledger or Ledger(), max_tries=3)


def text() -> TextEmbeddings:
    embeddings = np.random.default_rng(0).normal(size=(10, 64)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    return TextEmbeddings(embeddings, np.arange(10), 50.0, 0.05)


def test_one_worker_gives_the_table_of_two_from_several_threads(read: pa.Table) -> None:
    classified = ClassifySegments(CLIP, text(), True, PLAN, guard())
    expected = classified(SegmentImages(SAM, PLAN, guard())(read))
    ledger = Ledger()
    both = SegmentAndClassify(SAM, CLIP, text(), True, PLAN, guard(ledger))
    parts = [read.slice(start, 2) for start in range(0, len(read), 2)]
    with ThreadPoolExecutor(3) as threads:
        found = pa.concat_tables(threads.map(both, parts))
    assert found.schema == CLASSIFIED_SCHEMA
    assert found.equals(expected)
    assert [row["status"] for row in found.to_pylist()].count("ok") == 4
    assert dict(ledger.tally().images) == {"sam": 4, "clip": 4}


def test_both_models_get_the_image_that_came_once(read: pa.Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bytes in the worker's memory: nothing is packed or moved between the models."""
    seen: dict[str, list[bytes | memoryview | None]] = {"sam": [], "clip": []}

    def watch(name: str, module: ModuleType) -> None:
        pixels_of = module.pixels_of

        def watched(row: Row) -> Rgb:
            seen[name].append(row["pixels"])
            return pixels_of(row)

        monkeypatch.setattr(module, "pixels_of", watched)

    watch("sam", segment)
    watch("clip", classify)
    SegmentAndClassify(SAM, CLIP, text(), True, PLAN, guard())(read)
    assert len(seen["sam"]) == 4
    assert all(one is other for one, other in zip(seen["sam"], seen["clip"], strict=True))


@pytest.mark.parametrize("broken", ["sam", "clip"])
def test_weights_that_cannot_be_loaded_end_the_run_with_their_reason(
    read: pa.Table, tmp_path: Path, broken: str
) -> None:
    (tmp_path / "bad.pth").write_bytes(b"no weights")
    bad = {"weights": str(tmp_path / "bad.pth")}
    sam = SAM.model_copy(update=bad) if broken == "sam" else SAM
    clip = CLIP.model_copy(update=bad) if broken == "clip" else CLIP
    both = SegmentAndClassify(sam, clip, text(), True, PLAN, guard())
    with pytest.raises(UserError, match=r"bad\.pth"):
        both(read)


def test_samples_of_the_gpu_are_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = iter([0.5, 1.0])
    monkeypatch.setattr(gpu_meter, "utilisation", lambda: next(shares, None))
    monkeypatch.setattr(gpu_meter, "EVERY_S", 0.0)
    meter, busy, samples = GpuMeter(), 0.0, 0
    while samples < 2:
        more, count = meter.take()
        busy, samples = busy + more, samples + count
    assert (busy, samples) == (1.5, 2)
    assert meter.take() == (0.0, 0)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_cluster_labels_alike_with_one_pool_and_with_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = draw_scenes(tmp_path / "images", 24)
    monkeypatch.setattr(local, "suits", lambda *_: False)
    annotate.execute(config_of(images, tmp_path / "two", "classes=picture_book"))
    plan = PoolPlan(1, 1, num_cpus=0.25, num_gpus=0.0, threads=1, batch_size=5, calls=3)
    monkeypatch.setattr(pools, "shared", lambda *_: plan)
    annotate.execute(config_of(images, tmp_path / "one", "classes=picture_book"))
    two, one = (
        {
            row["image_id"]: row["label"]
            for row in LabelStore(str(tmp_path / name)).rows(["image_id", "label"])
        }
        for name in ("two", "one")
    )
    assert len(one) == 24
    assert one == two

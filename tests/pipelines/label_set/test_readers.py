"""What other programs make of a label set's files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from segray.models.masks import decode_rle
from segray.pipelines.label_set.card import write_card
from segray.pipelines.label_set.store import LabelStore, labels_schema, write_part
from tests.pipelines.label_sets import IDS, PROVENANCE, error_row, label_map, ok_row, tables


@pytest.fixture(scope="module", params=[None, 4], ids=["no embeddings", "embeddings"])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    images = [ok_row(i, image={"bytes": ok_row("")["label"], "path": i}) for i in IDS]
    write_part(str(folder), *tables([*images, error_row("bad.jpg")], dim=request.param))
    write_part(str(folder), *tables([error_row("alone.jpg")], dim=request.param))
    return folder


def test_datasets_shows_pictures_and_class_names(written: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()

    def load(table: str) -> Any:
        files = str(written / table / "*.parquet")
        return datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path))

    labels = load("labels")
    for name in ("image", "label", "confidence"):
        assert isinstance(labels.features[name], datasets.Image)
    assert labels.features["class_ids"].feature.names == PROVENANCE["classes"]
    rows = {row["image_id"]: row for row in labels}
    assert set(rows) == {*IDS, "bad.jpg", "alone.jpg"}
    good = rows[IDS[1]]
    assert good["image"].size == (30, 20)
    np.testing.assert_array_equal(np.asarray(good["label"]), label_map())
    assert labels.features["class_ids"].feature.int2str(good["class_ids"]) == PROVENANCE["classes"]
    assert rows["bad.jpg"]["label"] is None
    assert len(load("segments")) == 2 * len(IDS)


def test_datasets_opens_the_folder_by_its_card(written: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    root = tmp_path / "set"
    shutil.copytree(written, root)
    # Tables of other kinds that a label set's folder may hold.
    for name in (
        "manifest.parquet",
        "corrections/part-0123456789abcdef.parquet",
        "labels/.aside-part-0.parquet",
    ):
        (root / name).parent.mkdir(exist_ok=True)
        pq.write_table(pa.table({"who": ["me"]}), root / name)
    write_card(str(root))
    labels = datasets.load_dataset(str(root), split="train", cache_dir=str(tmp_path))
    assert labels.column_names == labels_schema(PROVENANCE).names
    assert sorted(labels["image_id"]) == sorted([*IDS, "bad.jpg", "alone.jpg"])
    assert labels.features["class_ids"].feature.names == PROVENANCE["classes"]
    segments = datasets.load_dataset(str(root), "segments", split="train", cache_dir=str(tmp_path))
    assert len(segments) == 2 * len(IDS)


def test_a_card_that_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    write_card(str(tmp_path))
    assert (tmp_path / "README.md").read_text() == "mine"


def test_duckdb_polars_and_pandas_read_every_column(written: Path) -> None:
    duckdb, polars = pytest.importorskip("duckdb"), pytest.importorskip("polars")
    pandas = pytest.importorskip("pandas")
    for table, count in (("labels", len(IDS) + 2), ("segments", 2 * len(IDS))):
        files = sorted((written / table).glob("*.parquet"))
        ids = [i for file in files for i in pq.read_table(file)["image_id"].to_pylist()]
        names = pq.read_schema(files[0]).names
        query = duckdb.sql(f"SELECT * FROM '{written}/{table}/*.parquet'")
        assert (query.columns, len(query.fetchall())) == (names, count)
        frame = polars.read_parquet(written / table / "*.parquet")
        assert (frame.columns, sorted(frame["image_id"].to_list())) == (names, sorted(ids))
        data = pandas.concat([pandas.read_parquet(file) for file in files])
        assert (list(data.columns), sorted(data["image_id"])) == (names, sorted(ids))
    areas = duckdb.sql(f"SELECT DISTINCT area, rle.size, bbox FROM '{written}/segments/*.parquet' ORDER BY 1")
    assert [tuple(map(_plain, row)) for row in areas.fetchall()] == [
        (63, (20, 30), (3.0, 2.0, 9.0, 7.0)),
        (80, (20, 30), (20.0, 10.0, 10.0, 8.0)),
    ]


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else value


def test_opencv_and_torchvision_decode_the_same_ids(written: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    import torch
    from torchvision.io import ImageReadMode, decode_image

    row = next(row for row in LabelStore(str(written)).rows() if row["image_id"] == IDS[0])
    data = np.frombuffer(row["label"]["bytes"], np.uint8)
    np.testing.assert_array_equal(cv2.imdecode(data, cv2.IMREAD_UNCHANGED), label_map())
    image = decode_image(torch.from_numpy(data.copy()), ImageReadMode.UNCHANGED)
    np.testing.assert_array_equal(image.numpy()[0], label_map())


def test_pycocotools_decodes_the_segments(written: Path) -> None:
    store = LabelStore(str(written))
    part = max(store.parts(), key=lambda part: store.segments(part).num_rows)
    for segment in store.segments(part).to_pylist():
        mask = decode_rle(segment["rle"]["size"], segment["rle"]["counts"])
        np.testing.assert_array_equal(mask, label_map() == segment["class_id"])

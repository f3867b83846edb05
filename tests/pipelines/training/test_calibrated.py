"""`data.calibrate=true`: a run trains on labels that its labelled images have corrected."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import Tensor

from segray.models import builtin
from segray.pipelines.annotation.relabelling import require_embeddings
from segray.pipelines.calibration import fit
from segray.pipelines.calibration.examples import sample_segments
from segray.pipelines.commands import train
from segray.pipelines.commands.train import check
from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.config.loading import load
from segray.pipelines.corrections import Correction, CorrectionLog
from segray.pipelines.errors import UserError
from segray.pipelines.label_set.part_files import encode_part
from segray.pipelines.label_set.store import LabelStore
from segray.pipelines.training.calibrated import CALIBRATED, calibrate_labels, labels_of
from segray.pipelines.training.data.datasets import UnlabelledImages
from segray.pipelines.training.data.summary import data_lines
from segray.pipelines.training.data.training_data import open_data
from segray.pipelines.training.trainer import places
from tests.faults.invariant import contents
from tests.models.clip.tiny_clip import save_builtin, tiny_clip
from tests.pipelines.training import runs as small
from tests.previous_version.archive import unpack

WORDS = [
    "data.kind=picture_book",
    "data.labelled=4",
    "network.name=builtin",
    "trackers=",
]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`labels`, with embeddings, and the data set `book`; no GPU is seen."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return unpack(tmp_path)


def _config(root: Path, *words: str) -> TrainConfig:
    places = [f"out={root / 'new'}", f"data.root={root / 'book'}", f"data.labels={root / 'labels'}"]
    return load(TrainConfig, None, [*WORDS, *places, "data.calibrate=true", *words])


def test_a_run_trains_on_its_calibrated_labels(root: Path) -> None:
    words = ["augment.crop=32", "train.epochs=1", "train.batch=2", "network.pretrained=false"]
    places = [f"out={root / 'new'}", f"data.root={root / 'book'}", f"data.labels={root / 'labels'}"]
    config = load(TrainConfig, None, [*WORDS, *places, *words, "method=segray_v3"])
    result = train.execute(config)
    calibrated = Path(str(labels_of(config)))
    assert calibrated == root / "new" / CALIBRATED
    told = json.loads((calibrated / "calibration.json").read_text())
    lines = (root / "new" / "splits" / "labelled.txt").read_text().splitlines()
    assert {line.split()[0].removeprefix("images/") for line in lines} == set(told["images"])
    assert len(contents(calibrated)) == 8
    assert result.zero_shot_miou is not None


def test_a_good_image_keeps_what_it_showed(root: Path) -> None:
    config = _config(root)
    calibrate_labels(config, open_data(config.data, config.seed))

    def labels(where: str, corrections: Sequence[Correction] = ()) -> dict[str, Tensor]:
        data = open_data(config.data, config.seed)
        images = UnlabelledImages(data.unlabelled, where, data.space.classes, corrections)
        found = ((sample.stored_id, images.labels(i)) for i, sample in enumerate(data.unlabelled))
        return {name: label[0] for name, label in found if label is not None}

    before, calibrated = labels(str(root / "labels")), labels(str(labels_of(config)))
    changed = next(name for name in before if not torch.equal(before[name], calibrated[name]))
    log = CorrectionLog(root / "labels")
    log.append([log.make(changed, "good")])
    after = labels(str(labels_of(config)), log.read())
    assert torch.equal(after.pop(changed), before[changed])
    assert all(torch.equal(label, calibrated[name]) for name, label in after.items())


def test_validation_masks_are_never_read(root: Path) -> None:
    config = _config(root)
    data = open_data(config.data, config.seed)
    calibrate_labels(config, data)
    before = contents(root / "new" / CALIBRATED)
    for sample in data.validation:
        Image.fromarray(np.zeros((1, 1), np.uint8)).save(str(sample.mask))
    calibrate_labels(_config(root, f"out={root / 'again'}"), data)
    assert contents(root / "again" / CALIBRATED) == before
    provenance = LabelStore(str(root / "again" / CALIBRATED)).provenance
    assert provenance["calibration"]["masks"] == 4


def test_the_weights_of_a_label_set_s_clip_come_from_the_user(root: Path, tmp_path: Path) -> None:
    own = tmp_path / "clip.safetensors"
    shutil.copy(Path(builtin.__file__).with_name("clip.safetensors"), own)
    for path in sorted((root / "labels" / "labels").glob("*.parquet")):
        table = pq.read_table(path)
        record = json.loads(table.schema.metadata[b"segray"])
        record["clip"] |= {"weights": str(own)}
        metadata = {**table.schema.metadata, b"segray": json.dumps(record).encode()}
        path.write_bytes(encode_part(table.replace_schema_metadata(metadata), row_group_size=64))
    with pytest.raises(
        UserError, match=r"^data\.calibrate: clip\.weights: .*train, tune: data\.clip_weights"
    ):
        train.execute(_config(root))
    assert not (root / "new").exists()
    config = _config(root, f"data.clip_weights={own}")
    data = open_data(config.data, config.seed)
    check(config, data)
    calibrate_labels(config, data)
    assert len(contents(root / "new" / CALIBRATED)) == 8
    save_builtin(tiny_clip(seed=1), own)
    for weights, message in ((own, r"clip\.safetensors.*sha256"), (tmp_path / "none.pt", r"none\.pt")):
        with pytest.raises(UserError, match=rf"^data\.clip_weights: .*{message}"):
            train.execute(_config(root, f"data.clip_weights={weights}", f"out={root / 'other'}"))
        assert not (root / "other").exists()


def test_masks_of_one_class_calibrate_no_run(root: Path) -> None:
    for mask in (root / "book" / "masks").rglob("*.png"):
        Image.fromarray(np.zeros_like(np.array(Image.open(mask)))).save(mask)
    with pytest.raises(UserError, match=r"^data\.calibrate: the labelled masks hold background alone"):
        train.execute(_config(root))
    assert not (root / "new").exists()


def test_more_classes_than_memory_holds_begin_no_run(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "_MOST_COUNTS", 10**2 - 1)
    with pytest.raises(
        UserError, match=r"^data\.calibrate: masks: .* a label set with 10 classes are too many"
    ):
        train.execute(_config(root))
    assert not (root / "new").exists()


def test_segments_of_validation_images_say_nothing_of_the_usual_stability(root: Path) -> None:
    store = LabelStore(str(root / "labels"))
    images = sorted(image_id for image_id, _, _ in store.statuses())
    dim = require_embeddings(store)
    whole, part = sample_segments(store, dim), sample_segments(store, dim, images[2:])
    rows = [
        row
        for name in store.parts()
        for row in store.segments(name, ["image_id", "stability_score"]).to_pylist()
    ]
    assert sorted(whole.stability) == sorted(row["stability_score"] for row in rows)
    assert sorted(part.stability) == sorted(
        row["stability_score"] for row in rows if row["image_id"] in images[:2]
    )
    assert len(part.embeddings) == len(part.stability)


def test_workers_read_calibrated_labels_from_the_run_itself(root: Path) -> None:
    config = _config(root)
    assert places(config) == [str(root / "book")]
    as_it_is = config.model_copy(update={"data": config.data.model_copy(update={"calibrate": False})})
    assert places(as_it_is) == [str(root / "book"), str(root / "labels")]


@pytest.mark.parametrize("word", ["method=supervised", "data.labels=null"])
def test_without_labels_to_correct_it_is_refused(root: Path, word: str) -> None:
    words = [word, "method=supervised"] if word != "method=supervised" else [word]
    with pytest.raises(UserError, match=r"data\.calibrate: method supervised with data.labels="):
        train.execute(_config(root, *words))
    assert not (root / "new").exists()


def test_labels_that_segray_v3_cannot_use_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    labels, folder = small.book(tmp_path / "book")
    out = tmp_path / "run"
    for words, message in (
        ([], r"^data\.calibrate: .* holds no embeddings.*; data\.calibrate=false trains on it as it is, and"),
        (
            ["data.calibrate=false"],
            r"^pseudo\.segments: .* has no segments; pseudo\.segments=false does without$",
        ),
    ):
        with pytest.raises(UserError, match=message):
            train.execute(small.config(out, labels, folder, "method=segray_v3", *words))
        assert not (out / "config.yaml").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("method=segray_v3", []),
        ("method=segray_v2", []),
        ("method=segray data.calibrate=true", ["segray with data.calibrate"]),
        ("method=segray_v3 data.calibrate=false", ["segray_v3 without data.calibrate"]),
        (
            "method=segray_v3 data.calibrate=false pseudo.segments=false",
            ["segray_v3 without data.calibrate, without pseudo.segments"],
        ),
    ],
)
def test_a_run_says_where_it_is_not_what_its_method_is_called(
    root: Path, words: str, told: list[str]
) -> None:
    places = [f"out={root / 'new'}", f"data.root={root / 'book'}", f"data.labels={root / 'labels'}"]
    config = load(TrainConfig, None, [*WORDS, *places, *words.split()])
    lines = data_lines(config, open_data(config.data, 0))
    assert [text.removeprefix("method").strip() for text in lines if text.startswith("method")] == told

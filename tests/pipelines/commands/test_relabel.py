from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from segray.models.clip.text import resolve_templates
from segray.models.masks import decode_rle
from segray.pipelines.commands import relabel
from segray.pipelines.commands.verify import run as verify_run
from segray.pipelines.commands.verify import verify
from segray.pipelines.config.commands.relabel import RelabelConfig
from segray.pipelines.config.commands.verify import ClipWeights, VerifyConfig
from segray.pipelines.config.loading import load
from segray.pipelines.errors import UserError
from segray.pipelines.io.label_png import decode_gray_png
from segray.pipelines.io.run_lock import RunLock
from segray.pipelines.label_set.store import LabelStore
from tests.faults.invariant import contents, files
from tests.models.clip.tiny_clip import save_builtin, tiny_clip
from tests.pipelines.plain_runs import config_of, draw_scenes, label_plainly

WORDS = ("classes=tree,house,boat", "label.threshold=-1")


@pytest.fixture(scope="module")
def clip_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_builtin(tiny_clip(), tmp_path_factory.mktemp("clip") / "clip.safetensors")


def _label(images: Path, out: Path, clip_file: Path, *words: str) -> Path:
    config = config_of(images, out, *WORDS, f"clip.weights={clip_file}", "clip.depth=3", *words)
    label_plainly(config, [2, 2, 2])
    return out


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four pictures, a broken one and one of several frames; in the order of their names."""
    folder = draw_scenes(tmp_path_factory.mktemp("relabel") / "images", 4)
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "scene-1-dangling.png").symlink_to(folder / "nowhere")
    return folder


@pytest.fixture(scope="module")
def labels(images: Path, clip_file: Path) -> Path:
    """A label set with embeddings and embedded images, in three parts; never changed."""
    return _label(images, images.parent / "labels", clip_file, "embed_images=true")


def _relabel(labels: Path, out: Path, *words: str) -> LabelStore:
    relabel.run(_config(labels, out, *words))
    return LabelStore(str(out))


def _weights(labels: Path | str) -> str:
    return str(LabelStore(str(labels)).provenance["clip"]["weights"])


def _maps(out: Path, column: str = "label") -> dict[str, Any]:
    rows = {row["image_id"]: row[column] for row in LabelStore(str(out)).rows()}
    return {name: decode_gray_png(cell["bytes"]) for name, cell in rows.items() if cell}


def _score(out: Path, quantile: float) -> float:
    store = LabelStore(str(out))
    scores = [s for part in store.parts() for s in store.segments(part)["score"].to_pylist()]
    return float(np.quantile(scores, quantile))


def test_the_same_words_give_the_same_bytes(labels: Path, tmp_path: Path) -> None:
    store = _relabel(labels, tmp_path / "out")
    assert store.parts() == LabelStore(str(labels)).parts()
    assert contents(tmp_path / "out") == contents(labels)
    assert verify(store.root).problems == []
    assert (tmp_path / "out" / "manifest.parquet").read_bytes() == (labels / "manifest.parquet").read_bytes()


def test_bad_rows_and_embedded_images_are_carried_over(labels: Path, tmp_path: Path) -> None:
    store = _relabel(labels, tmp_path / "out", "classes=fish")
    rows = {row["image_id"]: row for row in store.rows()}
    old = {row["image_id"]: row for row in LabelStore(str(labels)).rows()}
    for name, status in (("broken.png", "error"), ("scene-1-dangling.png", "skipped")):
        assert rows[name]["status"] == status
        assert {**rows[name], "run_id": ""} == {**old[name], "run_id": ""}
    kept = [name for name, row in rows.items() if row["status"] == "ok"]
    assert len(kept) == 4
    assert all(rows[name]["image"] == old[name]["image"] != None for name in kept)  # noqa: E711
    run = store.run()
    assert run is not None
    assert run["rows"] == {"ok": 4, "error": 1, "skipped": 1}
    assert run["this_run"]["images"] == 6


def test_a_higher_threshold_unpaints_the_doubtful_segments(labels: Path, tmp_path: Path) -> None:
    threshold = _score(labels, 0.5)
    store = _relabel(labels, tmp_path / "out", f"label.threshold={threshold!r}")
    assert verify(store.root).problems == []
    expected = {name: np.zeros(label.shape, bool) for name, label in _maps(labels).items()}
    for part in store.parts():
        for segment in store.segments(part).to_pylist():
            if segment["score"] > np.float32(threshold):
                expected[segment["image_id"]] |= decode_rle(**segment["rle"])
            else:
                assert segment["class_id"] == 0
    confidence = _maps(tmp_path / "out", "confidence")
    assert all(np.array_equal(confidence[name] > 0, mask) for name, mask in expected.items())
    assert 0 < sum(mask.sum() for mask in expected.values()) < sum(map(np.size, expected.values()))
    nothing = _relabel(labels, tmp_path / "none", "label.threshold=1")
    assert not any(label.any() for label in _maps(tmp_path / "none").values())
    assert all(row["labelled_fraction"] == 0 for row in nothing.rows() if row["status"] == "ok")


def test_other_classes_have_their_own_ids_and_names(labels: Path, tmp_path: Path) -> None:
    words = ("classes=void,sun,tree", "label.background_names=")
    store = _relabel(labels, tmp_path / "out", *words)
    assert store.provenance["classes"] == ["void", "sun", "tree"]
    assert verify(store.root).problems == []
    assert set(np.unique(np.concatenate([m.ravel() for m in _maps(tmp_path / "out").values()]))) <= {0, 1, 2}
    run = store.run()
    assert run is not None
    assert [entry["name"] for entry in run["classes"]] == ["void", "sun", "tree"]
    assert run["classes"][1]["images"] + run["classes"][2]["images"] > 0


def test_other_templates_change_scores_and_no_mask(labels: Path, tmp_path: Path) -> None:
    store, old = (
        _relabel(labels, tmp_path / "out", "label.templates=a drawing of {}"),
        LabelStore(str(labels)),
    )
    for part in store.parts():
        new_rows, old_rows = store.segments(part), old.segments(part)
        for name in ("image_id", "segment_id", "rle", "embedding", "predicted_iou", "stability_score"):
            assert new_rows[name].equals(old_rows[name])
        assert new_rows.num_rows == 0 or not new_rows["score"].equals(old_rows["score"])


@pytest.mark.parametrize(
    ("made_with", "overrides", "expected"),
    [
        ("imagenet80", (), "imagenet80"),
        ("['a drawing of {}', 'my {}']", (), ("a drawing of {}", "my {}")),
        ("imagenet80", ("label.templates=single",), "single"),
    ],
)
def test_the_templates_of_the_label_set_are_kept_unless_others_are_named(
    images: Path,
    clip_file: Path,
    tmp_path: Path,
    made_with: str,
    overrides: tuple[str, ...],
    expected: str | tuple[str, ...],
) -> None:
    labels = _label(images, tmp_path / "labels", clip_file, f"label.templates={made_with}")
    store = _relabel(labels, tmp_path / "out", *overrides)
    prompts = store.provenance["prompts"]["templates"]
    assert prompts == list(resolve_templates(expected))
    saved = load(RelabelConfig, str(tmp_path / "out" / "config.yaml"), [])
    assert saved.label.templates == expected


def test_a_relabelled_set_can_be_relabelled(labels: Path, tmp_path: Path) -> None:
    _relabel(labels, tmp_path / "one", "classes=fish")
    _relabel(tmp_path / "one", tmp_path / "two")
    assert contents(tmp_path / "two") == contents(labels)


def test_going_on_does_only_what_is_missing(labels: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    store = _relabel(labels, out)
    whole = contents(out)
    store.discard(store.parts()[1])
    kept = {name: data for name, data in files(out).items() if "part-" in name}
    assert len(kept) == 4
    _relabel(labels, out)
    assert contents(out) == whole
    after = files(out)
    assert {name: after[name] for name in kept} == kept
    run = store.run()
    assert run is not None
    assert run["this_run"]["images"] == 2
    _relabel(labels, out)
    again = files(out)
    assert {n: d for n, d in again.items() if n != "run.json"} == {
        n: d for n, d in after.items() if n != "run.json"
    }


def test_parts_whose_images_were_made_again_are_done_again(
    images: Path, clip_file: Path, tmp_path: Path
) -> None:
    shutil.copytree(images, tmp_path / "images", symlinks=True)
    labels, out = tmp_path / "labels", tmp_path / "out"
    _label(tmp_path / "images", labels, clip_file)
    _relabel(labels, out)
    before = contents(out)
    # One picture has changed, and two that were one part are now in two.
    other = draw_scenes(tmp_path / "other", 1, first=8) / "scene-8.png"
    shutil.copy(other, tmp_path / "images" / "scene-1.png")
    shutil.rmtree(labels)
    label_plainly(
        config_of(tmp_path / "images", labels, *WORDS, f"clip.weights={clip_file}", "clip.depth=3"),
        [1, 1, 2, 2],
    )
    store = _relabel(labels, out)
    report = verify(str(out))
    assert (report.problems, report.n_images) == ([], 6)
    assert store.parts() == LabelStore(str(labels)).parts()
    after = contents(out)
    assert after == contents(labels)
    assert [name for name in after if after[name] != before[name]] == ["scene-1.png"]


def test_repair_makes_just_the_lost_images_again(
    labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _relabel(labels, tmp_path / "made")
    whole = contents(tmp_path / "made")
    out = (tmp_path / "made").rename(tmp_path / "moved")
    part = LabelStore(str(out)).parts()[0]
    (out / "labels" / part).write_bytes(b"PAR1")
    clip = ClipWeights(weights=_weights(labels))
    verify_run(VerifyConfig(out=str(out), repair=True, labels=str(labels), clip=clip))
    assert capsys.readouterr().out.splitlines()[-1].split() == ["problems", "0"]
    assert contents(out) == whole
    assert not (tmp_path / "made").exists()


# Refusals


def _assert_refused(config: RelabelConfig, text: str, code: int = 2) -> str:
    with pytest.raises(UserError, match=text) as caught:
        relabel.run(config)
    assert caught.value.exit_code == code
    return str(caught.value)


def _config(labels: Path | str, out: Path, *words: str) -> RelabelConfig:
    weights = [f"clip.weights={_weights(labels)}"] if Path(labels).exists() else []
    return load(RelabelConfig, None, [f"labels={labels}", f"out={out}", *weights, *WORDS, *words])


def test_a_set_without_embeddings_is_refused_before_anything_is_written(
    images: Path, clip_file: Path, tmp_path: Path
) -> None:
    plain = _label(images, tmp_path / "plain", clip_file, "embeddings=false")
    message = _assert_refused(
        _config(plain, tmp_path / "out"), "holds no embeddings; annotate with embeddings=true"
    )
    assert "\n" not in message
    assert not (tmp_path / "out").exists()


def test_no_label_set_is_refused(tmp_path: Path) -> None:
    _assert_refused(_config(tmp_path / "nowhere", tmp_path / "out"), "nowhere: no label set here")


def test_the_set_that_is_read_is_not_written(labels: Path) -> None:
    _assert_refused(_config(labels, labels), "out must differ from labels")
    _assert_refused(_config(labels, f"{labels}/"), "out must differ from labels")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("classes=a,a", "classes: 'a' is listed twice"),
        ("label.aliases.cow=cow", "aliases of unknown class 'cow'"),
        ("classes=none.txt", "classes: no file 'none.txt'"),
    ],
)
def test_bad_classes_are_refused(labels: Path, tmp_path: Path, word: str, text: str) -> None:
    _assert_refused(_config(labels, tmp_path / "out", word), text)
    assert not (tmp_path / "out").exists()


def test_other_clip_weights_are_refused(images: Path, clip_file: Path, tmp_path: Path) -> None:
    weights = tmp_path / "clip.safetensors"
    shutil.copy(clip_file, weights)
    labels = _label(images, tmp_path / "labels", weights)
    save_builtin(tiny_clip(seed=1), weights)
    message = _assert_refused(_config(labels, tmp_path / "out"), r"clip\.safetensors.*sha256")
    assert "\n" not in message
    weights.unlink()
    _assert_refused(_config(labels, tmp_path / "out"), r"clip\.safetensors")


def test_another_configuration_is_refused_with_its_difference(labels: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    _relabel(labels, out)
    before = files(out)
    message = _assert_refused(
        _config(labels, out, "label.threshold=0.5"), "was made with another configuration"
    )
    assert "  label.threshold: -1.0 -> 0.5\n" in message
    assert message.endswith("give another out=DIR")
    assert files(out) == before


def test_a_folder_of_something_else_and_one_in_use_are_refused(labels: Path, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"")
    _assert_refused(_config(labels, tmp_path), "holds 1 files of something else")
    with RunLock(str(tmp_path / "busy")):
        _assert_refused(_config(labels, tmp_path / "busy"), "is in use by pid", 4)


@pytest.mark.parametrize(
    "change",
    [
        {"clip": 0},
        {"sam": None},
        {"config": []},
        {"config": {"label.templates": [1]}},
        {"clip": {"model": 7, "sha256": "0"}},
    ],
)
def test_a_record_of_another_kind_is_refused(labels: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    shutil.copytree(labels, tmp_path / "labels")
    config = _config(tmp_path / "labels", tmp_path / "out")
    for path in (tmp_path / "labels" / "labels").iterdir():
        table = pq.read_table(path)
        record = {**json.loads(table.schema.metadata[b"segray"]), **change}
        pq.write_table(table.replace_schema_metadata({b"segray": json.dumps(record).encode()}), path)
    message = _assert_refused(config, "label set|template|weights")
    assert "\n" not in message
    assert not (tmp_path / "out" / "labels").exists()


def test_a_damaged_part_is_named(labels: Path, tmp_path: Path) -> None:
    shutil.copytree(labels, tmp_path / "labels")
    part = LabelStore(str(labels)).parts()[1]
    (tmp_path / "labels" / "segments" / part).write_bytes(b"PAR1")
    _assert_refused(_config(tmp_path / "labels", tmp_path / "out"), rf"segments/{part} is damaged")
    assert pq.read_table(tmp_path / "out" / "labels").num_rows == 2


def test_a_label_set_that_was_moved_is_the_same(labels: Path, tmp_path: Path) -> None:
    first, out = Path(shutil.copytree(labels, tmp_path / "first")), tmp_path / "out"
    store = _relabel(first, out)
    whole = contents(out)
    store.discard(store.parts()[0])
    moved = first.rename(tmp_path / "second")
    _relabel(moved, out)
    assert contents(out) == whole
    assert load(RelabelConfig, str(out / "config.yaml")).labels == str(moved)


def test_a_label_set_of_other_images_is_refused(labels: Path, tmp_path: Path) -> None:
    out, other = tmp_path / "out", Path(shutil.copytree(labels, tmp_path / "other"))
    _relabel(labels, out)
    before = files(out)
    store = LabelStore(str(other))
    store.discard(store.parts()[0])
    message = _assert_refused(_config(other, out), "was made with another configuration")
    assert f"  labels: 1 of 3 parts are not those of {other}\n" in message
    assert files(out) == before


@pytest.mark.slow
def test_a_label_set_that_was_made_otherwise_is_refused(
    labels: Path, images: Path, clip_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    _relabel(labels, out)
    finer = _label(images, tmp_path / "finer", clip_file, "embed_images=true", "sam.points_per_side=2")
    message = _assert_refused(_config(finer, out), "was made with another configuration")
    assert f"  labels: '{labels}' -> '{finer}'\n" in message

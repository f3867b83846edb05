"""`segray annotate` from a folder to a label set, on the Ray of the test session."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from segray.pipelines.annotation import model_stages
from segray.pipelines.annotation.probe import WORTH
from segray.pipelines.commands import annotate, plan, relabel, report
from segray.pipelines.commands.verify import run as verify_run
from segray.pipelines.commands.verify import verify
from segray.pipelines.config.commands.annotate import AnnotateConfig
from segray.pipelines.config.commands.plan import PlanConfig
from segray.pipelines.config.commands.relabel import RelabelConfig
from segray.pipelines.config.commands.report import ReportConfig
from segray.pipelines.config.commands.verify import VerifyConfig
from segray.pipelines.config.loading import dump, load
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.manifest import read_manifest
from segray.pipelines.io.sources import list_images, write_manifest
from segray.pipelines.label_set.store import LabelStore
from tests.faults.invariant import contents, files
from tests.pipelines.plain_runs import BUILTIN_MODELS, config_of, draw_scenes, label_plainly
from tests.pipelines.ray_actors import left_over

on_ray = pytest.mark.usefixtures("ray_session")

SMALL = ("sam.workers=1", "clip.workers=1", "rows_per_part=2")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures of mixed sizes, one of them a folder deeper; never changed."""
    folder = draw_scenes(tmp_path_factory.mktemp("annotate") / "images", 6)
    (folder / "deep").mkdir()
    (folder / "scene-5.png").rename(folder / "deep" / "scene-5.png")
    return folder


@pytest.fixture(scope="module")
def plain(images: Path) -> Path:
    """The label set that the stages make of them without Ray; never changed."""
    out = images.parent / "plain"
    label_plainly(config_of(images, out, *SMALL), [2, 2, 2])
    return out


@pytest.fixture
def out(plain: Path, tmp_path: Path) -> Path:
    """A finished label set to go on from."""
    return Path(shutil.copytree(plain, tmp_path / "labels"))


def _annotate(images: Path | str, out: Path | str, *words: str) -> None:
    annotate.run(config_of(images, out, *SMALL, *words))


def _run(out: Path | str) -> dict[str, Any]:
    run = LabelStore(str(out)).run()
    assert run is not None
    return run


def _parts(out: Path) -> dict[str, bytes]:
    return {name: data for name, data in files(out).items() if "part-" in name}


# A whole run


@pytest.mark.ray
@pytest.mark.slow
@on_ray
def test_a_run_without_segments(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "labels"
    words = (f"images={images}", "sam.model=none", "classes=picture_book")
    plan.run(load(PlanConfig, None, [*words, "probe=2"]))
    assert "clip" in capsys.readouterr().out
    _annotate(images, out, "sam.model=none")
    assert left_over() == []
    assert verify(str(out), [ref.image_id for ref in list_images(str(images))]).problems == []
    run = _run(out)
    assert (run["rows"], run["n_segments"]) == ({"ok": 6, "error": 0, "skipped": 0}, 0)
    assert set(run["this_run"]["stage_seconds"]) == {"read", "clip", "encode", "write"}
    assert set(run["this_run"]["utilisation"]) == {"clip"}
    assert run["labelled_fraction"] > 0.5
    assert LabelStore(str(out)).provenance["sam"] == {"model": "none", "sha256": None}
    report.run(ReportConfig(out=str(out)))
    assert (out / "report.html").stat().st_size > 0
    with pytest.raises(UserError, match=r"sam\.model=none"):
        relabel.run(
            load(RelabelConfig, None, [f"labels={out}", f"out={tmp_path / 'new'}", "classes=cat,dog"])
        )
    with pytest.raises(UserError, match="another configuration"):
        _annotate(images, out)


@pytest.mark.ray
@on_ray
def test_a_run_from_beginning_to_end(
    images: Path, plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, two = tmp_path / "labels", "sam.workers=2"
    _annotate(images, out, two)
    shown = capsys.readouterr()
    assert verify(str(out), [ref.image_id for ref in list_images(str(images))]).problems == []
    assert contents(out) == contents(plain)
    store = LabelStore(str(out))
    parts = [pq.read_metadata(out / "labels" / name).num_rows for name in store.parts()]
    assert min(parts) >= 2
    assert store.provenance == LabelStore(str(plain)).provenance
    assert len({row["run_id"] for row in store.rows()}) == 1
    run = _run(out)
    assert run["rows"] == {"ok": 6, "error": 0, "skipped": 0}
    assert run["this_run"]["images"] == 6
    assert set(run["this_run"]["stage_seconds"]) == {"read", "sam", "clip", "encode", "write"}
    assert all(0 < share <= 1 for share in run["this_run"]["utilisation"].values())
    assert set(run["this_run"]["utilisation"]) == {"sam", "clip"}
    assert (run["this_run"]["workers"], run["this_run"]["probe"]) == ({"sam": 2, "clip": 1}, {})
    assert run["n_segments"] == sum(len(segments) for _, segments in contents(out).values()) > 0
    config = load(AnnotateConfig, str(out / "config.yaml"))
    precisions = ("sam.precision=fp32", "clip.precision=fp32")
    assert config == config_of(images, out, *SMALL, two, *precisions)
    assert "images      6: 6 ok, 0 error, 0 skipped" in shown.out
    assert f"6 images, 6 to do, into {out}" in shown.err
    assert sorted(p.name for p in out.iterdir() if not p.name.startswith(".")) == [
        "README.md",
        "config.yaml",
        "labels",
        "manifest.parquet",
        "run.json",
        "segments",
    ]
    before = files(out)
    _annotate(images, out, two)
    assert files(out) == before
    assert f"6 images, nothing to do in {out}" in capsys.readouterr().err


@pytest.mark.ray
@pytest.mark.slow
@on_ray
def test_a_run_with_probed_pools_makes_the_same_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, plain, out = draw_scenes(tmp_path / "images", WORTH), tmp_path / "plain", tmp_path / "labels"
    label_plainly(config_of(folder, plain), [WORTH])
    annotate.run(config_of(folder, out, "auto=true"))
    assert verify(str(out), [ref.image_id for ref in list_images(str(folder))]).problems == []
    assert contents(out) == contents(plain)
    assert capsys.readouterr().err.count("probe: read ") == 1
    this_run = _run(out)["this_run"]
    assert this_run["images"] == WORTH
    assert set(this_run["probe"]) == {"read", "sam", "clip", "encode"}
    assert set(this_run["workers"]) == {"sam", "clip"}
    before = files(out)
    annotate.run(config_of(folder, out, "auto=true"))
    assert files(out) == before
    assert capsys.readouterr().err.endswith(f"\n{WORTH} images, nothing to do in {out}\n")


@pytest.mark.parametrize(
    ("classes", "told"), [("cat,tree", True), ("tree,sun", False), ("picture_book", False)]
)
def test_names_that_the_built_in_models_never_heard_are_told(
    classes: str, told: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load(AnnotateConfig, None, ["images=x", "out=y", f"classes={classes}", *BUILTIN_MODELS])
    annotate._warn_of_unknown_names(config, annotate.space_of(config))
    assert ("know the picture book and nothing else" in capsys.readouterr().err) is told
    real = ["sam.model=vit_b", "clip.model=ViT-B-16-quickgelu", "clip.weights=openai"]
    config = load(AnnotateConfig, None, ["images=x", "out=y", f"classes={classes}", *real])
    annotate._warn_of_unknown_names(config, annotate.space_of(config))
    assert capsys.readouterr().err == ""


@pytest.mark.ray
@pytest.mark.slow
@on_ray
def test_weights_that_change_while_workers_load_end_the_run(
    images: Path, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checked by the driver, another file's when the workers load them; then as they were."""
    pinned, out = model_stages._pinned, tmp_path / "labels"

    def changed(name: str, model: Any, prepared: Any) -> Any:
        return pinned(name, model, prepared).model_copy(update={"sha256": "0" * 64})

    said, code = "", 0
    with monkeypatch.context() as patch:
        patch.setattr(model_stages, "_pinned", changed)
        try:
            _annotate(images, out)
        except UserError as error:
            # Not kept: its traceback holds the run, whose actors hold this session's CPUs.
            said, code = str(error), error.exit_code
    assert "sha256" in said
    assert "\n" not in said
    assert code == 2
    assert not LabelStore(str(out)).parts()
    _annotate(images, out)
    assert contents(out) == contents(plain)


# Going on


@pytest.mark.ray
@pytest.mark.slow
@on_ray
def test_repair_makes_just_the_lost_images_again_whatever_the_batches(
    images: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, before = contents(out), _parts(out)
    gone, cut, left = LabelStore(str(out)).parts()
    LabelStore(str(out)).discard(gone)
    data = bytearray((out / "labels" / cut).read_bytes())
    data[len(data) // 2] ^= 1
    (out / "labels" / cut).write_bytes(data)
    (out / "labels" / f".{cut}.12345678.tmp").write_bytes(b"half")
    other = config_of(images, "elsewhere", "sam.batch_size=3", "clip.batch_size=1", "new_run=true")
    (out / "config.yaml").write_text(dump(other))
    verify_run(VerifyConfig(out=str(out), repair=True, images=str(images)))
    assert capsys.readouterr().out.splitlines()[-1].split() == ["problems", "0"]
    assert contents(out) == whole
    kept = {name: data for name, data in before.items() if left in name}
    assert {name: _parts(out)[name] for name in kept} == kept
    assert _run(out)["this_run"]["images"] == 4
    assert not list(out.rglob("*.tmp"))


@pytest.mark.ray
@pytest.mark.slow
@on_ray
def test_new_and_changed_images_are_all_that_is_done(images: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "images", tmp_path / "labels"
    shutil.copytree(images, folder)
    source = f"{folder}/**/scene-?.png"
    label_plainly(config_of(source, out, *SMALL), [2, 2, 2])
    (folder / "passer-by.png").write_bytes(b"not asked for")
    old = {row["image_id"]: row["run_id"] for row in LabelStore(str(out)).rows()}
    draw_scenes(folder, 1, first=9)
    shutil.copy(folder / "scene-9.png", folder / "scene-1.png")
    _annotate(source, out)
    assert verify(str(out)).problems == []
    rows = {row["image_id"]: row for row in LabelStore(str(out)).rows()}
    # deep/scene-5 and scene-0 are one part, the changed picture and scene-2 the next.
    again = sorted(name for name, row in rows.items() if row["run_id"] != old.get(name))
    assert again == ["scene-1.png", "scene-2.png", "scene-9.png"]
    assert rows["scene-1.png"]["sha256"] == rows["scene-9.png"]["sha256"]
    assert rows["scene-1.png"]["label"]["bytes"] == rows["scene-9.png"]["label"]["bytes"]
    assert _run(out)["this_run"]["images"] == 3
    sizes = {ref.image_id: ref.size for ref in read_manifest(str(out / "manifest.parquet"))}
    assert sizes["scene-1.png"] == (folder / "scene-1.png").stat().st_size
    assert not (out / ".manifest.parquet").exists()


def test_an_image_that_went_keeps_its_row(images: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "images", tmp_path / "labels"
    shutil.copytree(images, folder)
    label_plainly(config_of(folder, out, *SMALL), [2, 2, 2])
    before = _parts(out)
    (folder / "scene-1.png").unlink()
    _annotate(folder, out)
    assert _parts(out) == before
    assert verify(str(out)).problems == []
    assert _run(out)["rows"]["ok"] == 6


# Another configuration


@pytest.mark.ray
@pytest.mark.slow
@on_ray
def test_another_configuration_is_refused_or_goes_beside(images: Path, out: Path, tmp_path: Path) -> None:
    manifest = str(tmp_path / "some.parquet")
    write_manifest([ref for ref in list_images(str(images)) if ref.image_id > "scene-2"], manifest)
    words = ("clip.features=clip", "embeddings=false", "embed_images=true", f"image.roots={images}")
    before = files(out)
    with pytest.raises(UserError, match=f"{out} was made with another configuration") as caught:
        _annotate(manifest, out, *words)
    assert caught.value.exit_code == 2
    assert str(caught.value).splitlines()[1:] == [
        "  clip.features: 'gem' -> 'clip'",
        "  embed_images: False -> True",
        "  embeddings: True -> False",
        "give another out=DIR, or new_run=true to start beside it",
    ]
    assert files(out) == before
    _annotate(manifest, out, *words, "new_run=true")
    assert files(out) == before
    beside = Path(f"{out}-2")
    assert verify(str(beside)).problems == []
    found = contents(beside)
    assert sorted(found) == ["scene-2.png", "scene-3.png", "scene-4.png"]
    for name, (row, segments) in found.items():
        assert row["image"]["bytes"] == (images / name).read_bytes()
        assert all(segment["embedding"] is None for segment in segments)
    config = load(AnnotateConfig, str(beside / "config.yaml"))
    assert config.out == str(beside)
    after = files(beside)
    _annotate(manifest, out, *words, "new_run=true")
    assert files(beside) == after
    assert not Path(f"{out}-3").exists()


# Object stores


@pytest.mark.ray
@pytest.mark.slow
@on_ray
def test_images_and_labels_in_an_object_store(
    images: Path, plain: Path, tmp_path: Path, bucket: tuple[str, str]
) -> None:
    base, options = bucket
    source, out = f"{base}/images{options}", f"{base}/labels{options}"
    for ref in list_images(str(images)):
        storage.write_atomic(storage.join(source, ref.image_id), (images / ref.image_id).read_bytes())
    _annotate(source, out)
    assert verify(out).problems == []
    store, local = LabelStore(out), {}
    for name in ("config.yaml", "manifest.parquet", "run.json"):
        assert storage.exists(storage.join(out, name))
    for folder in ("labels", "segments"):
        for part in store.parts():
            local[f"{folder}/{part}"] = storage.read_bytes(storage.join(out, folder, part))
    for name, data in local.items():
        storage.write_atomic(str(tmp_path / "copy" / name), data)
    assert contents(tmp_path / "copy") == contents(plain)
    _annotate(source, out)
    again = {name: storage.read_bytes(storage.join(out, *name.split("/"))) for name in local}
    assert again == local

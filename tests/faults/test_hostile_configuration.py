"""A received folder's config.yaml and records decide what labels are, not where and with what segray runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from segray.models import downloads
from segray.models import weights as weight_files
from segray.pipelines.commands import annotate, relabel, verify
from segray.pipelines.config.commands.annotate import AnnotateConfig
from segray.pipelines.config.commands.relabel import RelabelConfig
from segray.pipelines.config.commands.verify import VerifyConfig
from segray.pipelines.config.loading import load
from segray.pipelines.config.shared import GrowConfig
from segray.pipelines.errors import UserError
from segray.pipelines.io.manifest import write_manifest as write_image_list
from segray.pipelines.io.sources import list_images
from segray.pipelines.label_set.store import LabelStore, write_part
from segray.tuning.folder import SearchFolder
from tests.faults.invariant import files
from tests.faults.runs import segray
from tests.pipelines.label_sets import PROVENANCE, ok_row, tables, write_manifest
from tests.pipelines.plain_runs import config_of, draw_scenes, label_plainly
from tests.tuning import searches

EVIL = "https://evil.example/weights.pth"


@pytest.fixture
def received(tmp_path: Path) -> Path:
    """A label set of another's, with one damaged part."""
    out = tmp_path / "received"
    images = draw_scenes(tmp_path / "images", 4)
    label_plainly(config_of(images, out), [2, 2])
    part = LabelStore(str(out)).parts()[0]
    (out / "labels" / part).write_bytes(b"PAR1")
    return out


def _plant(out: Path, text: str, *instead: str) -> None:
    """Add lines to config.yaml, and take dotted keys away."""
    path = out / "config.yaml"
    tree: dict[str, Any] = yaml.safe_load(path.read_text())
    for key in instead:
        section, _, leaf = key.rpartition(".")
        (tree[section] if section else tree).pop(leaf)
    path.write_text(yaml.safe_dump(tree) + text)


@pytest.mark.parametrize(
    "planted",
    [
        pytest.param("address: ray://evil.example:10001\n", marks=pytest.mark.slow),
        '"address": ray://evil.example:10001\ngrow.gpus: 64\ngrow: {cpus: 999, wait: 9}\n',
        pytest.param(
            "max_bad: 0.0\nsam.num_gpus: 64\nrows_per_part: 1\nimage.roots: [/]\n", marks=pytest.mark.slow
        ),
    ],
)
def test_repair_takes_no_machine_from_a_received_label_set(
    received: Path, planted: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _plant(received, planted, "address", "grow", "max_bad", "rows_per_part", "image.roots")
    seen: list[AnnotateConfig] = []
    real = annotate.run

    def noted(config: AnnotateConfig) -> None:
        seen.append(config)
        real(config)

    monkeypatch.setattr(annotate, "run", noted)
    images = f"images={received.parent / 'images'}"
    assert segray("verify", f"out={received}", "repair=true", images) == 0
    (config,) = seen
    assert config.address is None
    assert config.grow == GrowConfig()
    assert (config.sam.num_gpus, config.rows_per_part, config.max_bad) == (None, None, None)
    assert config.image.roots == ()
    assert "  sam.points_per_side=3\n" in capsys.readouterr().err
    assert verify.verify(str(received)).ok
    assert not list(received.rglob(".aside-*"))


@pytest.mark.parametrize(
    ("planted", "key"),
    [
        (f"sam.weights: {EVIL}\n", "sam.weights"),
        ("sam.weights: /proc/self/environ\n", "sam.weights"),
        (f"clip.weights: {EVIL}\n", "clip.weights"),
        ("clip.weights: hf-hub:evil/clip\n", "clip.weights"),
        ("clip.weights: weights.pth\n", "clip.weights"),
        ("images: s3://b/p?endpoint_override=evil.example&scheme=http\n", "images"),
        ("images: https://evil.example/\n", "images"),
        ("images: [scenes, 'https://evil.example/']\n", "images"),
        ("images: scenes, https://evil.example/\n", "images"),
        ("images: file::https://evil.example/\n", "images"),
        ("images: s3://key:secret@bucket/p\n", "images"),
        ("images: s3://bucket-of-the-user/p\n", "images"),
        ("images: /home/user/photos\n", "images"),
        ("images: ../images\n", "images"),
        ("images: ~/photos\n", "images"),
        ("images: {out}/link\n", "images"),
        ("images: [{out}, /home/user/photos]\n", "images"),
        ("labels: /home/user/labels\n", "labels"),
        ("classes: /etc/passwd\n", "classes"),
        ("classes: ~/.ssh/known_hosts\n", "classes"),
        ("classes: ../classes.txt\n", "classes"),
        ("classes: {out}/link/classes.txt\n", "classes"),
    ],
)
def test_repair_loads_and_lists_nothing_by_the_word_of_a_received_label_set(
    received: Path,
    planted: str,
    key: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (received / "link").symlink_to("/usr")
    if key == "labels":
        (received / "config.yaml").write_text(f"{planted}classes: cat\n")
    else:
        _plant(received, planted.replace("{out}", str(received)), key)
    before = files(received)
    monkeypatch.setattr(downloads, "fetch", lambda *_: pytest.fail("a request"))
    assert segray("verify", f"out={received}", "repair=true") == 1
    seen = capsys.readouterr().err
    assert f"{key}=" in seen
    assert "add it to the command" in seen
    assert files(received) == before


def test_parts_are_kept_where_their_images_cannot_be_labelled_again(
    received: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = received / "config.yaml"
    path.write_text(path.read_text().replace("threshold: 0.0", "threshold: 0.5"))
    before = files(received)
    images = f"images={received.parent / 'images'}"
    assert segray("verify", f"out={received}", "repair=true", images) == 1
    assert "damaged parts are kept" in capsys.readouterr().err
    after = files(received)
    assert {name: data for name, data in after.items() if "part-" in name} == {
        name: data for name, data in before.items() if "part-" in name
    }


@pytest.mark.parametrize("manifest", [None, b"PAR1", b""])
def test_parts_are_kept_where_no_manifest_tells_what_they_held(
    received: Path, manifest: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = received / "manifest.parquet"
    path.unlink() if manifest is None else path.write_bytes(manifest)
    before = files(received)
    assert segray("verify", f"out={received}", "repair=true") == 1
    assert "1 damaged parts" in (seen := capsys.readouterr().err)
    assert "are kept: only the manifest tells which images they held" in seen
    assert files(received) == before


@pytest.mark.parametrize("name", ["labels", "segments"])
def test_repair_removes_nothing_where_a_symlink_leads(received: Path, tmp_path: Path, name: str) -> None:
    (received / name).rename(tmp_path / "mine")
    (received / name).symlink_to(tmp_path / "mine")
    (tmp_path / "mine" / ".notes.tmp").write_bytes(b"unfinished")
    before = files(tmp_path / "mine")
    with pytest.raises(UserError, match=f"received/{name} is a symlink"):
        verify.run(VerifyConfig(out=str(received), repair=True, images=str(tmp_path / "images")))
    assert files(tmp_path / "mine") == before


@pytest.mark.slow
def test_a_killed_repair_leaves_the_damaged_parts(received: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {name.rpartition("/")[2]: data for name, data in files(received).items() if "part-" in name}
    monkeypatch.setattr(annotate, "run", lambda _: (_ for _ in ()).throw(SystemExit(9)))
    monkeypatch.setattr(LabelStore, "put_back", lambda *_: None)
    images = str(received.parent / "images")
    with pytest.raises(SystemExit):
        verify.run(VerifyConfig(out=str(received), repair=True, images=images))
    hidden = {path.name for path in received.rglob(".aside-part-*")}
    assert len(hidden) == 1
    assert set(before) == {name.removeprefix(".aside-") for name in hidden} | set(
        LabelStore(str(received)).parts()
    )
    monkeypatch.undo()
    assert segray("verify", f"out={received}", "repair=true", f"images={images}") == 0
    assert not list(received.rglob(".aside-*"))


@pytest.mark.parametrize(
    "weights", [EVIL, "hf-hub:evil/clip", "/etc/passwd", "~/.ssh/id_rsa", "http://evil.example/x"]
)
def test_relabel_loads_nothing_by_the_word_of_a_received_label_set(
    tmp_path: Path, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = {
        **PROVENANCE,
        "sam": {"model": "vit_b"},
        "clip": {"model": "ViT-B-16-quickgelu", "weights": weights, "sha256": None},
        "config": {"label.templates": "single"},
    }
    labels = tmp_path / "labels"
    write_part(str(labels), *tables([ok_row("a")], provenance=record))
    write_manifest(str(labels), ["a"])
    monkeypatch.setattr(weight_files, "resolve", lambda *_, **__: pytest.fail("weights were looked for"))
    config = load(RelabelConfig, None, [f"labels={labels}", f"out={tmp_path / 'out'}", "classes=cat"])
    with pytest.raises(UserError, match=r"^clip\.weights: .* give clip\.weights=FILE"):
        relabel.run(config)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("values", "more"),
    [
        ({"address": "ray://evil.example:10001"}, {}),
        ({"network.weights": EVIL}, {}),
        ({"data.root": "s3://evil/?endpoint_override=evil.example"}, {}),
        ({"pseudo.tau": "../../../../escape"}, {}),
        ({}, {"file": "../../escape"}),
        ({}, {"split": "/etc/passwd"}),
    ],
)
def test_a_received_search_sets_nothing_but_what_is_searched(
    tmp_path: Path, values: dict[str, str], more: dict[str, str]
) -> None:
    folder = searches.search_folder(
        searches.config(tmp_path / "search"), searches.trial(0, 0.5), searches.trial(1, 0.6)
    )
    path = tmp_path / "search" / "trials" / "2-001" / "trial.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, **more, "values": {**record["values"], **values}}))
    again = SearchFolder(folder.config)
    again.begin()
    assert [one.number for one in again.trials()] == [0]


@pytest.mark.parametrize(
    "change",
    [
        {"seed": "1/../../../../victim"},
        {"seed": True},
        {"miou": "0.9"},
        {"miou": None},
        {"curve": [[1.0]]},
        {"curve": [["a", "b"]]},
        {"labelled": []},
        {"more": 1},
    ],
)
def test_a_received_search_deletes_nothing_outside_of_its_folder(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    good, other = searches.trial(0, 0.9), searches.trial(1, 0.1)
    config = searches.config(tmp_path / "search", "search.final_seeds=0")
    folder = searches.search_folder(config, good, other)
    (tmp_path / "victim" / "checkpoints").mkdir(parents=True)
    (tmp_path / "search" / "trials" / "2-001" / "seed-1").mkdir()
    path = tmp_path / "search" / "trials" / "2-001" / "trial.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "runs": [{**record["runs"][0], **change}]}))
    again = SearchFolder(folder.config)
    again.begin()
    again.drop_weights("2")
    assert (tmp_path / "victim" / "checkpoints").is_dir()
    assert [one.number for one in again.trials()] == [0]


@pytest.mark.slow
def test_repair_reads_images_below_the_roots_of_the_user(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, manifest, out = (
        draw_scenes(tmp_path / "images", 4),
        tmp_path / "lists/some.parquet",
        tmp_path / "out",
    )
    write_image_list(list_images(str(images)), str(manifest))
    label_plainly(config_of(manifest, out, f"image.roots={images}"), [2, 2])
    (out / "labels" / LabelStore(str(out)).parts()[0]).write_bytes(b"PAR1")
    command = ("verify", f"out={out}", "repair=true", f"images={manifest}")
    assert segray(*command) == 1
    assert "others with image.roots=FOLDER" in capsys.readouterr().err
    assert segray(*command, f"image.roots={images}") == 0


def test_repair_takes_no_link_by_the_word_of_a_received_label_set(
    received: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its own folder holds images of its own, and links to those of the user."""
    (received / ".images").mkdir()
    for path in (received.parent / "images").iterdir():
        (received / ".images" / path.name).symlink_to(path)
    _plant(received, f"images: {received}/.images\n", "images")
    assert segray("verify", f"out={received}", "repair=true") == 1
    seen = capsys.readouterr().err
    assert "cannot be labelled again, damaged parts are kept" in seen
    assert "link" in seen

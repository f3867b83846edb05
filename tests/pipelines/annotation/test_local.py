"""A few images without a cluster: when, with which labels, and what happens if the process dies."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from segray.models import weights
from segray.models.weights import Checkpoint, load_state_dict
from segray.pipelines.annotation import local, model_stages
from segray.pipelines.annotation.in_process import Stages
from segray.pipelines.annotation.stages.segment import SegmentImages
from segray.pipelines.commands import annotate
from segray.pipelines.commands.annotate import prepare, space_of
from segray.pipelines.commands.verify import verify
from segray.pipelines.config.commands.annotate import AnnotateConfig, SamConfig
from segray.pipelines.engine import single_process
from segray.pipelines.engine.guard import Guard
from segray.pipelines.engine.pools import PoolPlan
from segray.pipelines.engine.rows import Row
from segray.pipelines.engine.single_process import FEW
from segray.pipelines.errors import UserError
from segray.pipelines.io.manifest import ImageRef
from segray.pipelines.label_set.store import LabelStore
from tests.faults.invariant import contents
from tests.pipelines.plain_runs import config_of, draw_scenes, label_plainly

MARK = ".in-process"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten images and a broken one; never changed."""
    folder = draw_scenes(tmp_path_factory.mktemp("local") / "images", 10)
    (folder / "bad.png").write_bytes(b"no image")
    return folder


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this process were connected to no cluster."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delitem(sys.modules, "ray", raising=False)


def config_here(images: Path, out: Path, *overrides: str) -> AnnotateConfig:
    return config_of(images, out, "rows_per_part=4", *overrides)


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(
    ("overrides", "n_pending", "here"),
    [
        ((), 1, True),
        ((), FEW, True),
        ((), FEW + 1, False),
        (("sam.batch_size=2", "clip.batch_size=3"), 1, True),
        (("sam.workers=1",), 1, False),
        (("clip.max_workers=2",), 1, False),
        (("clip.num_gpus=0",), 1, False),
        (("sam.num_cpus=1",), 1, False),
        (("address=auto",), 1, False),
        (("address=local",), 1, False),
        (("grow.gpus=1",), 1, False),
    ],
)
def test_few_images_without_wishes_need_no_cluster(
    tmp_path: Path, overrides: tuple[str, ...], n_pending: int, here: bool
) -> None:
    assert local.suits(config_of("x", tmp_path, *overrides), n_pending) is here


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("variable", ["RAY_ADDRESS", ""])
def test_a_cluster_of_the_environment_is_a_wish(
    tmp_path: Path, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if variable:
        monkeypatch.setenv(variable, "10.0.0.1:6379")
    assert local.suits(config_of("x", tmp_path), 1) is not bool(variable)


@pytest.mark.usefixtures("alone")
def test_labels_are_those_of_the_workers(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = torch.get_num_threads()
    label_plainly(config_here(images, tmp_path / "plain"), [4, 4, 3])
    out = tmp_path / "labels"
    annotate.run(config_here(images, out))
    assert contents(out) == contents(tmp_path / "plain")
    assert verify(str(out)).problems == []
    store = LabelStore(str(out))
    assert len(store.parts()) == 3
    record = store.run() or {}
    assert record["rows"] == {"ok": 10, "error": 1, "skipped": 0}
    assert set(record["this_run"]["stage_seconds"]) == {"read", "sam", "clip", "encode", "write"}
    assert record["this_run"]["workers"] == {"sam": 1, "clip": 1}
    assert not (out / MARK).exists()
    assert torch.get_num_threads() == threads
    assert "this run    11 images" in capsys.readouterr().out


@pytest.mark.usefixtures("alone")
def test_a_run_that_stopped_is_resumed(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real, out, calls = Stages.label, tmp_path / "labels", list[int]()

    def stops(stages: Stages, refs: list[ImageRef]) -> list[Row]:
        calls.append(len(refs))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(stages, refs)

    with monkeypatch.context() as patch:
        patch.setattr(Stages, "label", stops)
        with pytest.raises(KeyboardInterrupt):
            annotate.run(config_here(images, out))
    err = capsys.readouterr().err
    assert f"stopped; 4 images of this run are safe in {out}; run the same command to resume" in err
    assert not (out / MARK).exists()
    annotate.run(config_here(images, out))
    assert "11 images, 7 to do" in capsys.readouterr().err
    assert verify(str(out)).problems == []


@pytest.mark.usefixtures("alone")
def test_weights_that_changed_end_the_run_in_one_line(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a run of many images of which few are pending: its models are loaded after they are checked."""

    def changed(config: SamConfig, plan: PoolPlan, guard: Guard, **_: object) -> SegmentImages:
        return SegmentImages(config.model_copy(update={"sha256": "0" * 64}), plan, guard)

    monkeypatch.setattr(model_stages, "SegmentImages", changed)
    with pytest.raises(UserError, match="sha256"):
        annotate.run(config_here(images, tmp_path / "labels"))
    assert LabelStore(str(tmp_path / "labels")).parts() == []


@pytest.mark.usefixtures("alone")
def test_a_run_in_this_process_loads_each_model_once(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = list[str]()

    def counted(checkpoint: Checkpoint, *, mapped: bool = False) -> dict[str, Tensor]:
        loaded.append(checkpoint.path.name)
        return load_state_dict(checkpoint, mapped=mapped)

    monkeypatch.setattr(weights, "load_state_dict", counted)
    annotate.run(config_here(images, tmp_path / "labels"))
    assert sorted(loaded) == ["clip.safetensors", "sam.safetensors"]


def test_a_run_on_a_cluster_loads_no_image_network_in_the_driver(images: Path, tmp_path: Path) -> None:
    config = config_here(images, tmp_path / "labels")
    checked, loaded = (prepare(config, space_of(config), load=load) for load in (False, True))
    assert checked.models is None
    assert loaded.models is not None
    assert checked.text is not None
    assert loaded.text is not None
    assert np.array_equal(checked.text.embeddings, loaded.text.embeddings)
    assert replace(checked, text=loaded.text) == replace(loaded, models=None)


_DIES = """
import os, sys
from segray.pipelines.annotation.stages import segment
from segray.pipelines.cli import main
segment.SegmentImages.process = lambda self, rows: os._exit(9)
main(sys.argv[1:])
"""


@pytest.mark.usefixtures("alone")
def test_a_run_after_a_death_gets_workers_of_its_own(images: Path, tmp_path: Path) -> None:
    """Only they can tell which image it was."""
    out = tmp_path / "labels"
    config = config_here(images, out)
    words = ["annotate", f"images={images}", f"out={out}", "rows_per_part=4", "classes=picture_book"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run([sys.executable, "-c", _DIES, *words], env=environment, check=False)
    assert done.returncode == 9
    assert (out / MARK).exists()
    assert not local.suits(config, 1)
    single_process.forget_death(str(out))
    assert local.suits(config, 1)

"""Models other than SAM 1, end to end through Ray: annotate, resume, verify, relabel, report, plan."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from segray.pipelines.commands import plan, relabel, report
from segray.pipelines.commands.verify import verify
from segray.pipelines.config.commands.plan import PlanConfig
from segray.pipelines.config.commands.relabel import RelabelConfig
from segray.pipelines.config.commands.report import ReportConfig
from segray.pipelines.config.loading import load
from segray.pipelines.errors import UserError
from segray.pipelines.label_set.store import LabelStore
from tests.models.annotators.tiny import write_weights
from tests.pipelines.annotation.extend_examples import annotate_with, install_example
from tests.pipelines.annotation.ray_runs import label_and_resume
from tests.pipelines.plain_runs import config_of, draw_scenes

OPTIONS = {
    "sam2.1_hiera_tiny": "sam.points_per_side=4 sam.pred_iou_thresh=0.1 sam.stability_score_thresh=0.01",
    "sam_hq_vit_b": "sam.points_per_side=4 sam.pred_iou_thresh=0.1 sam.stability_score_thresh=0.01",
    "eomt_large": "sam.points_per_side=null sam.pred_iou_thresh=0.05 sam.stability_score_thresh=null",
}


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("name", OPTIONS)
def test_a_model_of_transformers_from_images_to_report(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, out = draw_scenes(tmp_path / "images", 6), tmp_path / "labels"
    weights = write_weights(tmp_path, name, seed=3)
    words = (f"sam.model={name}", f"sam.weights={weights}", *OPTIONS[name].split(), "rows_per_part=2")
    config = config_of(images, out, *words, "sam.workers=1", "clip.workers=1")
    store = label_and_resume(config)
    assert store.provenance["sam"]["model"] == name
    assert len(list(store.rows())) == 6
    keys = [f"labels={out}", f"out={tmp_path / 'new'}", "classes=tree,sun"]
    relabel.run(load(RelabelConfig, None, keys))
    assert verify(str(tmp_path / "new")).problems == []
    report.run(load(ReportConfig, None, [f"out={out}"]))
    assert name in (out / "report.html").read_text()
    capsys.readouterr()
    keys = [f"images={images}", "classes=picture_book", *words[:-1], "clip.model=builtin", "probe=2"]
    plan.run(load(PlanConfig, None, keys))
    assert "sam" in capsys.readouterr().out


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    """The example of docs/extend.md as an installed package, and its weights."""
    folder = install_example(tmp_path / "site", "my_squares")
    save_file({"side": np.array(40)}, folder / "squares.safetensors")
    return folder


def _annotate(plugin: Path, images: Path, out: Path, *words: str) -> subprocess.CompletedProcess[str]:
    models = ("sam.model=squares", f"sam.weights={plugin / 'squares.safetensors'}", "clip.model=builtin")
    return annotate_with(plugin, f"images={images}", f"out={out}", "classes=tree,sun", *models, *words)


@pytest.mark.slow
@pytest.mark.parametrize("words", [(), ("sam.workers=1", "clip.workers=1")], ids=["here", "on Ray"])
def test_the_example_of_extend_md_labels_images(plugin: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    images, out = draw_scenes(tmp_path / "images", 2), tmp_path / "labels"
    done = _annotate(plugin, images, out, *words)
    assert done.returncode == 0, done.stderr
    assert verify(str(out)).problems == []
    store = LabelStore(str(out))
    assert [40.0, 0.0, 40.0, 40.0] in store.segments(store.parts()[0])["bbox"].to_pylist()
    refused = _annotate(plugin, images, tmp_path / "x", "sam.points_per_side=3")
    assert refused.returncode == 2
    assert "sam.points_per_side has no effect with sam.model=squares; leave it out" in refused.stderr


def test_an_unknown_model_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"^sam\.model: must be one of builtin, .*, none, not 'eomt_larg'; did"
    ):
        config_of(tmp_path, tmp_path / "x", "sam.model=eomt_larg")

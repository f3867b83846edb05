"""Labellers, which find segments of named classes: SAM 3 end to end, and relabel without embeddings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from segray.models.annotators.protocols import LabelModel
from segray.models.masks import segment_from_mask
from segray.models.tiling import Tiling
from segray.pipelines.annotation.stages.label import LabelImages
from segray.pipelines.calibration.label_set import StoredNames
from segray.pipelines.commands import annotate, plan, relabel, report
from segray.pipelines.commands.verify import run as verify_run
from segray.pipelines.commands.verify import verify
from segray.pipelines.config.commands.annotate import AnnotateConfig, LabellerModel
from segray.pipelines.config.commands.plan import PlanConfig
from segray.pipelines.config.commands.relabel import RelabelConfig
from segray.pipelines.config.commands.report import ReportConfig
from segray.pipelines.config.commands.verify import VerifyConfig
from segray.pipelines.config.loading import load
from segray.pipelines.engine.guard import Guard
from segray.pipelines.engine.ledger import Ledger
from segray.pipelines.engine.pools import PoolPlan
from segray.pipelines.errors import UserError
from segray.pipelines.label_set.store import LabelStore
from segray.pipelines.review.naming import Naming
from tests.faults.invariant import contents
from tests.models.annotators.tiny import write_weights
from tests.pipelines.annotation.extend_examples import annotate_with, install_example
from tests.pipelines.annotation.ray_runs import label_and_resume
from tests.pipelines.plain_runs import draw_scenes, label_plainly
from tests.pipelines.training.runs import book, config, trainer

SAM3 = (
    *("annotator=sam3", "labeller.instance_score=0.1", "label.threshold=0.3"),
    *("classes=tree,house,boat,sun", "label.aliases.tree=tree,oak"),
)


def run_config(images: Path, out: Path, weights: Path, *words: str) -> AnnotateConfig:
    keys = [f"images={images}", f"out={out}", f"labeller.weights={weights}", *SAM3, *words]
    return load(AnnotateConfig, None, keys)


def relabelled(labels: Path, out: Path, *words: str) -> LabelStore:
    relabel.run(load(RelabelConfig, None, [f"labels={labels}", f"out={out}", *words]))
    return LabelStore(str(out))


def segments_of(store: LabelStore) -> list[tuple[str, float, str]]:
    """(class, score, runner-up) of each segment."""
    classes = [*store.provenance["classes"], ""]
    rows = [row for part in store.parts() for row in store.segments(part).to_pylist()]
    return [(classes[r["class_id"]], r["score"], classes[r["runner_up_class"]]) for r in rows]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_sam_3_from_images_to_a_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, root = book(tmp_path / "book", n=8)
    images, out = root / "images", tmp_path / "labels"
    weights = write_weights(tmp_path, "sam3", seed=3)
    words = ("classes=picture_book", "rows_per_part=2", "labeller.workers=1")
    made = run_config(images, out, weights, *words)
    store = label_and_resume(made)
    before = contents(out)
    assert store.provenance["labeller"]["model"] == "sam3"
    assert not {"sam", "clip"} & store.provenance.keys()
    assert "labeller" in capsys.readouterr().out
    assert sum(len(segments) for _, segments in before.values()) > 8
    (out / "segments" / store.parts()[0]).write_bytes(b"")
    keys = [f"out={out}", "repair=true", f"images={images}"]
    with pytest.raises(UserError, match=r"labeller\.weights=.* add it to the command if you trust it$"):
        verify_run(load(VerifyConfig, None, keys))
    verify_run(load(VerifyConfig, None, [*keys, f"labeller.weights={weights}"]))
    assert contents(out) == before
    new = relabelled(out, tmp_path / "new", "classes=plant,sun", "label.aliases.plant=tree,flower")
    assert verify(new.root).problems == []
    report.run(load(ReportConfig, None, [f"out={out}"]))
    assert "sam3" in (out / "report.html").read_text()
    history = trainer(config(tmp_path / "run", out, root), tmp_path / "run").run()
    assert np.isfinite(history[-1]["loss"])
    capsys.readouterr()
    keys = [f"images={images}", f"labeller.weights={weights}", *SAM3, "probe=2"]
    plan.run(load(PlanConfig, None, keys))
    assert "labeller" in capsys.readouterr().out


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A label set of SAM 3 in two parts, never changed."""
    folder = tmp_path_factory.mktemp("sam3")
    images = draw_scenes(folder / "images", 4)
    label_plainly(run_config(images, folder / "labels", write_weights(folder, "sam3", seed=3)), [2, 2])
    return folder / "labels"


def test_the_same_classes_are_the_same_labels(labels: Path, tmp_path: Path) -> None:
    relabelled(labels, tmp_path / "same", "classes=tree,house,boat,sun")
    assert contents(tmp_path / "same") == contents(labels)
    assert verify(str(labels)).problems == verify(str(tmp_path / "same")).problems == []


def test_classes_are_merged_dropped_and_become_background(labels: Path, tmp_path: Path) -> None:
    before = segments_of(LabelStore(str(labels)))
    assert len({name for name, _, _ in before}) > 1
    words = ("classes=thing,sun", "label.aliases.thing=tree,house", "label.background_names=boat")
    names = {"tree": "thing", "house": "thing", "boat": "background", "sun": "sun", "": ""}
    after = segments_of(relabelled(labels, tmp_path / "merged", *words))
    assert [name for name, _, _ in after] == [names[name] for name, _, _ in before]
    assert [score for _, score, _ in after] == [score for _, score, _ in before]
    assert all(a[2] in (names[b[2]], "") for a, b in zip(after, before, strict=True))
    assert all(name != runner_up for name, _, runner_up in after)
    fewer = segments_of(relabelled(labels, tmp_path / "dropped", "classes=tree,sun"))
    kept = [(b, a) for b, a in zip(before, fewer, strict=True) if b[0] in ("tree", "sun")]
    assert all(a[:2] == b[:2] for b, a in kept)
    assert verify(str(tmp_path / "dropped")).problems == []


def test_a_higher_threshold_takes_classes_away_and_stays(labels: Path, tmp_path: Path) -> None:
    before = segments_of(LabelStore(str(labels)))
    middle = float(np.median([score for _, score, _ in before]))
    words = ("classes=tree,house,boat,sun", f"label.threshold={middle}")
    once = segments_of(relabelled(labels, tmp_path / "once", *words))
    assert once == [(name if score > middle else "background", score, x) for name, score, x in before]
    again = relabelled(tmp_path / "once", tmp_path / "again", "classes=tree,house,boat,sun")
    assert segments_of(again) == once


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("classes=tree,lorry",),
            (
                r"^classes: .*labels was made with annotator=sam3, which stores no embeddings, so that "
                r"relabel merges its classes \(tree, house, boat, sun\) and cannot look for 'lorry'"
            ),
        ),
        (
            ("classes=tree,oak",),
            r"^classes: 'tree' and 'oak' are both the class 'tree' of the label set$",
        ),
        (
            ("classes=tree", "label.threshold=0.1"),
            r"^label\.threshold: 0\.1 is less than 0\.3, below which annotator=sam3 kept no pixels in ",
        ),
        (("classes=tree", "label.templates=single"), r"^label\.templates has no effect on .*annotator=sam3"),
    ],
)
def test_what_needs_embeddings_is_refused_with_the_reason(
    labels: Path, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        relabelled(labels, tmp_path / "x", *words)
    assert not (tmp_path / "x" / "labels").exists()


def test_calibrate_and_the_page_say_why_they_cannot(labels: Path) -> None:
    line = r"labels was made with annotator=sam3, which stores no embeddings to learn from; segray relabel"
    with pytest.raises(UserError, match=line):
        StoredNames.of(str(labels))
    none = np.zeros((0, 0), np.float16), np.zeros(0, np.int32)
    assert "stores no embeddings" in Naming(LabelStore(str(labels)).provenance, "x", None, *none).problem


def test_tiles_of_a_large_image_are_labelled_as_one_image(labels: Path, tmp_path: Path) -> None:
    images, weights = labels.parent / "images", labels.parent / "sam3.safetensors"
    label_plainly(run_config(images, tmp_path / "tiled", weights, "image.tile=72"), [4])
    tiled, plain = contents(tmp_path / "tiled"), contents(labels)
    assert tiled.keys() == plain.keys()
    store = LabelStore(str(tmp_path / "tiled"))
    assert verify(store.root).problems == []
    differ = [tiled[name] != plain[name] for name in plain]
    assert any(differ)
    assert len(segments_of(store)) > 4


def test_other_annotators_are_a_difference_in_one_line_each(labels: Path, tmp_path: Path) -> None:
    words = ("annotator=sam_clip", "labeller.weights=null", "labeller.instance_score=0.3")
    builtin = ("sam.model=builtin", "clip.model=builtin")
    made = run_config(labels.parent / "images", labels, tmp_path, *words, *builtin)
    with pytest.raises(UserError) as caught:
        annotate.prepare(made, annotate.space_of(made))
    lines = str(caught.value).splitlines()
    assert "  annotator: 'sam3' -> 'sam_clip'" in lines
    assert not any("points_per_side" in line for line in lines)


class _Halves(LabelModel):
    """Finds the left and the right half of what it sees, with scores of some shape."""

    size = 64

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape

    @classmethod
    def load(cls, name: str, checkpoint: object) -> _Halves:
        raise NotImplementedError

    def labeller(self, *_: object) -> Any:
        return self

    def label(self, images: Sequence[Any], sizes: object = None) -> list[Any]:
        left = np.arange(images[0].shape[1]) < images[0].shape[1] // 2
        halves = [np.broadcast_to(half, images[0].shape[:2]) for half in (left, ~left)]
        scores = np.full(self._shape, 0.9, np.float32)
        return [([segment_from_mask(half) for half in halves], scores) for _ in images]


@pytest.mark.parametrize("tiling", [None, Tiling(16, 0.25)], ids=["whole", "tiles"])
@pytest.mark.parametrize("shape", [(1, 2), (3, 2), (2, 3), (2,)])
def test_scores_of_another_shape_are_an_error_of_their_image(
    shape: tuple[int, ...], tiling: Tiling | None
) -> None:
    plan = PoolPlan(1, 1, num_cpus=0, num_gpus=0, threads=1, batch_size=1)
    row: Any = {"image_id": "a", "status": "ok", "height": 24, "width": 24, "reduced": 1}
    row["pixels"] = bytes(24 * 24 * 3)

    def process(shape: tuple[int, ...]) -> list[Any]:
        arguments = ("sam3", LabellerModel(), ((), ("a",)), 0.5, plan, Guard(Ledger(), 1))
        return LabelImages(*arguments, loaded=_Halves(shape), tiling=tiling).process([row])

    assert process((2, 2))[0]["packed_segments"]
    line = rf"^the labeller gives scores of shape {re.escape(str(shape))} for 2 segments and 2 classes$"
    with pytest.raises(ValueError, match=line):
        process(shape)


@pytest.mark.slow
@pytest.mark.parametrize("words", [(), ("labeller.workers=1",)], ids=["here", "on Ray"])
def test_the_labeller_of_extend_md_labels_images(tmp_path: Path, words: tuple[str, ...]) -> None:
    plugin, images, out = (
        install_example(tmp_path / "site", "my_colours"),
        tmp_path / "images",
        tmp_path / "out",
    )
    save_file({"width": np.array(60.0)}, plugin / "colours.safetensors")
    images.mkdir()
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:, :20], pixels[:, 20:] = (0, 0, 250), (0, 130, 0)
    Image.fromarray(pixels).save(images / "a.png")
    weights = f"labeller.weights={plugin / 'colours.safetensors'}"
    keys = (f"images={images}", "classes=green,blue", "annotator=colours", weights)
    done = annotate_with(plugin, *keys, f"out={out}", *words)
    assert done.returncode == 0, done.stderr
    assert verify(str(out)).problems == []
    store = LabelStore(str(out))
    rows = store.segments(store.parts()[0]).to_pylist()
    assert [(r["class_id"], r["bbox"]) for r in rows] == [(1, [20, 0, 40, 40]), (2, [0, 0, 20, 40])]
    refused = annotate_with(plugin, *keys, f"out={tmp_path / 'x'}", "labeller.max_instances=3")
    assert refused.returncode == 2
    assert "labeller.max_instances has no effect with annotator=colours; leave it out" in refused.stderr

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from segray.models.label_space import LabelSpace
from segray.models.segmenters.builtin import BuiltinNetwork
from segray.models.segmenters.inference import WHOLE
from segray.pipelines.commands.report import run
from segray.pipelines.config.commands.report import ReportConfig
from segray.pipelines.config.loading import dump
from segray.pipelines.errors import UserError
from segray.pipelines.reporting.label_set.samples import Legend
from segray.pipelines.reporting.training.examples import extremes, make_examples
from segray.pipelines.reporting.training.history import read_run
from segray.pipelines.reporting.training.page import build
from segray.pipelines.reporting.training.samples import ExampleRenderer, Network
from segray.pipelines.training.data.training_data import open_data
from tests.pipelines.commands.test_report import Page, assert_closed
from tests.pipelines.reporting.test_thumbnails import decoded
from tests.pipelines.reporting.training.training_folders import CLASSES, entry, trained, written
from tests.pipelines.training.runs import config

TWO = [entry(1, 0.3), entry(2, 0.8)]


def text_of(out: Path, n: int = 12) -> str:
    return assert_closed(build(str(out), n)).text().replace("\u00a0", " ")


def legend_of(out: Path) -> Legend:
    classes = read_run(str(out)).classes
    return Legend(classes, LabelSpace(classes, ()).palette())


def drawn(out: Path) -> tuple[list[str], int]:
    """(names of the label maps of the first picture, how many pictures)."""
    examples = make_examples(read_run(str(out)), legend_of(out), 12)
    samples = examples.least + examples.most
    return [panel.name for panel in samples[0].panels], len(samples)


def test_a_real_run_makes_a_closed_page(own_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(ReportConfig(out=str(own_run), n=1))
    assert capsys.readouterr().out.startswith(f"wrote {own_run}/report.html (")
    page = assert_closed((own_run / "report.html").read_text(encoding="utf-8"))
    headings = [text for tag, text in page.texts if tag == "h2"]
    assert headings == ["Results", "Classes", "Examples", "Configuration"]
    ids = {attributes["id"] for attributes in page.all("section") if "id" in attributes}
    assert {a["href"] for a in page.all("a")} == {f"#{name}" for name in ids}
    alts = [(a["alt"] or "").partition(" of ")[0] for a in page.all("img")]
    assert alts == ["zero-shot label", "enhanced label", "prediction", "truth"] * 2
    assert all(decoded(a["src"] or "").size == (48, 48) for a in page.all("img"))
    assert len(page.all("article")) == 2
    assert ("td", "builtin") in page.texts
    assert ("td", "3") in page.texts


@pytest.mark.parametrize(("stored", "shown"), [({"window": 160}, 160), ({"window": 0}, 0), ({}, 96)])
def test_the_window_is_the_one_that_the_network_was_validated_in(
    tmp_path: Path, stored: dict[str, int], shown: int
) -> None:
    out = written(tmp_path / "run", TWO)
    (out / "best" / "state.json").write_text(json.dumps({"classes": CLASSES, **stored}))
    given = config(out, tmp_path / "labels", tmp_path, "train.window=96")
    (out / "config.yaml").write_text(dump(given))
    assert f"window {shown} " in text_of(out)


def test_labels_of_a_picture_score_as_validation_scored_them(tmp_path: Path) -> None:
    out = trained(tmp_path, "data.validation=1", "pseudo.tau=0.2")
    given = read_run(str(out))
    examples = make_examples(given, legend_of(out), 3)
    (sample,) = examples.least
    (scored,) = [e for e in given.history if e.epoch == examples.epoch]
    miou = {panel.name: panel.miou for panel in sample.panels}
    assert miou["prediction"] == sample.miou == pytest.approx(scored.miou)
    assert miou["zero-shot"] == pytest.approx(scored.zero_shot_miou)
    assert miou["enhanced"] == pytest.approx(scored.enhanced_miou)
    assert miou["truth"] is None


class HalfSure(Network):
    """Sure of class 3 in the left half of an image, and less sure of class 4 in the right half."""

    def predict(self, image: Tensor) -> tuple[Tensor, Tensor]:
        right = torch.arange(image.shape[2]).expand(image.shape[1:]) >= image.shape[2] // 2
        return torch.where(right, 4, 3), torch.where(right, 0.5, self.tau)


def test_the_enhanced_label_is_the_networks_where_it_is_sure(trained_run: Path) -> None:
    given = read_run(str(trained_run))
    assert given.config is not None
    data, labels = open_data(given.config.data, 0), given.config.data.labels
    renderer = ExampleRenderer(
        HalfSure(BuiltinNetwork(10), WHOLE, 0.7),
        data.validation[:1],
        labels,
        legend_of(trained_run),
        given.classes,
    )
    sample = renderer.render(0)
    zero_shot, enhanced, prediction, truth = (np.asarray(decoded(p.image)) for p in sample.panels)
    assert (enhanced[:, 25:] == zero_shot[:, 25:]).all()
    assert (enhanced[:, :23] == prediction[:, :23]).all()
    assert not (enhanced == zero_shot).all()
    assert not (enhanced == prediction).all()
    assert not (truth == zero_shot).all()
    assert sample.from_model == 0.5
    assert sample.confidence == pytest.approx(0.6)
    assert {name for name, _, _ in sample.classes} >= {given.classes[3], given.classes[4]}


def test_figures_are_those_of_the_history(tmp_path: Path) -> None:
    text = text_of(written(tmp_path, [entry(1, 0.3), entry(2, 0.9), entry(3, 0.9), entry(4, 0.8)]))
    assert "A mean IoU of 81.8 % on the validation images at epoch 2" in text
    assert "network, best epoch 2 81.8 % 90.0 % +41.8" in text
    assert "network, last epoch 4 66.7 % 80.0 % +26.7" in text
    assert "zero-shot labels 40.0 % 60.0 %" in text
    assert "enhanced labels, best epoch 2 62.5 % 82.5 % +22.5" in text
    assert "2:00 of training 10.0 % of it waiting for data" in text
    assert "config.yaml is missing: this page was made without it." in text
    assert "No examples: config.yaml is missing" in text


def test_the_least_and_the_most_certain_never_meet() -> None:
    certainty = dict(enumerate([0.5, 0.9, 0.1, 0.7, 0.3]))
    assert extremes(certainty, 1) == ([2], [1])
    assert extremes(certainty, 2) == ([2, 4], [1, 3])
    assert extremes(certainty, 9) == ([2, 4, 0], [1, 3])
    assert extremes({7: 0.5}, 3) == ([7], [])


def test_a_run_without_labels_has_neither_their_curves_nor_their_pictures(tmp_path: Path) -> None:
    out = trained(tmp_path, "method=supervised", "data.labels=null")
    assert drawn(out) == (["prediction", "truth"], 3)
    text = text_of(out)
    assert "zero-shot" not in text.replace("zero-shot enhanced from", "")
    assert "Unlabelled pixels" not in text
    assert "unsupervised 0" not in text


def test_without_images_the_page_has_no_pictures_and_says_why(own_run: Path) -> None:
    config = (own_run / "config.yaml").read_text()
    (own_run / "config.yaml").write_text(re.sub(r"root: .*", "root: /nowhere/at/all", config))
    text = text_of(own_run)
    assert "No examples: " in text
    assert "/nowhere/at/all" in text
    assert "network, best epoch" in text


def test_without_the_label_set_pictures_lack_its_labels(own_run: Path) -> None:
    config = (own_run / "config.yaml").read_text()
    (own_run / "config.yaml").write_text(re.sub(r"labels: .*", "labels: /no/label/set", config))
    assert drawn(own_run) == (["prediction", "truth"], 3)
    assert "No zero-shot and enhanced labels: data.labels=/no/label/set: no label set here" in text_of(
        own_run
    )


def test_an_image_without_a_row_has_no_zero_shot_picture(own_run: Path, tmp_path: Path) -> None:
    config = (own_run / "config.yaml").read_text()
    found = re.search(r"labels: (.*)", config)
    assert found is not None
    (own_run / "config.yaml").write_text(config.replace(found.group(0), f"labels: {tmp_path / 'labels'}"))
    problems = []
    for gone in range(2):
        labels = Path(shutil.copytree(found.group(1), tmp_path / "labels"))
        sorted((labels / "labels").iterdir())[gone].unlink()
        examples = make_examples(read_run(str(own_run)), legend_of(own_run), 3)
        given = [sample.panels[0] for sample in examples.least + examples.most]
        problems += [panel.problem for panel in given if not panel.image]
        shutil.rmtree(labels)
    # Each part has one half of the images: each of the three is missing once.
    assert problems == ["no zero-shot label of this image"] * 3


def test_a_checkpoint_of_other_classes_draws_nothing(own_run: Path) -> None:
    for name in ("best", "last"):
        path = own_run / name / "state.json"
        state = json.loads(path.read_text())
        state["classes"][1] = "dragon"
        path.write_text(json.dumps(state))
    assert "No examples: the classes of the data have changed since training" in text_of(own_run)


def test_damaged_weights_are_passed_over(own_run: Path) -> None:
    (own_run / "best" / "model.safetensors").write_bytes(b"cut")
    assert drawn(own_run)[1] == 3
    shutil.rmtree(own_run / "checkpoints")
    assert "model.safetensors is damaged" in text_of(own_run)
    shutil.rmtree(own_run / "best")
    assert "No examples: no checkpoint is left" in text_of(own_run)


def test_a_run_that_has_not_ended_is_shown_by_its_newest_checkpoint(own_run: Path) -> None:
    shutil.rmtree(own_run / "best")
    (own_run / "history.json").unlink()
    newest = max((own_run / "checkpoints").iterdir())
    shutil.rmtree(newest)
    text = text_of(own_run)
    assert "The run has not ended: 1 of 2 epochs." in text
    assert "the ones that the network of epoch 1 is least and most sure of" in text


def test_a_run_that_went_on_is_shown_to_its_newest_checkpoint(tmp_path: Path) -> None:
    out = written(tmp_path, TWO[:1])
    newest = out / "checkpoints" / "checkpoint_00000020"
    newest.mkdir(parents=True)
    (newest / "state.json").write_text(json.dumps({"classes": CLASSES, "history": TWO}))
    assert read_run(str(out)).last.epoch == 2


def test_hostile_names_stay_text(own_run: Path) -> None:
    evil = "<script>alert(1)</script>"
    for path in own_run.glob("**/state.json"):
        state = json.loads(path.read_text())
        state["classes"][1] = f"{evil}\u202e"
        path.write_text(json.dumps(state))
    config = (own_run / "config.yaml").read_text()
    (own_run / "config.yaml").write_text(
        config.replace("kind: picture_book", "kind: folder").replace("root: ", f"root: {evil}")
    )
    out = own_run.rename(own_run.parent / "<b onload=x>")
    page = assert_closed(build(str(out)))
    shown = evil + "\\u202e"
    assert any(tag == "h1" and text.endswith("<b onload=x>") for tag, text in page.texts)
    assert ("th", shown) in page.texts
    assert any(tag == "pre" and evil in text for tag, text in page.texts)
    assert any(tag == "p" and "No examples" in text and evil in text for tag, text in page.texts)


def test_classes_without_names_have_numbers(tmp_path: Path) -> None:
    assert read_run(str(written(tmp_path / "a", TWO, None))).classes == ("class 0", "class 1", "class 2")
    assert read_run(str(written(tmp_path / "b", TWO, ["only", "two"]))).classes[0] == "class 0"


def test_scores_that_are_not_defined_are_dashes(tmp_path: Path) -> None:
    none = {
        "miou": None,
        "accuracy": None,
        "zero_shot_miou": None,
        "enhanced_miou": None,
        "iou": [None, 0.5, None],
    }
    text = text_of(written(tmp_path, [entry(1, 0.5, **none)]))
    assert "A mean IoU of - on the validation images at epoch 1" in text
    assert "network, last epoch 1 - -" in text


@pytest.mark.parametrize(
    ("history", "message"),
    [
        ([], "the history is damaged"),
        ({}, "the history is damaged"),
        ([3], "damaged at entry 0"),
        ([entry(1, 0.5), entry(2, 0.5, miou="high")], "damaged at entry 1.miou"),
        ([entry(1, 0.5, loss=float("nan"))], "damaged at entry 0.loss"),
        ([entry(1, 0.5, loss=float("inf"))], "damaged at entry 0.loss"),
        ([entry(1, 0.5, miou=1.5)], "damaged at entry 0.miou"),
        ([entry(1, 0.5, iou=[])], "damaged at entry 0.iou"),
        ([entry(1, 0.5, confusion=[[1, 2, 3], [4, 5]])], "confusion is not 3 x 3"),
        ([entry(1, 0.5, confusion=[[-1] * 3] * 3)], "damaged at entry 0.confusion"),
        ([entry(1, 0.5), entry(2, 0.5, iou=[0.5], confusion=[[1]])], "the number of classes changes"),
        ([{key: value for key, value in TWO[0].items() if key != "epoch"}], "damaged at entry 0.epoch"),
    ],
)
def test_a_damaged_history_is_one_line(tmp_path: Path, history: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        run(ReportConfig(out=str(written(tmp_path, history))))
    assert message in str(caught.value)
    assert "history.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"[", b"\xff\xfe", b"[" * 100_000])
def test_a_history_that_is_no_json_is_one_line(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "history.json").write_bytes(data)
    with pytest.raises(UserError, match=r"history\.json cannot be read \(.*\)$"):
        run(ReportConfig(out=str(tmp_path)))


def test_a_broken_configuration_is_problems_on_the_page(tmp_path: Path) -> None:
    out = written(tmp_path, TWO)
    for words in ("{", "- a\n- b\n", "out: x\ndata: {root: y}\nmethod: magic\n", "a: &a [*a]\n"):
        (out / "config.yaml").write_text(words)
        assert "No examples: config.yaml is not the configuration of a training run" in text_of(out)


def test_a_run_before_its_first_validation_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "checkpoint_1").mkdir(parents=True)
    (tmp_path / "checkpoints" / "checkpoint_1" / "state.json").write_text("{")
    with pytest.raises(UserError, match="nothing was validated yet"):
        run(ReportConfig(out=str(tmp_path)))


def test_what_is_neither_label_set_nor_run_is_one_line(tmp_path: Path) -> None:
    for out in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UserError, match=r"no label set here, and no training run$"):
            run(ReportConfig(out=str(out)))
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError):
        run(ReportConfig(out=str(tmp_path / "file")))


def test_masks_are_refused_for_a_training_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="masks: a training run has validation masks of its own"):
        run(ReportConfig(out=str(written(tmp_path, TWO)), masks="masks"))


def test_the_page_of_a_hand_written_history_has_all_its_curves(tmp_path: Path) -> None:
    page = Page(build(str(written(tmp_path, TWO))))
    groups = [a["class"] for a in page.all("g") if (a.get("class") or "").startswith("of-")]
    scores = ["of-enhanced", "of-zero_shot", "of-network"]
    assert groups == [
        *scores,
        *scores,
        "of-loss",
        "of-supervised",
        "of-unsupervised",
        "of-from_model",
        "of-agreement",
    ]
    tips = [text for tag, text in page.texts if tag == "title"]
    assert "epoch 2: enhanced labels 60.0 %" in [tip.replace("\u00a0", " ") for tip in tips]


def test_classes_without_a_pixel_and_ignored_pixels_are_named(tmp_path: Path) -> None:
    counts = [[90, 10, 0], [10, 90, 0], [0, 0, 0]]
    changes = {"confusion": counts, "labelled_pixels": [500, 0, 20], "ignored": 0.25}
    page = text_of(written(tmp_path / "run", [entry(1, 0.5, **changes)]))
    assert "No labelled mask has: cat." in page
    assert "Not in the validation masks, and not in the mean: dog." in page
    assert "25.0 % of the masks' pixels are ignored." in page
    assert "Pixels of each class in the labelled masks" in page


def test_no_mean_iou_is_shown_as_none(tmp_path: Path) -> None:
    counts = [[90, 0, 0], [0, 0, 0], [0, 0, 0]]
    page = text_of(written(tmp_path / "run", [entry(1, 0.5, confusion=counts, miou=None)]))
    assert "There is no mean IoU: the masks hold fewer than two classes." in page
    assert "A mean IoU of - on the validation images" in page

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from segray.pipelines.commands.evaluate import evaluate, run
from segray.pipelines.config.commands.evaluate import EvaluateConfig
from segray.pipelines.errors import UserError
from segray.pipelines.io.label_png import encode_gray_png
from segray.pipelines.masks.options import MaskOptions
from segray.pipelines.reporting.evaluation import compare, table, to_csv, to_dict
from tests.pipelines.commands.masks import masks_in
from tests.pipelines.label_set.small_store import (
    PROVENANCE,
    bad_row,
    ok_row,
    picture_book_store,
    png,
    write_store,
)

TWO_CLASSES = {**PROVENANCE, "classes": ["background", "cat", "dog"]}


def grid(*rows: list[int]) -> NDArray[np.uint8]:
    return np.array(rows, np.uint8)


def store_in(folder: Path, *rows: dict[str, Any]) -> str:
    return str(write_store(folder / "out", list(rows), provenance=TWO_CLASSES))


LABEL = grid([0, 0, 1], [1, 0, 2])
TRUTH = grid([0, 0, 1], [1, 2, 255])


def test_scores_of_a_hand_worked_image(tmp_path: Path) -> None:
    result = evaluate(store_in(tmp_path, ok_row("a.jpg", LABEL)), str(masks_in(tmp_path, a=TRUTH)))
    # background: 2 of {2 true, 3 labelled}; cat: both of 2; dog: the one is missed, the other does not count
    assert result.iou.tolist() == pytest.approx([2 / 3, 1.0, 0.0])
    assert result.miou == pytest.approx(5 / 9)
    assert result.accuracy == pytest.approx(4 / 5)
    assert (result.classes, result.n_images) == (("background", "cat", "dog"), 1)
    assert result.truth_pixels.tolist() == [2, 2, 1]
    assert result.label_pixels.tolist() == [3, 2, 0]


def test_a_perfect_label_set_scores_one(tmp_path: Path) -> None:
    out, masks = picture_book_store(tmp_path, 4, 32)
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in masks.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    assert evaluate(str(folder), str(masks)).miou == 1.0
    assert 0.2 < evaluate(str(out), str(masks)).miou < 0.95


def test_images_of_several_parts_and_folders_add_up(tmp_path: Path) -> None:
    rows = [ok_row("train/a.jpg", grid([1, 1])), ok_row("val/a.jpeg", grid([0, 2]))]
    root = str(write_store(tmp_path / "out", rows[:1], rows[1:], provenance=TWO_CLASSES))
    masks = masks_in(tmp_path, train__a=grid([1, 0]), val__a=grid([0, 2]))
    result = evaluate(root, str(masks))
    assert result.n_images == 2
    assert result.iou.tolist() == pytest.approx([0.5, 0.5, 1.0])


def test_a_label_without_an_answer_is_a_miss(tmp_path: Path) -> None:
    label = grid([0, 255, 1, 255])
    result = evaluate(
        store_in(tmp_path, ok_row("a.jpg", label)), str(masks_in(tmp_path, a=grid([0, 0, 1, 255])))
    )
    assert result.iou[:2].tolist() == [0.5, 1.0]
    assert math.isnan(result.iou[2])
    assert result.miou == 0.75
    assert result.accuracy == pytest.approx(2 / 3)
    assert to_dict(result)["unanswered_pixels"] == 1
    assert "33.3 % of the pixels have label 255" in table(result)


def test_another_ignore_index(tmp_path: Path) -> None:
    root = store_in(tmp_path, ok_row("a.jpg", grid([0, 1, 1])))
    masks = str(masks_in(tmp_path, a=grid([0, 1, 11])))
    with pytest.raises(UserError, match=r"a\.png holds id 11 \(first at x=2, y=0\); allowed: 0 to 2 and 255"):
        evaluate(root, masks)
    assert evaluate(root, masks, MaskOptions(void=11)).miou == 1.0


def test_rows_that_are_not_ok_are_counted_and_left_out(tmp_path: Path) -> None:
    rows = [
        ok_row("a.jpg", LABEL),
        bad_row("b.jpg"),
        bad_row("c.gif", "skipped", "animated"),
        bad_row("d.jpg"),
    ]
    masks = masks_in(tmp_path, a=TRUTH, b=TRUTH, extra=TRUTH)
    result = evaluate(store_in(tmp_path, *rows), str(masks))
    assert (result.n_images, result.not_ok, result.unused_masks) == (1, {"error": 2, "skipped": 1}, 1)
    assert "left out        2 with status error, 1 with status skipped" in table(result)
    assert "unused masks    1" in table(result)


def test_a_missing_mask_is_refused_unless_allowed(tmp_path: Path) -> None:
    rows = [ok_row(f"{i}.jpg", LABEL) for i in range(8)]
    root, masks = store_in(tmp_path, *rows), str(masks_in(tmp_path, **{"3": TRUTH}))
    with pytest.raises(
        UserError, match=r"no mask for 7 labelled images: 0\.jpg, 1\.jpg, .*, \.\.\.; allow_missing"
    ):
        evaluate(root, masks)
    result = evaluate(root, masks, allow_missing=True)
    assert (result.n_images, len(result.missing)) == (1, 7)
    assert "7 without a mask" in table(result)


def test_nothing_in_common_is_refused_even_when_masks_may_miss(tmp_path: Path) -> None:
    root, masks = store_in(tmp_path, ok_row("a.jpg", LABEL)), str(masks_in(tmp_path, b=TRUTH))
    with pytest.raises(UserError, match=r"no labelled image of .* has a mask in"):
        evaluate(root, masks, allow_missing=True)


def test_two_images_with_one_mask_need_exact_names(tmp_path: Path) -> None:
    root = store_in(tmp_path, ok_row("a.jpg", grid([0, 1])), ok_row("a.png", grid([0, 2])))
    masks = masks_in(tmp_path, a=grid([0, 1]))
    with pytest.raises(
        UserError, match=r"a\.png could belong to a\.jpg or a\.png; name the masks a\.jpg\.png and"
    ):
        evaluate(root, str(masks))
    (masks / "a.png").rename(masks / "a.jpg.png")
    (masks / "a.png.png").write_bytes(encode_gray_png(grid([0, 2])))
    assert evaluate(root, str(masks)).miou == 1.0


def test_an_upper_case_suffix_is_found(tmp_path: Path) -> None:
    masks = masks_in(tmp_path, a=TRUTH)
    (masks / "a.png").rename(masks / "a.PNG")
    assert evaluate(store_in(tmp_path, ok_row("a.JPG", LABEL)), str(masks)).n_images == 1


def test_palette_masks_count_by_index(tmp_path: Path) -> None:
    mask = Image.fromarray(TRUTH)
    mask.putpalette([(7 * i) % 256 for i in range(768)])
    buffer = io.BytesIO()
    mask.save(buffer, "PNG")
    masks = masks_in(tmp_path, a=TRUTH)
    (masks / "a.png").write_bytes(buffer.getvalue())
    result = evaluate(store_in(tmp_path, ok_row("a.jpg", LABEL)), str(masks))
    assert result.miou == pytest.approx(5 / 9)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            encode_gray_png(grid([0, 0, 1])),
            r"mask .*a\.png is 3x1 pixels, its image's label 3x2; .* same size",
        ),
        (
            encode_gray_png(grid([0, 0, 1], [9, 0, 0])),
            r"holds id 9 \(first at x=0, y=1\); allowed: 0 to 2 and 255",
        ),
        (
            png(np.zeros((2, 3, 3), np.uint8)),
            r"mask .*a\.png: a mask of colours \(RGB\), not of ids: colors=FILE",
        ),
        (encode_gray_png(TRUTH)[:-20], r"mask .*a\.png: truncated PNG"),
        (b"GIF89a", r"mask .*a\.png: not an image"),
    ],
)
def test_bad_masks_are_refused_by_name(tmp_path: Path, data: bytes, message: str) -> None:
    masks = masks_in(tmp_path, a=TRUTH)
    (masks / "a.png").write_bytes(data)
    root = store_in(tmp_path, ok_row("a.jpg", LABEL))
    with pytest.raises(UserError, match=message) as caught:
        run(EvaluateConfig(labels=root, masks=str(masks)))
    assert (caught.value.exit_code, "\n" in str(caught.value)) == (2, False)
    assert not (tmp_path / "out" / "evaluation.json").exists()


@pytest.mark.parametrize(
    ("which", "what"),
    [("labels", "no label set there, and no PNG label map"), ("masks", "no mask there")],
)
def test_a_folder_without_png_is_refused(tmp_path: Path, which: str, what: str) -> None:
    masks = str(masks_in(tmp_path, a=TRUTH))
    (tmp_path / "empty").mkdir()
    texts = {"empty": what, "nowhere": "no such file or folder", "a.txt/below": "no such file or folder"}
    (tmp_path / "a.txt").touch()
    for name, text in texts.items():
        bad = str(tmp_path / name)
        places = {"labels": masks, "masks": masks, which: bad}
        with pytest.raises(UserError, match=f"^{which}={bad}: {text}"):
            evaluate(places["labels"], places["masks"])


def test_a_label_id_beyond_the_classes_is_told(tmp_path: Path) -> None:
    root, masks = store_in(tmp_path, ok_row("a.jpg", LABEL + 5)), str(masks_in(tmp_path, a=TRUTH))
    with pytest.raises(UserError, match=r"label of a\.jpg holds id 5; allowed: 0 to 2 and 255 \(no answer\)"):
        evaluate(root, masks)


def test_a_folder_of_labels_names_classes_by_id(tmp_path: Path) -> None:
    labels = tmp_path / "labels"
    labels.mkdir()
    (labels / "a.png").write_bytes(encode_gray_png(LABEL))
    result = evaluate(str(labels), str(masks_in(tmp_path, a=np.where(TRUTH == 2, 4, TRUTH).astype(np.uint8))))
    assert result.classes == ("class 0", "class 1", "class 2", "class 3", "class 4")
    assert result.iou.tolist() == pytest.approx([2 / 3, 1.0, math.nan, math.nan, 0.0], nan_ok=True)
    assert result.miou == pytest.approx(5 / 9)


def test_compare_keeps_all_ids_up_to_254() -> None:
    ids = np.arange(255, dtype=np.uint8)[None]
    assert np.array_equal(np.diagonal(compare(ids, ids, 255))[:-1], np.ones(255))


def test_run_prints_a_table_and_writes_json_and_csv(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, masks = store_in(tmp_path, ok_row("a.jpg", LABEL)), str(masks_in(tmp_path, a=TRUTH))
    run(EvaluateConfig(labels=root, masks=masks))
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == [
        " id  class        IoU %  truth %  labels %",
        "  0  background    66.7     40.0      60.0",
        "  1  cat          100.0     40.0      40.0",
        "  2  dog            0.0     20.0       0.0",
    ]
    assert lines[5:8] == [
        "mIoU            55.6 % (mean of 3 classes)",
        "pixel accuracy  80.0 %",
        "images          1",
    ]
    document = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert (document["miou"], document["pixel_accuracy"]) == (pytest.approx(5 / 9), 0.8)
    assert document["confusion"] == [[2, 0, 0], [0, 2, 0], [1, 0, 0]]
    assert document["classes"][2]["class"] == "dog"
    rows = list(csv.DictReader((tmp_path / "out" / "evaluation.csv").open()))
    assert [row["truth_pixels"] for row in rows] == ["2", "2", "1"]
    assert float(rows[0]["iou"]) == pytest.approx(2 / 3)


def test_results_can_go_elsewhere(tmp_path: Path) -> None:
    root, masks = store_in(tmp_path, ok_row("a.jpg", LABEL)), str(masks_in(tmp_path, a=TRUTH))
    run(EvaluateConfig(labels=root, masks=masks, out=str(tmp_path / "new" / "place")))
    assert sorted(p.name for p in (tmp_path / "new" / "place").iterdir()) == [
        "evaluation.csv",
        "evaluation.json",
    ]
    assert not (tmp_path / "out" / "evaluation.json").exists()


def test_an_undefined_iou_is_null_empty_and_a_dash(tmp_path: Path) -> None:
    zeros = grid([0, 0])
    result = evaluate(store_in(tmp_path, ok_row("a.jpg", zeros)), str(masks_in(tmp_path, a=zeros)))
    assert [row["iou"] for row in to_dict(result)["classes"]] == [1.0, None, None]
    assert to_csv(result).splitlines()[2] == "1,cat,,0.0,0,0"
    assert table(result).splitlines()[2].split()[:3] == ["1", "cat", "-"]
    json.dumps(to_dict(result), allow_nan=False)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "labels: required, give labels=DIR, or checkpoint=DIR and images=FOLDER"),
        ({"labels": "a", "checkpoint": "b", "images": "c"}, "labels, checkpoint: give one of the two"),
        ({"checkpoint": "a"}, "images: checkpoint needs them, give images=FOLDER"),
        ({"labels": "a", "images": "b"}, "images: allowed only with checkpoint"),
        ({"labels": "a", "window": 64}, "window: allowed only with checkpoint"),
        (
            {"labels": "a", "views": {"flip": True}, "precision": "bf16"},
            "views, precision: allowed only with checkpoint",
        ),
    ],
)
def test_either_labels_or_a_checkpoint_with_images(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        run(EvaluateConfig(masks="masks", **given))
    assert (caught.value.exit_code, "\n" in str(caught.value)) == (2, False)


def test_label_maps_named_after_their_images_suffix_and_all(tmp_path: Path) -> None:
    labels = tmp_path / "labels"
    labels.mkdir()
    for name in ("a.jpg.png", "b.png", "c.png.png", "d.png", "d.png.png"):
        (labels / name).write_bytes(encode_gray_png(LABEL))
    masks = masks_in(tmp_path, a=TRUTH, b=TRUTH, c=TRUTH, d=TRUTH)
    (masks / "d.png.png.png").write_bytes(encode_gray_png(TRUTH))
    result = evaluate(str(labels), str(masks))
    assert (result.n_images, result.unused_masks) == (5, 0)


OBJECT = grid([0, 0, 255], [255, 0, 0])


def test_binary_masks_stop_the_evaluation(tmp_path: Path) -> None:
    provenance = {**PROVENANCE, "classes": ["background", "cat"]}
    root = str(write_store(tmp_path / "out", [ok_row("a.jpg", OBJECT // 255)], provenance=provenance))
    masks = str(masks_in(tmp_path, a=OBJECT))
    message = r"these look like binary masks: object = 255 .* binary=true reads 255 as class 1 \(cat\)"
    with pytest.raises(UserError, match=message):
        evaluate(root, masks)
    assert evaluate(root, masks, MaskOptions(binary=True)).miou == 1.0
    ignored = evaluate(root, masks, MaskOptions(binary=False))
    assert ignored.ignored_share == pytest.approx(2 / 6)
    assert "ignored         33.3 % of the mask pixels" in table(ignored)


def test_masks_whose_background_is_255_stop_the_evaluation(tmp_path: Path) -> None:
    root = store_in(tmp_path, ok_row("a.jpg", LABEL), ok_row("b.jpg", LABEL))
    masks = masks_in(tmp_path, a=grid([255, 255, 1], [1, 255, 2]), b=grid([255, 1, 1], [1, 255, 2]))
    message = r"no pixel has id 0 \(background\), and 42 % have 255, .*; colors=FILE reads it so, with a line"
    with pytest.raises(UserError, match=message):
        evaluate(root, str(masks))
    config = {"labels": root, "masks": str(masks), "out": str(tmp_path), "ignore_index": 255}
    run(EvaluateConfig.model_validate(config))
    assert json.loads((tmp_path / "evaluation.json").read_text())["absent_classes"] == ["background"]
    masks_in(tmp_path, b=grid([0, 1, 1], [1, 255, 2]))
    assert evaluate(root, str(masks)).ignored_pixels == 4


def test_masks_without_id_0_get_a_remark(tmp_path: Path) -> None:
    root = store_in(tmp_path, ok_row("a.jpg", LABEL))
    masks = str(masks_in(tmp_path, a=grid([2, 1, 1], [1, 2, 2])))
    text = table(evaluate(root, masks))
    assert "ids             no mask has id 0 (background); if the ids of the masks begin with 1, col" in text
    assert "no mask has id 0" not in table(evaluate(root, masks, MaskOptions(void=0)))


def test_binary_label_maps_stop_the_evaluation(tmp_path: Path) -> None:
    labels = tmp_path / "maps"
    labels.mkdir()
    (labels / "a.png").write_bytes(encode_gray_png(OBJECT))
    masks = str(masks_in(tmp_path, a=OBJECT // 255))
    with pytest.raises(UserError, match=r"^labels=.*maps: these look like binary masks: object = 255"):
        evaluate(str(labels), masks)
    assert evaluate(str(labels), masks, MaskOptions(binary=True)).miou == 1.0


def test_a_perfect_score_of_one_class_is_no_result(tmp_path: Path) -> None:
    root = store_in(tmp_path, ok_row("a.jpg", grid([0, 0, 0])))
    masks = masks_in(tmp_path, a=grid([0, 0, 255]))
    result = evaluate(root, str(masks), MaskOptions(binary=False))
    assert math.isnan(result.miou)
    assert to_dict(result)["miou"] is None
    shown = table(result)
    assert "mIoU            - (no result: the masks hold one class only, background)" in shown
    assert "not in masks    cat, dog" in shown
    assert (to_dict(result)["absent_classes"], to_dict(result)["ignored_pixels"]) == (["cat", "dog"], 1)

"""Masks of other names and kinds in `segray evaluate` and `segray report`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segray.pipelines.commands.evaluate import execute
from segray.pipelines.commands.report import run as run_report
from segray.pipelines.config.commands.evaluate import EvaluateConfig
from segray.pipelines.config.commands.report import ReportConfig
from segray.pipelines.errors import UserError
from segray.pipelines.io.label_png import encode_gray_png
from tests.pipelines.io.containers import write_table, write_tar, write_zip
from tests.pipelines.label_set.small_store import PROVENANCE, ok_row, write_store

LABEL = np.array([[0, 0, 1], [1, 0, 2]], np.uint8)
COLOURS = np.array([(0, 0, 0), (250, 0, 0), (0, 0, 250)], np.uint8)
TABLE = "background:0,0,0::\ncat:250,0,0::\ndog:0,0,250::\n"


def store_in(folder: Path) -> str:
    provenance = {**PROVENANCE, "classes": ["background", "cat", "dog"]}
    return str(write_store(folder / "out", [ok_row("a.jpg", LABEL)], provenance=provenance))


def test_colour_masks_with_a_suffix_are_compared(tmp_path: Path) -> None:
    labels, masks = store_in(tmp_path), tmp_path / "masks"
    masks.mkdir()
    Image.fromarray(COLOURS[LABEL]).save(masks / "a_mask.bmp")
    (tmp_path / "labelmap.txt").write_text(TABLE)
    with pytest.raises(
        UserError, match=r"for a\.jpg, looked for a\.png .*; mask_suffix=_mask finds a_mask\.bmp"
    ):
        execute(EvaluateConfig(labels=labels, masks=str(masks)))
    with pytest.raises(UserError, match=r"a_mask\.bmp: a mask of colours \(RGB\), not of ids: colors=FILE"):
        execute(EvaluateConfig(labels=labels, masks=str(masks), mask_suffix="_mask"))
    table = str(tmp_path / "labelmap.txt")
    result, _ = execute(EvaluateConfig(labels=labels, masks=str(masks), mask_suffix="_mask", colors=table))
    assert (result.miou, result.n_images) == (1.0, 1)
    run_report(ReportConfig(out=labels, masks=str(masks), mask_suffix="_mask", colors=table))
    assert "they reach a mean IoU of 100" in (Path(labels) / "report.html").read_text()


def test_an_annotation_file_as_masks_is_told_what_converts_it(tmp_path: Path) -> None:
    labels, path = store_in(tmp_path), tmp_path / "instances.json"
    path.write_text("{}")
    with pytest.raises(
        UserError, match=r"instances\.json: no mask there; .* `segray masks` converts annotation"
    ):
        execute(EvaluateConfig(labels=labels, masks=str(path)))


@pytest.mark.parametrize("kind", ["zip", "tar", "csv", "parquet"])
def test_masks_in_archives_lists_and_tables_are_compared(tmp_path: Path, kind: str) -> None:
    labels, mask = store_in(tmp_path), encode_gray_png(LABEL)
    place = tmp_path / f"gt.{kind}"
    if kind == "parquet":
        write_table(place, {"image_id": ["a.jpg"], "mask": [mask]})
    elif kind == "csv":
        (tmp_path / "b.png").write_bytes(mask)
        place.write_text("image,mask\nimages/a.jpg,b.png\n")
    else:
        (write_tar if kind == "tar" else write_zip)(place, {"gt/a.png": mask})
    result, _ = execute(EvaluateConfig(labels=labels, masks=str(place)))
    assert (result.miou, result.n_images, result.unused_masks) == (1.0, 1, 0)


def test_a_list_of_masks_elsewhere_names_the_key(tmp_path: Path) -> None:
    labels, place = store_in(tmp_path), tmp_path / "lists" / "gt.csv"
    place.parent.mkdir()
    (tmp_path / "b.png").write_bytes(encode_gray_png(LABEL))
    place.write_text("image,mask\na.jpg,../b.png\n")
    with pytest.raises(UserError, match=r"^masks=\S+gt\.csv: .*line 2: .*image\.roots"):
        execute(EvaluateConfig(labels=labels, masks=str(place)))
    place.write_text(f"image,mask\na.jpg,{tmp_path}/b.png\n")
    config = EvaluateConfig(labels=labels, masks=str(place), image={"roots": (str(tmp_path),)})
    assert execute(config)[0].miou == 1.0


@pytest.mark.parametrize(
    ("shift", "lines"), [(1, "background: 1,1,1 and cat: 2,2,2"), (-1, "cat: 0,0,0 and dog: 1,1,1")]
)
def test_masks_whose_ids_are_all_one_higher_or_lower_stop_the_evaluation(
    tmp_path: Path, shift: int, lines: str
) -> None:
    label = np.array([[0, 0, 2], [1, 0, 2]], np.uint8) if shift == 1 else np.array([[1, 2, 3]], np.uint8)
    provenance = {**PROVENANCE, "classes": ["background", "cat", "dog", "fox"]}
    labels = str(write_store(tmp_path / "out", [ok_row("a.jpg", label)], provenance=provenance))
    masks = tmp_path / "masks"
    masks.mkdir()
    (masks / "a.png").write_bytes(encode_gray_png((label.astype(int) + shift).astype(np.uint8)))
    with pytest.raises(UserError, match=r"one (higher|lower) than those of the labels: most of ") as caught:
        execute(EvaluateConfig(labels=labels, masks=str(masks)))
    allowed = (
        f"as in {lines}, and ignore: 255,255,255 for ignored pixels; ignore_index=255 takes them as they"
    )
    assert allowed in str(caught.value)
    assert execute(EvaluateConfig(labels=labels, masks=str(masks), ignore_index=255))[0].miou == 0


def test_labels_that_are_just_bad_are_no_sign_of_other_ids(tmp_path: Path) -> None:
    """Labels of the background alone, of two classes that are exchanged, and of pixels without a class."""
    provenance = {**PROVENANCE, "classes": ["background", "cat", "dog"]}
    bad, exchanged = np.zeros((2, 3), np.uint8), np.array([[1, 1, 2, 0, 0]], np.uint8)
    unknown = np.array([[2, 2, 255, 255]], np.uint8)
    rows = [ok_row("a.jpg", bad), ok_row("b.jpg", exchanged), ok_row("c.jpg", unknown)]
    labels = str(write_store(tmp_path / "out", rows, provenance=provenance))
    given = {"a": [[1, 1, 1], [1, 1, 0]], "b": [[2, 2, 1, 0, 0]], "c": [[1, 1, 2, 2]]}
    for name, mask in given.items():
        masks = tmp_path / name
        masks.mkdir()
        (masks / f"{name}.png").write_bytes(encode_gray_png(np.array(mask, np.uint8)))
        result, _ = execute(EvaluateConfig(labels=labels, masks=str(masks), allow_missing=True))
        assert result.n_images == 1

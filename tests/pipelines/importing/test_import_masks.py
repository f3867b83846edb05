"""Archives and folders of masks among other files, and masks without their images' names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segray.pipelines.errors import UserError
from segray.pipelines.masks.folder import MaskFolder
from tests.pipelines.exporting.labelled import (
    HEIGHT,
    LABELS,
    WIDTH,
    write_labels,
)
from tests.pipelines.importing.taking import exported, refused, take, zipped
from tests.pipelines.label_set.small_store import png


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    return write_labels(tmp_path)


def test_masks_beside_files_that_say_nothing_of_them(labels: Path, tmp_path: Path) -> None:
    masks = {str(Path(name).with_suffix(".png")): png(label) for name, label in LABELS.items()}
    others = {"README.md": b"x", "dataset.json": b'{"name": "set"}', "b/meta.json": b"[]", "notes.json": b"{"}
    hidden = {".DS_Store": b"x", "__MACOSX/a/._one.png": b"x", "__MACOSX/._dataset.json": b"x"}
    assert take(labels, zipped({**masks, **others, **hidden}, tmp_path / "masks.zip")).unchanged == 4
    coco = exported(labels, tmp_path / "out", "coco").read_bytes()
    both = zipped({**others, "b/one.png": b"x", "annotations/instances.json": coco}, tmp_path / "coco.zip")
    assert take(labels, both, format="coco").changed == 4
    twice = zipped({"a.json": coco, "b.json": coco, "c.json": b"{}"}, tmp_path / "twice.zip")
    with pytest.raises(UserError, match=r"2 files of annotations \(a\.json, b\.json\); unpack it"):
        take(labels, twice)


def test_a_folder_of_label_studios_png_files_is_told_what_names_the_images(
    labels: Path, tmp_path: Path
) -> None:
    (tmp_path / "brush").mkdir()
    Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).save(
        tmp_path / "brush" / "task-12-annotation-3-by-1-tag-car-0.png"
    )
    text = "Label Studio's PNG files do not say of which image they are"
    assert refused(labels, tmp_path / "brush") == f"from={tmp_path / 'brush'}: {text}; export JSON instead"
    looked = MaskFolder(str(tmp_path / "brush")).looked_for("a/one.png")
    assert looked.endswith(f"; {text}: `segray import` reads its JSON")

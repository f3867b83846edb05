"""Images that are left out, and labels of another size than their images: said before a run starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.pipelines.training.data.small_sets import folder_set, opened, refusal
from tests.pipelines.training.runs import book


def test_images_that_are_left_out_are_counted_by_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = folder_set(tmp_path / "set")
    for name in ("x.png", "y.png"):
        (root / "images" / "train" / name).symlink_to(tmp_path / "nowhere.png")
    opened(root)
    lines = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert lines == ["images: 2 of 10 images are left out: symlink to nothing (2, such as train/x.png)"]


def test_a_label_of_another_size_than_its_image_is_refused_before_a_worker_meets_it(tmp_path: Path) -> None:
    labels, root = book(tmp_path / "book", n=8)
    paths = sorted(path for path in (root / "images").rglob("*.png"))
    keys: dict[str, Any] = {"kind": "picture_book", "labels": str(labels), "labelled": "2", "validation": "2"}
    assert opened(root, **keys).unlabelled
    for path in paths:
        with Image.open(path) as image:
            larger = image.resize((50, 48))
        larger.save(path)
        mask = root / "masks" / path.relative_to(root / "images")
        with Image.open(mask) as image:
            wider = image.resize((50, 48), Image.Resampling.NEAREST)
        wider.save(mask)
    text = refusal(root, **keys)
    assert text.startswith(f"data.labels={labels}: the label of ")
    assert "is 48x48 pixels, the image " in text
    assert text.endswith(" 50x48; annotate it again")

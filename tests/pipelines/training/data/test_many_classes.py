"""More classes than 8 bits hold are refused in one line, wherever they come from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.pipelines.training.data.small_sets import annotation, box, coco_set, folder_set, refusal

NAMES = [f"class {i}" for i in range(300)]


@pytest.mark.parametrize("where", ["class_names.txt", "data.classes", "coco", "colors"])
def test_more_classes_than_a_label_map_holds_are_refused_everywhere(tmp_path: Path, where: str) -> None:
    if where == "coco":
        root = coco_set(tmp_path, [annotation(1, 1, 1, box(0, 0, 2, 2))])
        path = root / "annotations" / "instances_train2017.json"
        content = json.loads(path.read_text())
        categories = [{"id": i, "name": name} for i, name in enumerate(NAMES)]
        path.write_text(json.dumps({**content, "categories": categories}))
        text = refusal(root, kind="coco")
    elif where == "data.classes":
        text = refusal(folder_set(tmp_path), classes=tuple(NAMES))
    elif where == "colors":
        (folder_set(tmp_path) / "class_names.txt").unlink()
        lines = [f"{name}:{i % 256},{i // 256},7::" for i, name in enumerate(NAMES)]
        (tmp_path / "labelmap.txt").write_text("\n".join(lines))
        text = refusal(tmp_path, colors=str(tmp_path / "labelmap.txt"))
    else:
        (folder_set(tmp_path) / "class_names.txt").write_text("\n".join(["background", *NAMES]))
        text = refusal(tmp_path)
    assert "300 classes; an 8-bit label map holds at most 254 and background" in text
    assert "\n" not in text


def test_ids_above_254_in_a_16_bit_mask_are_refused(tmp_path: Path) -> None:
    path = folder_set(tmp_path) / "masks" / "train" / "00.png"
    Image.fromarray(np.full((12, 16), 299, np.uint16)).save(path)
    assert "holds id 299 (first at x=0, y=0); allowed: 0 to 2 and 255 (ignored)" in refusal(tmp_path)

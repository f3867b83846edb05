"""Names of macOS, with decomposed letters (NFD), against the composed ones of other systems (NFC)."""

from __future__ import annotations

from pathlib import Path

import pytest

from segray.models.label_space import LabelSpace
from segray.pipelines.io.names import Names
from segray.pipelines.masks.folder import MaskFolder
from segray.pipelines.training.data.label_join import LabelSet, join_labels
from segray.pipelines.training.data.samples import Sample
from tests.pipelines.training.data.small_sets import draw_image, mask_of, names, opened, write_mask

NFC, NFD = "B\u00fccher", "Bu\u0308cher"


@pytest.mark.parametrize(("image", "mask"), [(NFC, NFD), (NFD, NFC)])
def test_masks_and_split_files_in_the_other_form(tmp_path: Path, image: str, mask: str) -> None:
    for i in range(3):
        draw_image(tmp_path / "images" / f"{image}-{i}.png", value=i)
        write_mask(tmp_path / "masks" / f"{mask}-{i}.png", mask_of(1))
    (tmp_path / "class_names.txt").write_text("background\ncat\n")
    (tmp_path / "split.txt").write_text(f"images/{mask}-0.png masks/{image}-0.png\n{mask}-1\n")
    data = opened(tmp_path, labelled=str(tmp_path / "split.txt"), validation="none")
    assert names(data.labelled) == [f"images/{image}-{i}.png" for i in (0, 1)]
    assert data.labelled[0].mask_id == f"masks/{mask}-0.png"
    assert len(opened(tmp_path, validation="none").labelled) == 3


@pytest.mark.parametrize(("image", "label"), [(NFC, NFD), (NFD, NFC)])
def test_label_sets_in_the_other_form(image: str, label: str) -> None:
    labels = LabelSet("labels", frozenset({f"{label}.jpg"}), frozenset())
    (joined,) = join_labels([Sample(f"images/{image}.jpg", "x")], labels, "/data")
    assert joined.label_id == f"{label}.jpg"


def test_evaluate_finds_masks_in_the_other_form(tmp_path: Path) -> None:
    write_mask(tmp_path / f"{NFD}.png", mask_of(1))
    masks = MaskFolder(str(tmp_path))
    masks.bind(LabelSpace(("background", "cat"), ()))
    assert masks.match([f"{NFC}.jpg"]) == {f"{NFC}.jpg": f"{NFD}.png"}


def test_a_name_in_its_own_form_wins_and_two_others_are_no_match() -> None:
    assert Names([NFC, NFD]).find(NFD) == NFD
    vietnamese = ["\u1ed7", "o\u0302\u0303", "\u00f4\u0303"]
    assert Names(vietnamese[1:]).find(vietnamese[0]) is None
    assert Names(vietnamese[1:2]).find(vietnamese[0]) == vietnamese[1]

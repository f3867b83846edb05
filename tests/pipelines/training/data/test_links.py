"""Data sets whose images and masks are links, as DVC, git-annex and caches make them."""

from __future__ import annotations

from pathlib import Path

from tests.pipelines.training.data.small_sets import folder_set, opened, refusal


def linked(root: Path) -> Path:
    """The folders train/ and val/ of a data set as links, in a folder beside it."""
    copy = root.parent / "linked"
    for kind in ("images", "masks"):
        (copy / kind).mkdir(parents=True)
        for part in (root / kind).iterdir():
            (copy / kind / part.name).symlink_to(part)
    (copy / "class_names.txt").symlink_to(root / "class_names.txt")
    return copy


def test_a_folder_of_links_trains_as_its_files_do(tmp_path: Path) -> None:
    root = folder_set(tmp_path / "set")
    plain, links = opened(root), opened(linked(root))
    assert [s.image_id for s in links.labelled] == [s.image_id for s in plain.labelled]
    assert [s.mask_id for s in links.labelled] == [s.mask_id for s in plain.labelled]
    assert links.labelled_pixels == plain.labelled_pixels


def test_refused_links_are_the_reason_where_no_image_is_left(tmp_path: Path) -> None:
    text = refusal(linked(folder_set(tmp_path / "set")), image={"links": "refuse"})
    reason = "symlink leaves the folder (image.links=refuse) (2, such as train)"
    assert text.endswith(f"linked: no usable image; images: 2 of 2 images are left out: {reason}")


def test_refused_links_hide_masks_too(tmp_path: Path) -> None:
    root = folder_set(tmp_path / "set")
    (root / "masks").rename(tmp_path / "elsewhere")
    (root / "masks").mkdir()
    for part in ("train", "val"):
        (root / "masks" / part).symlink_to(tmp_path / "elsewhere" / part)
    assert opened(root).labelled
    assert "no mask there" in refusal(root, image={"links": "refuse"})

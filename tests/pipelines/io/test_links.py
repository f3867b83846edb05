"""Symlinks in folders of images: which are followed, and that every walk ends."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from segray.pipelines.io import storage
from segray.pipelines.io.images import ImageProblem
from segray.pipelines.io.sources import follows_links, image_roots, list_images, read_allowed
from tests.pipelines.io.listing import ids, problems, touch


def write_links(root: Path) -> None:
    """Links of all kinds, in a folder and beside it."""
    tmp_path = root.parent
    touch(root, "real.png", "sub/real.png", "x.jpg/inner.png")
    touch(tmp_path, "outside/secret.png", "root2/near.png")
    links = {
        "out.png": "../outside/secret.png",
        "out": "../outside",
        "near.png": "../root2/near.png",
        "sub/up": "..",
        "ring.png": "ring.png",
        "ring": "ring",
        "gone.png": "nothing.png",
        "ok.png": "sub/real.png",
        "aside": "sub",
        "note": "../outside/secret.png",
    }
    for name, target in links.items():
        (root / name).symlink_to(target)
    os.mkfifo(root / "pipe.png")


def test_links_are_followed_and_nothing_hangs(tmp_path: Path) -> None:
    write_links(tmp_path / "root")
    assert problems(tmp_path / "root") == {
        "aside/real.png": None,
        "aside/up": "symlink loop",
        "gone.png": "symlink to nothing",
        "near.png": None,
        "ok.png": None,
        "out.png": None,
        "out/secret.png": None,
        "pipe.png": "not a regular file",
        "real.png": None,
        "ring.png": "symlink loop",
        "sub/real.png": None,
        "sub/up": "symlink loop",
        "x.jpg": "a folder, not an image",
        "x.jpg/inner.png": None,
    }


def test_refused_links_lead_to_files_below_the_folder_alone(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write_links(root)
    refused = " (image.links=refuse)"
    assert {ref.image_id: ref.problem for ref in list_images(str(root), follow=False)} == {
        "aside": f"symlink to a folder, not followed{refused}",
        "gone.png": "symlink to nothing",
        "near.png": f"symlink leaves the folder{refused}",
        "ok.png": None,
        "out": f"symlink leaves the folder{refused}",
        "out.png": f"symlink leaves the folder{refused}",
        "pipe.png": "not a regular file",
        "real.png": None,
        "ring.png": "symlink loop",
        "sub/real.png": None,
        "sub/up": "symlink loop",
        "x.jpg": "a folder, not an image",
        "x.jpg/inner.png": None,
    }


def test_folders_that_link_to_each_other_end(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "b/2.png")
    (tmp_path / "a/to-b").symlink_to("../b")
    (tmp_path / "b/to-a").symlink_to("../a")
    assert problems(tmp_path) == {
        "a/1.png": None,
        "a/to-b/2.png": None,
        "a/to-b/to-a": "symlink loop",
        "b/2.png": None,
        "b/to-a/1.png": None,
        "b/to-a/to-b": "symlink loop",
    }
    files = sorted(file.name for file in storage.list_files(str(tmp_path)))
    assert files == ["a/1.png", "a/to-b/2.png", "b/2.png", "b/to-a/1.png"]


def test_a_link_from_elsewhere_to_a_folder_above_the_root_is_a_loop(tmp_path: Path) -> None:
    touch(tmp_path, "root/a.png", "elsewhere/b.png")
    (tmp_path / "root/out").symlink_to("../elsewhere")
    (tmp_path / "elsewhere/all").symlink_to(tmp_path)
    assert problems(tmp_path / "root") == {"a.png": None, "out/all": "symlink loop", "out/b.png": None}


def test_links_that_double_at_each_folder_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segray.pipelines.io.links.MAX_VISITS", 4)
    touch(tmp_path, *(f"d{i}/a.png" for i in range(12)))
    for i in range(11):
        for name in ("x", "y"):
            (tmp_path / f"d{i}" / name).symlink_to(f"../d{i + 1}")
    found = problems(tmp_path / "d0")
    assert "more than 4 symlinks lead to this folder" in found.values()
    assert len(found) < 12 * 2 * 4
    assert len(storage.list_files(str(tmp_path / "d0"))) < 12 * 4


def test_a_glob_follows_links_too(tmp_path: Path) -> None:
    touch(tmp_path, "data/train/1.png", "data/train/2.jpg")
    (tmp_path / "set").mkdir()
    (tmp_path / "set/train").symlink_to("../data/train")
    assert ids(tmp_path / "set" / "**" / "*.png") == ["train/1.png"]


def test_the_images_behind_a_users_links_are_read_and_refused_ones_are_not(tmp_path: Path) -> None:
    touch(tmp_path, "blobs/1.png")
    (tmp_path / "set").mkdir()
    (tmp_path / "set/a.png").symlink_to("../blobs/1.png")
    spec = str(tmp_path / "set")
    roots = image_roots(spec)
    (ref,) = list_images(spec)
    assert read_allowed(ref.uri, roots, follow=follows_links(spec, True)) == b"blobs/1.png"
    with pytest.raises(ImageProblem, match="is a symlink that leaves the allowed folders"):
        read_allowed(ref.uri, roots, follow=follows_links(spec, False))
    touch(tmp_path, "set/m.parquet")
    assert not follows_links(f"{spec}/m.parquet", True)


def test_a_root_that_is_a_symlink_is_followed(tmp_path: Path) -> None:
    touch(tmp_path, "v2/a.png")
    (tmp_path / "v2/b.png").symlink_to(tmp_path / "v2/a.png")
    (tmp_path / "current").symlink_to("v2")
    assert problems(tmp_path / "current") == {"a.png": None, "b.png": None}

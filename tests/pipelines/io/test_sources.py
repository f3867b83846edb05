from __future__ import annotations

import inspect
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.images import ImageOptions, ImageProblem, decode
from segray.pipelines.io.sources import (
    ImageRef,
    LeftOut,
    escape_name,
    list_images,
    read_image,
)
from tests.faults.images import bad_files, write_bad_images
from tests.pipelines.io.listing import ids, touch


def reason(uri: str) -> str:
    with pytest.raises(ImageProblem) as caught:
        read_image(uri)
    assert caught.value.status == "error"
    return caught.value.reason


ODD_NAMES = [
    "plain.jpg",
    "a.jpg",
    "a.png",
    "SHOUT.JPG",
    "with space.png",
    "-rf.png",
    "\u732b\U0001f431.png",
    "e\u0301.png",
    "\u00e9.png",
    "n" * 251 + ".png",
    "100%.png",
    "my%20photo.png",
    "<script>.png",
    "back\\slash.png",
    "a[1].png",
    "sub/a.jpg",
    "sub-way/a.jpg",
    "sub.jpg",
]


def test_every_name_keeps_its_own_id_and_opens(tmp_path: Path) -> None:
    touch(tmp_path, *ODD_NAMES)
    refs = list(list_images(str(tmp_path)))
    assert [ref.image_id for ref in refs] == sorted(ODD_NAMES)
    for ref in refs:
        assert read_image(ref.uri) == ref.image_id.encode()
        assert ref.problem is None
        assert ref.size == len(ref.image_id.encode())
        assert ref.mtime == pytest.approx((tmp_path / ref.image_id).stat().st_mtime)


HOSTILE_NAMES = {
    "two\nlines.png": "two%0Alines.png",
    "two%0Alines.png": "two%250Alines.png",
    "two%250Alines.png": "two%25250Alines.png",
    "bell\x07.png": "bell%07.png",
    "next\u0085line.png": "next%C2%85line.png",
    "separator\u2028.png": "separator%E2%80%A8.png",
    "latin1 \udce9.png": "latin1 %E9.png",
    "latin1 %E9.png": "latin1 %25E9.png",
}


def test_names_that_break_lines_or_utf8_are_escaped_and_never_meet(tmp_path: Path) -> None:
    touch(tmp_path, *HOSTILE_NAMES)
    refs = list(list_images(str(tmp_path)))
    assert [ref.image_id for ref in refs] == sorted(HOSTILE_NAMES.values())
    back = {escaped: name for name, escaped in HOSTILE_NAMES.items()}
    for ref in refs:
        ref.uri.encode()
        assert read_image(ref.uri) == back[ref.image_id].encode("utf-8", "surrogateescape")


def test_escaping_is_one_to_one() -> None:
    alphabet = ["%", "2", "5", "0", "A", "\n", "\udce9", "E9"]
    names = {""}
    for _ in range(5):
        names |= {name + letter for name in names for letter in alphabet}
    assert len({escape_name(name) for name in names}) == len(names)


def test_order_is_that_of_the_ids_across_folders(tmp_path: Path) -> None:
    names = [
        "a/z.jpg",
        "a-b/c.jpg",
        "a.jpg",
        "a/b/c.jpg",
        "a/b.jpg",
        "a/b-c.jpg",
        "B.jpg",
        "ab.jpg",
        "a!/x.jpg",
    ]
    touch(tmp_path, *names)
    assert ids(tmp_path) == sorted(names)


def test_hidden_files_and_other_extensions_are_left_out(tmp_path: Path) -> None:
    touch(
        tmp_path, "a.jpg", ".b.jpg", ".hidden/c.jpg", "d/.e/f.jpg", "notes.txt", "g.jpg.part", "jpg", "h.JpEg"
    )
    assert ids(tmp_path) == ["a.jpg", "h.JpEg"]


def test_a_folder_deeper_than_the_recursion_limit(tmp_path: Path) -> None:
    name = "d/" * 150 + "leaf.png"
    touch(tmp_path, name)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 100)
    try:
        found = ids(tmp_path)
    finally:
        sys.setrecursionlimit(limit)
    assert found == [name]


def test_the_walk_reads_a_folder_only_when_it_gets_there(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "b/2.jpg")
    refs = list_images(str(tmp_path))
    assert [ref.image_id for ref in islice(refs, 1)] == ["a/1.jpg"]
    touch(tmp_path, "b/3.jpg")
    assert [ref.image_id for ref in refs] == ["b/2.jpg", "b/3.jpg"]


def test_other_endings_are_counted(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b.NEF", "sub/c.psd", "d.psd", "e", ".hidden.txt", "sub/.f/g.txt")
    left_out = LeftOut()
    assert len(list(list_images(str(tmp_path), left_out=left_out))) == 1
    assert str(left_out) == "4 files with other endings left out (.psd 2, .nef 1, none 1)"
    (tmp_path / "a.png").unlink()
    with pytest.raises(UserError, match=r"^images: no image in .*/sub \(1 file with other endings left out"):
        list_images(str(tmp_path / "sub"))


def test_endings_without_number_stay_few(tmp_path: Path) -> None:
    left_out = LeftOut()
    for number in range(1000):
        left_out.add(f"a.{number}")
    assert len(left_out) == 101
    assert str(left_out).startswith("1000 files with other endings left out (others 900, .0 1, ")


@contextmanager
def as_somebody_else(folder: Path) -> Iterator[None]:
    """Without root's power over permissions, where the tests run as root."""
    if os.geteuid() != 0:
        yield
        return
    os.chown(folder, 65534, 65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_unreadable_files_and_folders() -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        touch(root, "a.png", "mine-too/b.png", "z.png")
        with as_somebody_else(root):
            for folder in ("mine", "mine.jpg"):
                (root / folder).mkdir()
                (root / folder).chmod(0)
            (root / "mine.png").touch()
            (root / "mine.png").chmod(0)
            refs = {ref.image_id: ref for ref in list_images(name)}
            assert list(refs) == ["a.png", "mine", "mine-too/b.png", "mine.jpg", "mine.png", "z.png"]
            assert refs["mine"].problem == "folder cannot be read (Permission denied)"
            assert refs["mine.jpg"].problem == "folder cannot be read (Permission denied)"
            assert reason(refs["mine.png"].uri) == "cannot be read (Permission denied)"
            with pytest.raises(UserError, match=r"mine cannot be read \(Permission denied\)$"):
                list_images(str(root / "mine"))
            for folder in ("mine", "mine.jpg"):
                (root / folder).chmod(0o700)


def test_reading_what_is_no_picture(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "ring.png").symlink_to("ring.png")
    with (tmp_path / "vast.png").open("wb") as file:
        file.truncate(3 << 30)
    assert reason(str(tmp_path / "gone.png")) == "missing"
    assert reason(str(tmp_path / "a.png" / "b.png")) == "missing"
    assert reason(str(tmp_path / "pipe.png")) == "not a regular file"
    assert reason(str(tmp_path)) in {"a folder, not an image", "not a regular file"}
    assert reason(str(tmp_path / "ring.png")) == "symlink loop"
    assert reason(str(tmp_path / "vast.png")) == "too large (3072 MiB > limit 1024 MiB)"
    assert reason("nonsense://bucket/a.png").startswith(
        "cannot be read (nonsense://bucket/a.png: unknown scheme"
    )


def test_a_file_that_goes_between_listing_and_reading(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b.png")
    refs = list(list_images(str(tmp_path)))
    (tmp_path / "b.png").unlink()
    assert read_image(refs[0].uri) == b"a.png"
    assert reason(refs[1].uri) == "missing"


GLOBS = {
    "*.jpg": ["a.jpg"],
    "*/*.jpg": ["x/b.jpg", "y/c.jpg"],
    "**/*.jpg": ["a.jpg", "x/b.jpg", "x/z/d.jpg", "y/c.jpg"],
    "**": ["a.jpg", "a.png", "x/b.jpg", "x/z/d.jpg", "y/c.jpg"],
    "x/**": ["b.jpg", "z/d.jpg"],
    "x/**/d.*": ["z/d.jpg"],
    "[xy]/?.jpg": ["x/b.jpg", "y/c.jpg"],
    "**/z/*": ["x/z/d.jpg"],
    "a.jpg": ["a.jpg"],
    "x/z": ["d.jpg"],
}


@pytest.mark.parametrize("pattern", GLOBS)
def test_globs_count_from_the_longest_plain_folder(tmp_path: Path, pattern: str) -> None:
    touch(tmp_path, "a.jpg", "a.png", "x/b.jpg", "x/z/d.jpg", "y/c.jpg", "notes.txt")
    assert ids(tmp_path / pattern) == GLOBS[pattern]


def test_a_folder_whose_name_looks_like_a_glob(tmp_path: Path) -> None:
    touch(tmp_path, "set[1]/a.jpg", "set1/b.jpg")
    assert ids(tmp_path / "set[1]") == ["a.jpg"]
    assert ids(f"{tmp_path}/set[1]/") == ["a.jpg"]


def test_file_uris_and_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "pic tures/a.jpg")
    assert ids((tmp_path / "pic tures").as_uri()) == ["a.jpg"]
    monkeypatch.chdir(tmp_path)
    (ref,) = list_images("./pic tures")
    assert ref.uri == str(tmp_path / "pic tures" / "a.jpg")


def test_a_single_file_may_have_any_name(tmp_path: Path) -> None:
    touch(tmp_path, "picture")
    assert ids(tmp_path / "picture") == ["picture"]


@pytest.mark.parametrize("pattern", ["", "*.jpg", "sub/*"])
def test_nothing_to_do_is_an_error_at_once(tmp_path: Path, pattern: str) -> None:
    touch(tmp_path, "notes.txt", "sub/.hidden.jpg")
    with pytest.raises(UserError, match=r"^images: no image in .*; extensions looked for: \.jpg ") as caught:
        list_images(str(tmp_path / pattern))
    assert caught.value.exit_code == 2


def test_no_such_path(tmp_path: Path) -> None:
    touch(tmp_path, "file.txt")
    with pytest.raises(UserError, match=r"^images: no such path: .*/nowhere$"):
        list_images(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"^images: no such path: .*/nowhere$"):
        list_images(str(tmp_path / "nowhere" / "*.jpg"))
    with pytest.raises(UserError, match=r"^images: not a folder: .*/file.txt$"):
        list_images(str(tmp_path / "file.txt" / "*.jpg"))


def test_an_object_store_lists_like_a_folder(tmp_path: Path) -> None:
    """The `memory://` of fsspec stands for any store."""
    import fsspec

    store = fsspec.filesystem("memory")
    names = [
        "a/z.jpg",
        "a-b/c.jpg",
        "a.jpg",
        "two\nlines.png",
        "what?.png",
        "100%.png",
        ".hidden/x.jpg",
        "x.txt",
    ]
    for name in names:
        store.pipe_file(f"/bucket/set/{name}", name.encode())
    try:
        refs = list(list_images("memory://bucket/set/"))
        expected = {name: name for name in names[:6]} | {"two%0Alines.png": "two\nlines.png"}
        del expected["two\nlines.png"]
        assert [ref.image_id for ref in refs] == sorted(expected)
        for ref in refs:
            assert read_image(ref.uri) == expected[ref.image_id].encode()
            assert ref.size == len(expected[ref.image_id])
        assert ids("memory://bucket/set/*.jpg") == ["a.jpg"]
        assert ids("memory://bucket/set/a*/*.jpg") == ["a-b/c.jpg", "a/z.jpg"]
        assert ids("memory://bucket/set/a.jpg") == ["a.jpg"]
        assert reason("memory://bucket/set/gone.jpg") == "missing"
        with pytest.raises(UserError, match=r"^images: no such path: memory://bucket/none$"):
            list_images("memory://bucket/none")
        with pytest.raises(UserError, match=r"^images: no image in memory://bucket/set/\*\.gif;"):
            list_images("memory://bucket/set/*.gif")
    finally:
        store.rm("/bucket", recursive=True)


def test_every_bad_picture_is_listed_and_meets_its_end(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    expected = write_bad_images(folder)
    found = {ref.image_id: outcome(ref) for ref in list_images(str(folder))}
    assert set(found) == set(expected)
    for image_id, (status, start) in expected.items():
        assert found[image_id][0] == status, image_id
        assert found[image_id][1].startswith(start), image_id
    assert {name for name in found if found[name][0] == "error"} >= {
        name for name, bad in bad_files().items() if bad[1] == "error"
    }


def outcome(ref: ImageRef) -> tuple[str, str]:
    if ref.problem:
        return "skipped", ref.problem
    try:
        decode(read_image(ref.uri), ImageOptions())
    except ImageProblem as problem:
        return problem.status, problem.reason
    return "ok", ""


class Failing(MemoryFileSystem):
    """A store whose listings fail one after another with these errors; None: that one does not."""

    protocol = "failing"
    cachable = False
    errors: list[OSError | None] = []  # noqa: RUF012  of the class, as its files are

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        error = Failing.errors.pop(0) if Failing.errors else None
        if error is not None:
            raise error
        return super().ls(path, detail=detail, **options)


fsspec.register_implementation("failing", Failing, clobber=True)


def test_a_folder_whose_listing_fails_is_listed_again_or_named_but_never_taken_for_empty() -> None:
    for name in ("a.png", "b/c.png"):
        storage.write_atomic(f"failing://set/{name}", b"")
    try:
        for errors in ([OSError("503 Slow Down")], [None, OSError("503 Slow Down")]):
            Failing.errors = [*errors]
            assert ids("failing://set") == ["a.png", "b/c.png"]
        Failing.errors = [None, PermissionError("Access Denied")]
        with pytest.raises(UserError, match=r"^images: failing://set cannot be read \(Access Denied\)$"):
            list_images("failing://set")
    finally:
        storage.delete_tree("failing://set")

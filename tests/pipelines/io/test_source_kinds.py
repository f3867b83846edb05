"""Lists, Parquet files with a column of images, and several sources at a time."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

from segray.pipelines.errors import UserError
from segray.pipelines.io.sources import (
    Spec,
    list_images,
    read_allowed,
    sources_of,
)
from tests.pipelines.io.containers import (
    IMAGES,
    opened,
    refusal,
    write_files,
    write_table,
    write_tar,
    write_zip,
)

# Lists


def test_a_text_list_of_paths(tmp_path: Path) -> None:
    files = write_files(
        tmp_path / "set", {"a/1.png": b"1", "b c.jpg": b"2", "no ending": b"3", "d.png": b"no"}
    )
    (files / "list.txt").write_text(f"a/1.png\n\n./b c.jpg\r\n{files}/no ending\nmissing.png\n")
    assert opened(str(files / "list.txt")) == {
        "a/1.png": b"1",
        "b c.jpg": b"2",
        "missing.png": "missing",
        "no ending": b"3",
    }


@pytest.mark.parametrize("column", ["image", "Path", "filename"])
def test_a_csv_list_with_ids(tmp_path: Path, column: str) -> None:
    files = write_files(tmp_path, {"1.png": b"1", "2.png": b"2"})
    (files / "list.csv").write_text(f'image_id,{column},label\nx/one,1.png,cat\n,"2.png",dog\n')
    assert opened(str(files / "list.csv")) == {"2.png": b"2", "x/one": b"1"}


def test_a_list_may_not_leave_its_folder_without_the_key(tmp_path: Path) -> None:
    write_files(tmp_path / "photos", {"a/1.png": b"1"})
    (tmp_path / "lists").mkdir()
    path = tmp_path / "lists" / "list.txt"
    for line in (f"{tmp_path}/photos/a/1.png", "../photos/a/1.png"):
        path.write_text(f"\n{line}\n")
        text = refusal(str(path))
        assert text.startswith(
            f"images: {path}, line 2: {tmp_path}/photos/a/1.png is not below an allowed folder"
        )
        assert text.endswith("others with image.roots=FOLDER,...")
        assert opened(str(path), [f"{tmp_path}/photos"]) == {"a/1.png": b"1"}


def test_a_link_beside_a_list_does_not_lead_out(tmp_path: Path) -> None:
    write_files(tmp_path, {"secret": b"secret", "set/list.txt": b"a.png\n"})
    (tmp_path / "set" / "a.png").symlink_to(tmp_path / "secret")
    assert "is a symlink that leaves" in str(opened(f"{tmp_path}/set/list.txt")["a.png"])


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("https://elsewhere.example/1.png", "has the scheme https://"),
        ("s3://elsewhere/1.png", "is not below an allowed folder"),
        ("zip://a.png::s3://b/c.zip", "is a chain of file systems"),
        ("file://host/x.png", "is a file:// URI with a host"),
    ],
)
def test_a_list_chooses_no_host(tmp_path: Path, line: str, why: str) -> None:
    (tmp_path / "list.txt").write_text(f"{line}\n")
    text = refusal(str(tmp_path / "list.txt"))
    assert text.startswith(f"images: {tmp_path}/list.txt, line 1: ")
    assert why in text


def test_a_list_of_a_host_that_the_user_named(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("https://images.example/set/a/1.png\n")
    refs = list(list_images(str(tmp_path / "list.txt"), ["https://images.example/set"]))
    assert [(ref.image_id, ref.uri) for ref in refs] == [("a/1.png", "https://images.example/set/a/1.png")]
    (tmp_path / "list.txt").write_text("https://images.example/other/1.png\n")
    assert "is not below an allowed folder" in refusal(
        str(tmp_path / "list.txt"), ["https://images.example/set"]
    )


def test_lists_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(b"\xff\xfe\x00")
    assert "cannot be read as UTF-8 text" in refusal(str(path))
    path.write_text("a" * 9000)
    assert "a line has more than 8192 characters" in refusal(str(path))
    path.write_text("a.png\n./a.png\n")
    assert (
        refusal(str(path)) == f"images: {path}, line 2: image_id 'a.png' is listed twice; each must be unique"
    )
    path.write_text("\n")
    assert refusal(str(path)).startswith(f"images: no image in {path}")
    table = tmp_path / "list.csv"
    table.write_text("name,label\n1.png,cat\n")
    assert "has no column of images (it has name, label; allowed: image, uri, path," in refusal(str(table))
    table.write_text("image_id,image\n../x,1.png\n")
    assert "image_id '../x' is refused" in refusal(str(table))


# Parquet


def structs(files: Mapping[str, bytes]) -> list[dict[str, Any]]:
    return [{"bytes": data, "path": path} for path, data in files.items()]


def test_hugging_face_structs_have_their_paths_as_ids(tmp_path: Path) -> None:
    spec = write_table(
        tmp_path / "train.parquet", {"image": structs(IMAGES), "label": [1, 2, 3]}, row_group_size=2
    )
    assert opened(spec) == IMAGES


@pytest.mark.parametrize(
    "columns",
    [
        {"jpg": [b"x", b"y", b"z"]},
        {"image": [{"bytes": b, "path": None} for b in (b"x", b"y", b"z")]},
        {"image": [{"bytes": b, "path": "image.png"} for b in (b"x", b"y", b"z")]},
        {"image": [{"bytes": b} for b in (b"x", b"y", b"z")]},
    ],
)
def test_rows_without_a_path_of_their_own_are_numbered(tmp_path: Path, columns: Mapping[str, Any]) -> None:
    spec = write_table(tmp_path / "train-0.parquet", columns, row_group_size=2)
    assert opened(spec) == {"train-0/000000": b"x", "train-0/000001": b"y", "train-0/000002": b"z"}


def test_a_column_of_ids_counts_first(tmp_path: Path) -> None:
    columns = {"image_id": ["x", "y/z", "w"], "image": structs(IMAGES)}
    assert list(opened(write_table(tmp_path / "t.parquet", columns))) == ["w", "x", "y/z"]


def test_a_row_names_no_file(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(b"not this")
    rows = [{"bytes": None, "path": f"{tmp_path}/1.png"[1:]}, {"bytes": b"b", "path": "b.png"}, None]
    found = opened(write_table(tmp_path / "t.parquet", {"image": rows}))
    assert sorted(map(str, found.values())) == sorted(
        [str(b"b"), "no image in this row", "no image in this row"]
    )


HUGGING_FACE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
NAMES_ALONE = pa.array([{"path": "/photos/1.png"}, None], HUGGING_FACE)


@pytest.mark.parametrize(
    "column",
    [
        NAMES_ALONE,
        pa.array([{"bytes": None, "path": None}, {"bytes": None, "path": "/photos/1.png"}]),
        pa.array([{"path": "/photos/1.png"}, {"path": "/photos/2.png"}]),
    ],
    ids=["of Hugging Face", "of no type", "without a field for bytes"],
)
def test_a_column_of_names_alone_is_told_what_opens_them(tmp_path: Path, column: pa.Array) -> None:
    spec = write_table(tmp_path / "t.parquet", {"image": column, "mask": [b"x", b"y"]}, row_group_size=1)
    assert refusal(spec) == (
        f"images: {spec}: column image has no bytes, only names of files (such as /photos/1.png), which a "
        "table does not open; a .txt or .csv list of them does, below its own folder and "
        "image.roots=FOLDER,..."
    )


def test_a_column_of_names_of_masks_is_told_the_same(tmp_path: Path) -> None:
    spec = write_table(tmp_path / "t.parquet", {"image": [b"x", b"y"], "mask": NAMES_ALONE})
    with pytest.raises(UserError, match=r"column mask has no bytes, only names of files"):
        list_images(spec, mask_column="mask")


@pytest.mark.parametrize("name", ["source", "image"])
def test_a_column_of_names_is_no_candidate_beside_one_of_bytes(tmp_path: Path, name: str) -> None:
    columns = {"front": [b"x"], name: [{"path": "/photos/1.png"}]}
    assert opened(write_table(tmp_path / "t.parquet", columns)) == {"t/000000": b"x"}


@pytest.mark.parametrize("path", ["../x.png", "/etc/x.png"])
def test_a_path_that_leads_out_is_refused(tmp_path: Path, path: str) -> None:
    spec = write_table(tmp_path / "t.parquet", {"image": structs({path: b"x"})})
    text = refusal(spec)
    assert f"image_id '{path}' is refused" in text
    assert text.endswith("; a text column image_id gives other ids")


def test_a_table_without_an_image_column_is_refused(tmp_path: Path) -> None:
    spec = write_table(tmp_path / "two.parquet", {"front": [b"x"], "back": [b"y"]})
    assert refusal(spec) == (
        f"images: {spec}: no column named image, and several columns that may be (front, back); "
        "image.column=NAME chooses one"
    )
    none = write_table(tmp_path / "none.parquet", {"text": ["x"]})
    assert refusal(none).endswith(" (a .txt or .csv list of paths needs no image_id)")


def test_the_column_can_be_chosen(tmp_path: Path) -> None:
    columns = {"front": [b"x"], "back": structs({"b.png": b"y"}), "image": [b"z"], "text": ["t"]}
    spec = write_table(tmp_path / "two.parquet", columns)
    found = {"front": ("two/000000", b"x"), "back": ("b.png", b"y"), None: ("two/000000", b"z")}
    for column, image in found.items():
        (ref,) = list_images(spec, column=column)
        assert (ref.image_id, read_allowed(ref.uri, (str(tmp_path),), follow=True)) == image
    for wrong, message in (
        ("side", "image.column=side is not there (it has front, back, image)"),
        ("text", "image.column=text is no images: bytes, or a struct of bytes and path (it has front, "),
    ):
        with pytest.raises(UserError) as caught:
            list_images(spec, column=wrong)
        assert message in str(caught.value)
    with pytest.raises(UserError, match=r"image\.column=front: only Parquet files have columns"):
        list_images(str(tmp_path), column="front")


def test_several_tables_are_as_many_sources(tmp_path: Path) -> None:
    for n in range(2):
        write_table(tmp_path / "data" / f"train-{n}.parquet", {"image": [b"%d" % n]})
    assert opened(f"{tmp_path}/**/*.parquet") == {"train-0/000000": b"0", "train-1/000000": b"1"}


def test_a_bomb_in_a_table_is_an_error_row(tmp_path: Path) -> None:
    columns = {"image": [bytes(40 << 20) + b"%d" % n for n in range(2)]}
    found = opened(write_table(tmp_path / "t.parquet", columns, compression="zstd", use_dictionary=False))
    assert all(str(reason).startswith("its group of rows unpacks from ") for reason in found.values())


def test_a_damaged_table_is_refused_or_gives_error_rows(tmp_path: Path) -> None:
    path = Path(
        write_table(
            tmp_path / "t.parquet", {"image": [os.urandom(3000), os.urandom(3000)]}, compression="none"
        )
    )
    whole = path.read_bytes()
    list(list_images(str(path)))
    path.write_bytes(whole[:3000])
    assert "unreadable" in refusal(str(path))


def test_images_of_the_hub_are_read_where_the_user_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_table(tmp_path / "datasets" / "me" / "set" / "data" / "train-0.parquet", {"image": structs(IMAGES)})

    class Hub(DirFileSystem):
        """The hub's file system, on a folder of this machine."""

        protocol = "hf"

        def __init__(self, **options: Any) -> None:
            super().__init__(path=str(tmp_path), fs=LocalFileSystem())

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return str(path).removeprefix("hf://")

    monkeypatch.setitem(sys.modules["fsspec.registry"]._registry, "hf", Hub)
    assert opened("hf://datasets/me/set/data/train-0.parquet") == IMAGES
    assert opened("hf://datasets/me/set/**/*.parquet") == IMAGES
    # The rows of a file of someone else do not.
    (tmp_path / "list.txt").write_text("hf://datasets/me/set/data/train-0.parquet\n")
    assert "has the scheme hf://" in refusal(str(tmp_path / "list.txt"))


# Several at a time


def specs(tmp_path: Path) -> tuple[str, ...]:
    folder = write_files(tmp_path / "folder", {"f/1.png": b"f"})
    return (
        str(folder),
        write_tar(tmp_path / "x.tar", {"t.png": b"t"}),
        write_zip(tmp_path / "x.zip", {"z.png": b"z"}),
        write_table(tmp_path / "t.parquet", {"image": structs({"p.png": b"p"})}),
    )


@pytest.mark.parametrize("as_text", [True, False])
def test_images_of_several_sources(tmp_path: Path, as_text: bool) -> None:
    sources = specs(tmp_path)
    spec: Spec = " , ".join(sources) if as_text else sources
    assert opened(spec) == {"f/1.png": b"f", "p.png": b"p", "t.png": b"t", "z.png": b"z"}


def test_two_sources_with_one_id_are_refused(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "folder", {"t.png": b"f"})
    spec = (str(folder), write_tar(tmp_path / "x.tar", {"t.png": b"t"}))
    assert refusal(spec) == (
        f"images: image_id 't.png' is in {folder} and in {tmp_path}/x.tar; each must be unique"
    )


def test_a_folder_with_a_comma_in_its_name_is_one_source(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "spring, summer", {"1.png": b"1"})
    assert opened(str(folder)) == opened(f"{folder}/*.png") == {"1.png": b"1"}
    assert sources_of(f"{folder}") == (str(folder),)
    assert sources_of("nosuch/a,nosuch/b") == ("nosuch/a", "nosuch/b")


def test_a_source_that_is_missing_is_named(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "folder", {"t.png": b"f"})
    assert refusal((str(folder), f"{tmp_path}/nosuch.zip")) == f"images: no such path: {tmp_path}/nosuch.zip"


def unique(values: Iterable[str]) -> bool:
    found = list(values)
    return len(found) == len(set(found))


def test_every_image_has_a_uri_of_its_own(tmp_path: Path) -> None:
    assert unique(ref.uri for ref in list_images(specs(tmp_path)))

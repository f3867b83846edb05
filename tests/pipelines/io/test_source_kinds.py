"""Archives, lists, Parquet files with a column of images, and several sources at a time."""

from __future__ import annotations

import io
import os
import sys
import tarfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

from segray.pipelines.errors import UserError
from segray.pipelines.io.images import ImageProblem
from segray.pipelines.io.manifest import read_manifest, write_manifest
from segray.pipelines.io.members import member_uri
from segray.pipelines.io.sources import (
    LeftOut,
    Spec,
    follows_links,
    image_roots,
    list_images,
    read_allowed,
    sources_of,
)

IMAGES = {"b/2.jpg": b"two", "a/1.png": b"one", "a/ü 3.PNG": b"three" * 400}


def write_tar(path: Path, files: Mapping[str, bytes], kind: int = tarfile.PAX_FORMAT, mode: str = "w") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode, format=kind) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return str(path)


def write_zip(path: Path, files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> str:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return str(path)


def write_table(path: Path, columns: Mapping[str, Any], **options: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(dict(columns)), path, **options)
    return str(path)


def write_files(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def opened(spec: Spec, also: Sequence[str] = ()) -> dict[str, bytes | str]:
    """By id the bytes of each image as a worker reads them, or the reason why there are none."""
    roots, follow = image_roots(spec, also), follows_links(spec, True)
    found: dict[str, bytes | str] = {}
    for ref in list_images(spec, also):
        try:
            found[ref.image_id] = ref.problem or read_allowed(ref.uri, roots, follow=follow)
        except ImageProblem as problem:
            found[ref.image_id] = problem.reason
    assert list(found) == sorted(found)
    return found


def refusal(spec: Spec, also: Sequence[str] = ()) -> str:
    with pytest.raises(UserError) as caught:
        list(list_images(spec, also))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Archives

_LEADING_OUT = ["../x.png", "/etc/x.png", "a/../../x.png", "a//x.png", "C:\\x.png", "..\\x.png"]


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_a_tar_of_every_kind(tmp_path: Path, kind: int) -> None:
    deep = {f"{'d' * 80}/{'e' * 60}/1.png": b"deep"}
    long = {f"{'x' * 140}.png": b"long"} if kind != tarfile.USTAR_FORMAT else {}
    files = {**IMAGES, **deep, **long, "notes.txt": b"no", "./c.png": b"c", ".hidden.png": b"no"}
    left_out = LeftOut()
    spec = write_tar(tmp_path / "x.tar", files, kind)
    assert opened(spec) == {**IMAGES, **deep, **long, "c.png": b"c"}
    list(list_images(spec, left_out=left_out))
    assert str(left_out) == "1 file with other endings left out (.txt 1)"


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_stored_and_deflated(tmp_path: Path, method: int) -> None:
    files = {**IMAGES, "__MACOSX/a/._1.png": b"no", "a/notes.txt": b"no", "empty/": b""}
    assert opened(write_zip(tmp_path / "x.zip", files, method)) == IMAGES


def test_a_large_number_in_a_tar_header(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    write_tar(path, {"a.png": b"one"}, tarfile.GNU_FORMAT)
    data = bytearray(path.read_bytes())
    data[124:136] = b"\x80" + (3).to_bytes(11, "big")
    data[148:156] = b" " * 8
    data[148:156] = f"{sum(data[:512]):06o}\0 ".encode()
    path.write_bytes(data)
    assert opened(str(path)) == {"a.png": b"one"}


@pytest.mark.parametrize("write", [write_tar, write_zip])
@pytest.mark.parametrize("name", _LEADING_OUT)
def test_a_member_that_leads_out_of_its_archive_is_refused(tmp_path: Path, write: Any, name: str) -> None:
    spec = write(tmp_path / ("x.tar" if write is write_tar else "x.zip"), {"good.png": b"g", name: b"x"})
    text = refusal(spec)
    assert text.startswith(f"images: {spec}: ")
    assert "refused" in text or "leads out of the archive" in text


def test_links_and_devices_in_a_tar_are_rows_with_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        for name, kind in (
            ("s.png", tarfile.SYMTYPE),
            ("h.png", tarfile.LNKTYPE),
            ("p.png", tarfile.FIFOTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        archive.addfile(tarfile.TarInfo("empty.png"))
    link = "a link in an archive, not followed"
    fifo = "not a regular file in its archive"
    assert opened(str(path)) == {"empty.png": b"", "h.png": link, "p.png": fifo, "s.png": link}


def test_a_link_in_a_zip_is_a_row_with_a_reason(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("s.png")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    assert opened(str(tmp_path / "x.zip")) == {"s.png": "a link in an archive, not followed"}


def test_a_tar_that_is_cut_off_keeps_its_whole_images(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    write_tar(path, {"a.png": b"a" * 2000, "b.png": b"b" * 2000})
    path.write_bytes(path.read_bytes()[:4000])
    assert opened(str(path)) == {"a.png": b"a" * 2000, "b.png": "its archive is cut off"}


@pytest.mark.parametrize("ending", ["tar", "zip"])
@pytest.mark.parametrize("data", [b"", b"not an archive" * 100, os.urandom(3000)])
def test_something_else_with_an_archives_name_is_refused(tmp_path: Path, ending: str, data: bytes) -> None:
    path = tmp_path / f"x.{ending}"
    path.write_bytes(data)
    text = refusal(str(path))
    assert text.startswith(
        (f"images: {path}: damaged, or another kind of file", f"images: no image in {path}")
    )


def test_a_damaged_zip_member_is_an_error_row(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    write_zip(path, {"a.png": os.urandom(500), "b.png": b"good"}, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    assert opened(str(path)) == {
        "a.png": "damaged in its archive (size or checksum differ)",
        "b.png": b"good",
    }


def test_a_zip_bomb_is_refused_from_its_directory(tmp_path: Path) -> None:
    spec = write_zip(tmp_path / "x.zip", {"bomb.png": bytes(40 << 20), "good.png": b"g"})
    found = opened(spec)
    assert str(found["bomb.png"]).startswith("unpacks from ")
    assert found["good.png"] == b"g"


def test_a_zip_whose_directory_lies_is_not_unpacked_further(tmp_path: Path) -> None:
    spec = write_zip(tmp_path / "x.zip", {"bomb.png": bytes(4 << 20)})
    info = zipfile.ZipFile(spec).infolist()[0]
    uri = member_uri(spec, "zip", info.header_offset, info.compress_size, 10, info.CRC)
    with pytest.raises(ImageProblem, match="size or checksum differ"):
        read_allowed(uri, (spec,))


def test_an_unknown_method_and_encryption_are_rows_with_a_reason(tmp_path: Path) -> None:
    spec = write_zip(tmp_path / "x.zip", {"a.png": b"a" * 99}, zipfile.ZIP_LZMA)
    assert opened(spec) == {"a.png": "compressed by method 14 (allowed: stored, deflated)"}
    path = tmp_path / "y.zip"
    data = bytearray(Path(write_zip(path, {"a.png": b"a"}, zipfile.ZIP_STORED)).read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    assert opened(str(path)) == {"a.png": "encrypted in its archive"}


def test_a_name_that_an_archive_has_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    write_tar(path, {"a.png": b"1"})
    write_tar(path, {"a.png": b"2"}, mode="a")
    assert refusal(str(path)) == f"images: {path}: image_id 'a.png' is in it twice; each must be unique"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("x.tar.gz", "a compressed tar gives no access to single images"),
        ("x.tgz", "a compressed tar gives no access to single images"),
        ("x.7z", "an archive of this kind is not read"),
        ("x.mp4", "a video is not read"),
        ("x.tfrecord", "not read as images"),
        ("x.jsonl", "not read as a list"),
    ],
)
def test_what_is_not_read_is_named(tmp_path: Path, name: str, why: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    text = refusal(str(tmp_path / name))
    assert text.startswith(f"images: {tmp_path / name}: {why}")
    assert text.endswith("(allowed: a folder, a glob, an image, .txt, .csv, .tar, .zip, .parquet)")


def test_a_folder_of_shards_says_how_to_read_them(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", {"a.png": b"a"})
    assert refusal(str(tmp_path)).endswith(f"; images={tmp_path}/*.tar reads those")


@pytest.mark.parametrize("spec", ["shard-{000..002}.tar", "shard-*.tar", "shard-00[0-2].tar"])
def test_shards_are_as_many_sources(tmp_path: Path, spec: str) -> None:
    for n in range(3):
        write_tar(
            tmp_path / f"shard-{n:03}.tar", {f"{9 - n}.png": b"%d" % n, f"{n}.jpg": b"x", f"{n}.json": b"{}"}
        )
    found = opened(f"{tmp_path}/{spec}")
    assert list(found) == ["0.jpg", "1.jpg", "2.jpg", "7.png", "8.png", "9.png"]
    assert [found[f"{9 - n}.png"] for n in range(3)] == [b"0", b"1", b"2"]


def test_shards_with_one_id_are_refused(tmp_path: Path) -> None:
    for n in range(2):
        write_tar(tmp_path / f"{n}.tar", {"a.png": b"a"})
    assert refusal(f"{tmp_path}/*.tar") == (
        f"images: image_id 'a.png' is in {tmp_path}/0.tar and in {tmp_path}/1.tar; each must be unique"
    )


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write_tar(tmp_path / "s-0.tar", {"a.png": b"a"})
    assert refusal(f"{tmp_path}/s-{{0..1}}.tar") == f"images: no such path: {tmp_path}/s-1.tar"
    assert refusal(f"{tmp_path}/t-*.tar") == f"images: no file matches {tmp_path}/t-*.tar"
    assert "a range of 1 to 100000 files" in refusal(f"{tmp_path}/s-{{0..99999999}}.tar")


def test_an_archive_that_was_written_again_has_changed_images(tmp_path: Path) -> None:
    spec = write_tar(tmp_path / "x.tar", {"a.png": b"a"})
    before = next(list_images(spec))
    os.utime(spec, (1, 1))
    assert next(list_images(spec)).mtime == 1.0 != before.mtime


def test_a_part_of_a_file_that_the_user_did_not_name_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "link.tar").symlink_to(tmp_path / "secret")
    for name in ("secret", "open/link.tar", "open/../secret"):
        with pytest.raises(ImageProblem) as caught:
            read_allowed(member_uri(f"{tmp_path}/{name}", "tar", 0, 6), (f"{tmp_path}/open",))
        assert caught.value.status == "skipped"


def test_a_manifest_may_name_parts_of_files_below_its_folder(tmp_path: Path) -> None:
    spec = write_tar(tmp_path / "set" / "x.tar", IMAGES)
    manifest = str(tmp_path / "set" / "m.parquet")
    write_manifest(list_images(spec), manifest)
    assert opened(manifest) == IMAGES
    elsewhere = str(tmp_path / "m.parquet")
    (tmp_path / "other").mkdir()
    write_manifest(read_manifest(manifest), str(tmp_path / "other" / "m.parquet"))
    assert "is not below an allowed folder" in refusal(str(tmp_path / "other" / "m.parquet"))
    assert not Path(elsewhere).exists()


def test_an_empty_shard_is_no_failure(tmp_path: Path) -> None:
    write_zip(tmp_path / "0.zip", {})
    write_tar(tmp_path / "1.tar", {})
    write_zip(tmp_path / "2.zip", {"a.png": b"a"})
    assert opened(f"{tmp_path}/*.zip,{tmp_path}/1.tar") == {"a.png": b"a"}
    assert refusal(f"{tmp_path}/0.zip").startswith(f"images: no image in {tmp_path}/0.zip")


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


@pytest.mark.parametrize("path", ["../x.png", "/etc/x.png"])
def test_a_path_that_leads_out_is_refused(tmp_path: Path, path: str) -> None:
    spec = write_table(tmp_path / "t.parquet", {"image": structs({path: b"x"})})
    assert f"image_id '{path}' is refused" in refusal(spec)


def test_a_table_without_an_image_column_is_refused(tmp_path: Path) -> None:
    spec = write_table(tmp_path / "two.parquet", {"front": [b"x"], "back": [b"y"]})
    assert refusal(spec) == (
        f"images: {spec}: no column named image, and several columns that may be (front, back); "
        "name the column image"
    )
    none = write_table(tmp_path / "none.parquet", {"text": ["x"]})
    assert "no column image_id and uri" in refusal(none)


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

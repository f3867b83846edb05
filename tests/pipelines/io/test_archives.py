"""Tar and zip archives as sources."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from segray.pipelines.io.images import ImageProblem
from segray.pipelines.io.manifest import read_manifest, write_manifest
from segray.pipelines.io.members import member_uri
from segray.pipelines.io.sources import (
    LeftOut,
    list_images,
    read_allowed,
)
from tests.pipelines.io.containers import (
    IMAGES,
    opened,
    refusal,
    write_tar,
    write_zip,
)

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


def _with_size(path: Path, size: bytes, files: Mapping[str, bytes]) -> str:
    """A tar archive whose first header has another size."""
    write_tar(path, files, tarfile.GNU_FORMAT)
    data = bytearray(path.read_bytes())
    data[124:136] = size
    data[148:156] = b" " * 8
    data[148:156] = f"{sum(data[:512]):06o}\0 ".encode()
    path.write_bytes(data)
    return str(path)


def test_a_large_number_in_a_tar_header(tmp_path: Path) -> None:
    size = b"\x80" + (3).to_bytes(11, "big")
    assert opened(_with_size(tmp_path / "x.tar", size, {"a.png": b"one"})) == {"a.png": b"one"}


@pytest.mark.parametrize("name", ["a.png", "x" * 140 + ".png"], ids=["of an image", "of a name"])
def test_a_negative_size_does_not_lead_back_to_the_same_header(tmp_path: Path, name: str) -> None:
    spec = _with_size(tmp_path / "x.tar", b"-0000001000\0", {name: b"one"})
    assert "a size of -512 bytes" in refusal(spec)


def test_a_negative_size_in_a_pax_header_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("a.png")
        info.pax_headers = {"size": "-512"}
        archive.addfile(info)
    assert "a size of -512 bytes" in refusal(str(tmp_path / "x.tar"))


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
    link = "a link in an archive that leads to no file in it"
    fifo = "not a regular file in its archive"
    assert opened(str(path)) == {"empty.png": b"", "h.png": link, "p.png": fifo, "s.png": link}


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_a_compressed_tar_that_is_called_tar_is_named(
    tmp_path: Path, compress: Callable[[bytes], bytes]
) -> None:
    write_tar(tmp_path / "x.tar", IMAGES)
    (tmp_path / "x.tar").write_bytes(compress((tmp_path / "x.tar").read_bytes()))
    assert "a compressed tar; unpack it, or write a plain one" in refusal(str(tmp_path / "x.tar"))


def test_the_name_of_a_file_is_no_mark_of_a_compressed_tar(tmp_path: Path) -> None:
    write_tar(tmp_path / "x.tar", {"BZhang/1.png": b"one"})
    assert opened(str(tmp_path / "x.tar")) == {"BZhang/1.png": b"one"}


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_links_to_files_in_a_tar_are_followed(tmp_path: Path, kind: int) -> None:
    deep = "d" * 90
    links = {
        "a/s.png": (tarfile.SYMTYPE, "../store/1.png"),
        "a/h.png": (tarfile.LNKTYPE, "store/1.png"),
        "a/chain.png": (tarfile.SYMTYPE, "s.png"),
        "a/later.png": (tarfile.SYMTYPE, "./../z.png"),
        "a/out.png": (tarfile.SYMTYPE, "../../store/1.png"),
        "a/whole.png": (tarfile.SYMTYPE, "/store/1.png"),
        "a/folder.png": (tarfile.SYMTYPE, "../store"),
        "a/c1.png": (tarfile.SYMTYPE, "c2.png"),
        "a/c2.png": (tarfile.SYMTYPE, "c1.png"),
    }
    if kind != tarfile.USTAR_FORMAT:
        links["a/long.png"] = (tarfile.SYMTYPE, f"../store/{deep}/{deep}.png")
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=kind) as archive:
        for name, data in (("store/1.png", b"one"), (f"store/{deep}/{deep}.png", b"deep")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for name, (type_, target) in links.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = type_, target
            archive.addfile(info)
        info = tarfile.TarInfo("z.png")
        info.size = 1
        archive.addfile(info, io.BytesIO(b"z"))
    found = opened(str(path))
    expected = dict.fromkeys(links, "a link in an archive that leads to no file in it") | {
        **dict.fromkeys(("a/s.png", "a/h.png", "a/chain.png"), b"one"),
        "a/later.png": b"z",
        **({"a/long.png": b"deep"} if "a/long.png" in links else {}),
    }
    assert {name: found[name] for name in links} == expected


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

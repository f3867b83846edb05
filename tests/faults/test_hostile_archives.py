"""Archives whose directories and headers are made to harm."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest
from PIL import Image

from segray.pipelines.errors import UserError
from segray.pipelines.io.sources import list_images
from segray.pipelines.io.sources.trees import open_tree
from tests.faults.images import encode, scene


def _sharing(path: Path, count: int) -> None:
    """A zip whose members are all the same 32 MB of zeros."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = packer.compress(bytes(32 << 20)) + packer.flush()
    sizes = zlib.crc32(bytes(32 << 20)), len(body), 32 << 20
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 8, 0, 0, *sizes, 5, 0) + b"0.png" + body
    names = [b"%d.png" % i for i in range(count)]
    records = (
        struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 8, 0, 0, *sizes, len(name), *[0] * 6) + name
        for name in names
    )
    directory = b"".join(records)
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, len(directory), len(local), 0)
    path.write_bytes(local + directory + end)


def test_members_of_a_zip_that_share_bytes_are_refused(tmp_path: Path) -> None:
    """Each would be unpacked: 60 kB to two terabytes."""
    path = tmp_path / "a.zip"
    _sharing(path, 2)
    with zipfile.ZipFile(path) as archive:
        assert [info.file_size for info in archive.infolist()] == [32 << 20] * 2
    with pytest.raises(UserError, match=r"a\.zip: damaged, .*'0\.png' and '1\.png' share bytes"):
        list_images(str(path))
    _sharing(path, 1)
    assert [ref.image_id for ref in list_images(str(path))] == ["0.png"]


@pytest.mark.parametrize("count", [2, 3])
def test_texts_of_a_zip_that_together_unpack_to_far_more_than_it_holds_are_refused(
    tmp_path: Path, count: int
) -> None:
    """Each label file may have 8 MB: a zip of 100 kB took 1.6 GB."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(count):
            archive.writestr(f"labels/{i}.txt", b"0 .1 .2 " * (1 << 20))
    if count == 2:
        assert open_tree(str(path)).names("labels") == ["0.txt", "1.txt"]
        return
    with pytest.raises(UserError, match=r"a\.zip: texts unpack from \d{5} to 25165824 bytes"):
        open_tree(str(path))


@pytest.mark.parametrize("count", [10, 100])
def test_links_to_one_text_do_not_make_it_any_number_of_texts(tmp_path: Path, count: int) -> None:
    """512 bytes for each further file of the same megabyte."""
    path, link = tmp_path / "a.tar", tarfile.TarInfo()
    text, link.type, link.linkname = tarfile.TarInfo("labels/a.txt"), tarfile.SYMTYPE, "a.txt"
    text.size = 1 << 20
    with tarfile.open(path, "w") as archive:
        archive.addfile(text, io.BytesIO(bytes(text.size)))
        for i in range(count):
            link.name = f"labels/{i}.txt"
            archive.addfile(link)
    if count == 10:
        assert len(open_tree(str(path)).files("labels").uris) == 11
        return
    with pytest.raises(UserError, match=r"a\.tar: texts unpack from 1048576 to 105906176 bytes"):
        open_tree(str(path))


@pytest.mark.timeout(120)
def test_a_tar_header_of_many_records_is_read_once(tmp_path: Path) -> None:
    """Cut off one by one, the records of each megabyte took a quarter of a minute."""
    image = encode(Image.fromarray(scene()), "PNG")
    records = b"6 a=b\n" * 170_000
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, len(records)
    member = tarfile.TarInfo("a.png")
    member.size = len(image)
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
        for _ in range(20):
            archive.addfile(header, io.BytesIO(records))
        archive.addfile(member, io.BytesIO(image))
    (ref,) = list_images(str(tmp_path / "a.tar"))
    assert (ref.image_id, ref.size, ref.problem) == ("a.png", len(image), None)


BROKEN = (b"-6 a=b\n", b"0 a=b\n", b"2 a=b\n", b"99 a=b\n", b" 7 a=b\n", b"x", b"5 a=b\n")


@pytest.mark.parametrize("records", BROKEN)
def test_a_tar_header_with_records_of_another_length_is_refused(tmp_path: Path, records: bytes) -> None:
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, len(records)
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
        archive.addfile(header, io.BytesIO(records))
        archive.addfile(tarfile.TarInfo("a.png"))
    with pytest.raises(UserError, match=r"a\.tar: damaged"):
        list_images(str(tmp_path / "a.tar"))

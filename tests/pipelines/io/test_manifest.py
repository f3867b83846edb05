from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from segray.pipelines.errors import UserError
from segray.pipelines.io.sources import (
    ImageRef,
    check_image_id,
    list_images,
    read_image,
    read_manifest,
    write_manifest,
)

REFS = [
    ImageRef("a/1.jpg", "/data/a/1.jpg", 10, 1.5),
    ImageRef("a/2.jpg", "s3://bucket/a/2.jpg", 20, 2.5, mask_uri="s3://bucket/masks/2.png"),
    ImageRef("b\u00e9%0A.jpg", "/data/b\u00e9\n.jpg"),
    ImageRef("loop", "/data/loop", problem="symlink loop"),
]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = str(tmp_path / "out" / "manifest.parquet")
    assert write_manifest(REFS, path) == 4
    assert list(read_manifest(path)) == REFS
    assert [item.name for item in (tmp_path / "out").iterdir()] == ["manifest.parquet"]


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1]])
def test_images_of_a_manifest_come_in_order_whatever_its_own(tmp_path: Path, order: list[int]) -> None:
    refs = [replace(REFS[k], mask_uri=None) for k in order]
    columns = {name: [getattr(ref, name) for ref in refs] for name in ("image_id", "uri", "size", "mtime")}
    pq.write_table(pa.table(columns), tmp_path / "images.parquet")
    listed = list_images(str(tmp_path / "images.parquet"), ["/data", "s3://bucket"])
    assert list(listed) == [refs[order.index(k)] for k in range(3)]


def test_columns_are_those_of_the_design(tmp_path: Path) -> None:
    path = tmp_path / "manifest.parquet"
    write_manifest(REFS, str(path))
    table = pq.read_table(path)
    assert table.column_names[:2] == ["image_id", "uri"]
    assert table.column("mask_uri").null_count == 3


def test_many_rows_go_through_in_batches(tmp_path: Path) -> None:
    path = str(tmp_path / "manifest.parquet")
    refs = [ImageRef(f"{i:06d}.jpg", f"/data/{i:06d}.jpg", i) for i in range(20_500)]
    assert write_manifest(iter(refs), path) == 20_500
    assert list(read_manifest(path)) == refs


def test_a_failed_write_leaves_the_old_manifest(tmp_path: Path) -> None:
    path = str(tmp_path / "manifest.parquet")
    write_manifest(REFS, path)
    with pytest.raises(UserError, match=r"image_id 'a/1.jpg' is listed twice"):
        write_manifest([REFS[0], REFS[0]], path)
    with pytest.raises(ValueError, match="not sorted"):
        write_manifest([REFS[1], REFS[0]], path)
    assert list(read_manifest(path)) == REFS
    assert len(list(tmp_path.iterdir())) == 1


def test_vanished_images_stay_and_new_facts_win(tmp_path: Path) -> None:
    path = str(tmp_path / "manifest.parquet")
    write_manifest(REFS, path)
    changed = replace(REFS[1], size=99)
    new = ImageRef("a/3.jpg", "/data/a/3.jpg")
    assert write_manifest([changed, new], path, previous=path) == 5
    assert list(read_manifest(path)) == [REFS[0], changed, new, REFS[2], REFS[3]]


def test_a_vanished_image_is_found_missing(tmp_path: Path) -> None:
    images, path = tmp_path / "images", str(tmp_path / "manifest.parquet")
    images.mkdir()
    for name in ("a.png", "b.png"):
        (images / name).write_bytes(b"x")
    write_manifest(list_images(str(images)), path)
    (images / "a.png").unlink()
    write_manifest(list_images(str(images)), path, previous=path)
    first, second = read_manifest(path)
    assert (first.image_id, second.image_id) == ("a.png", "b.png")
    with pytest.raises(Exception, match="missing"):
        read_image(first.uri)


def test_no_previous_manifest_yet(tmp_path: Path) -> None:
    path = str(tmp_path / "manifest.parquet")
    assert write_manifest(REFS, path, previous=path) == 4


def foreign(path: Path, **columns: list[object]) -> str:
    pq.write_table(pa.table(columns), path)
    return str(path)


def test_a_hand_made_manifest_is_a_source(tmp_path: Path) -> None:
    (tmp_path / "pics").mkdir()
    (tmp_path / "pics" / "x.png").write_bytes(b"pixels")
    uris: list[object] = ["pics/x.png", "/abs/y.png", "s3://bucket/z.png"]
    spec = foreign(tmp_path / "mine.parquet", uri=uris, image_id=["z", "y", "x"], comment=["", "", ""])
    refs = list(list_images(spec, ["/abs", "s3://bucket"]))
    assert [ref.image_id for ref in refs] == ["x", "y", "z"]
    assert [ref.uri for ref in refs] == ["s3://bucket/z.png", "/abs/y.png", str(tmp_path / "pics" / "x.png")]
    assert read_image(refs[2].uri) == b"pixels"


@pytest.mark.parametrize(
    "image_id",
    ["../../x.png", "/etc/passwd", "a/../b.png", "a//b.png", "./a.png", "a/", "a\nb.png", "", "\x00"],
)
def test_unsafe_ids_are_refused(tmp_path: Path, image_id: str) -> None:
    spec = foreign(tmp_path / "m.parquet", image_id=[image_id], uri=["/data/x.png"])
    with pytest.raises(UserError, match=r"^manifest .*m\.parquet: image_id ") as caught:
        list_images(spec)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("image_id", ["a.png", "..a/b..png", "-rf", "a b/%0A\u00e9.png", "...", "a\\b"])
def test_odd_ids_that_stay_inside_are_fine(image_id: str) -> None:
    check_image_id(image_id, "here")


def test_broken_manifests_say_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    with pytest.raises(UserError, match=r"^images: no such path: .*m\.parquet$"):
        list_images(str(path))
    with pytest.raises(UserError, match=r"^manifest .*m\.parquet: no such file$"):
        list(read_manifest(str(path)))
    path.write_bytes(b"PAR1 but no more")
    with pytest.raises(UserError, match=r"^manifest .*: unreadable \("):
        list_images(str(path))
    with pytest.raises(UserError, match=r": no column uri; it has image_id$"):
        list_images(foreign(path, image_id=["a"]))
    with pytest.raises(UserError, match=r": uri None is not text"):
        list_images(foreign(path, image_id=["a"], uri=pa.array([None], pa.string())))
    with pytest.raises(UserError, match=r": image_id 7 is not text"):
        list_images(foreign(path, image_id=[7], uri=["x"]))
    with pytest.raises(UserError, match=r"image_id 'a' is in it twice"):
        list_images(foreign(path, image_id=["a", "a"], uri=["x", "y"]))


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    write_manifest([ImageRef(f"{i:04d}.jpg", f"/d/{i * 7919}.jpg") for i in range(500)], str(path))
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="unreadable"):
        list(read_manifest(str(path)))

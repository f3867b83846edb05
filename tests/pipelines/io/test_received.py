"""What rows of manifests may name: every way out of the user's folders that we know of."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from segray.pipelines.errors import UserError
from segray.pipelines.io.images import ImageProblem
from segray.pipelines.io.received import check_received_uri
from segray.pipelines.io.sources import image_roots, list_images, read_allowed, read_labelled

ROOTS = ("/data/photos", "s3://bucket/photos?region=eu-west-1", "gs://other")


@pytest.mark.parametrize(
    ("uri", "allowed"),
    [
        ("/data/photos/a.png", "/data/photos/a.png"),
        ("/data/photos/x/../a.png", "/data/photos/x/../a.png"),
        ("/data/photos/a::b?region=x.png", "/data/photos/a::b?region=x.png"),
        ("file:///data/photos/a%20b.png", "file:///data/photos/a%20b.png"),
        ("s3://bucket/photos/a.png", "s3://bucket/photos/a.png?region=eu-west-1"),
        ("S3A://bucket/photos/a.png", "S3A://bucket/photos/a.png?region=eu-west-1"),
        ("s3://bucket/photos/a.png?region=eu-west-1", "s3://bucket/photos/a.png?region=eu-west-1"),
        ("s3://bucket/photos/what?.png", "s3://bucket/photos/what?.png?region=eu-west-1"),
        ("gs://other/a..b.png", "gs://other/a..b.png"),
    ],
)
def test_files_below_the_roots_are_allowed_with_the_roots_options(uri: str, allowed: str) -> None:
    assert check_received_uri(uri, ROOTS) == allowed
    assert check_received_uri(allowed, ROOTS) == allowed


@pytest.mark.parametrize(
    "uri",
    [
        "reference://::file:///data/photos/evil.json",
        "REFERENCE://x::/data/photos/evil.json",
        "simplecache::s3://bucket/photos/a.png",
        "s3://bucket/photos/a.png::http://evil/",
        "zip://a.png::/data/photos/a.zip",
        "http://169.254.169.254/latest/meta-data",
        "HTTPS://evil/a.png",
        "memory://data/photos/a.png",
        "github://owner:repo@main/a.png",
        "data:image/png;base64,AAAA",
        "data://photos/a.png",
        "/proc/self/environ",
        "/proc/self/root/etc/passwd",
        "file:///etc/passwd",
        "FILE:///etc/passwd",
        "local:///etc/passwd",
        "file://host/data/photos/a.png",
        "file://~/.ssh/id_rsa",
        "file:///data/photos/%2e%2e/secret.png",
        "file:///data/photos/..%2fsecret.png",
        "file:///data/photos/a.png%00",
        "/data/photos/../secret.png",
        "/data/photos/x/../../secret.png",
        "/data/photos2/a.png",
        "/data/photos/\0.png",
        "/data/photos/\ud800.png",
        "s3://bucket/photos2/a.png",
        "s3://bucket/photos/../secret.png",
        "s3://bucket/photos/%2e%2e/secret.png",
        "s3://bucket/photos/%252E%252e/secret.png",
        "s3://bucket/photos/..%2Fsecret.png",
        "s3://bucket/photos/..\\secret.png",
        "s3://Bucket/photos/a.png",
        "s3://KEY:SECRET@bucket/photos/a.png",
        "s3://evil@bucket/photos/a.png",
        "s3://evil/photos/a.png",
        "s3a://evil/photos/a.png",
        "s3://bucket/photos/a.png?endpoint_override=evil&scheme=http",
        "s3://bucket/photos/a.png?region=eu-west-1&endpoint_override=evil",
        "s3://bucket/photos/a.png?anonymous=true",
        "gs://other/a.png?endpoint_override=evil",
        "gs://bucket/photos/a.png",
        "gcs://bucket/photos/a.png",
    ],
)
def test_everything_else_is_refused(uri: str) -> None:
    with pytest.raises(UserError, match=r"allowed: files below /data/photos, s3://") as caught:
        check_received_uri(uri, ROOTS)
    assert "others with image.roots=FOLDER" in str(caught.value)
    assert "SECRET" not in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("memory://data/photos/a.png", "has the scheme memory://"),
        ("file://photos/a.png", "is a file:// URI with a host"),
        ("s3://KEY:SECRET@bucket/photos/a.png", "holds credentials"),
    ],
)
def test_no_root_allows_what_is_refused_by_its_form(
    uri: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as the folder that a file:// URI without a third slash would count from."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=why):
        check_received_uri(uri, [str(tmp_path), "s3://KEY:SECRET@bucket", *ROOTS])


@pytest.mark.parametrize("uri", ["/proc/self/environ", "/sys/kernel/x", "/dev/sda", "file:///proc/1/mem"])
def test_no_broad_root_opens_the_state_of_the_machine(uri: str) -> None:
    with pytest.raises(UserError, match="not below an allowed folder"):
        check_received_uri(uri, ["/"])
    assert check_received_uri("/dev/shm/a.png", ["/"]) == "/dev/shm/a.png"


def test_a_root_that_is_a_link_is_the_folder_that_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for root, other in (("link", "real"), ("real", "link")):
        uri = str(tmp_path / other / "a.png")
        assert check_received_uri(uri, [str(tmp_path / root)]) == uri


def manifest(path: Path, uri: str, mask: str | None = None) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image_id": ["a.png"], "uri": [uri], "mask_uri": [mask]}), path)
    return str(path)


@pytest.mark.parametrize("uri", ["../secret.png", "x/../../secret.png", "~/secret.png/../../../secret.png"])
def test_relative_paths_stay_below_the_manifest(tmp_path: Path, uri: str) -> None:
    spec = manifest(tmp_path / "in" / "m.parquet", uri)
    with pytest.raises(UserError, match=r"^manifest .*m\.parquet: row 1 \(a\.png\): .* is not below"):
        list_images(spec)
    assert [ref.uri for ref in list_images(spec, [str(tmp_path)])] == [str(tmp_path / "secret.png")]


@pytest.mark.parametrize("mask", ["../m.png", "/etc/passwd", "http://evil/m.png", "s3://evil/m.png"])
def test_masks_of_rows_are_checked_too(tmp_path: Path, mask: str) -> None:
    spec = manifest(tmp_path / "in" / "m.parquet", "a.png", mask)
    with pytest.raises(UserError, match=r"row 1 \(a\.png\)"):
        list_images(spec)
    inside = manifest(tmp_path / "in" / "m.parquet", "a.png", "masks/m.png")
    assert [ref.mask_uri for ref in list_images(inside)] == [str(tmp_path / "in" / "masks" / "m.png")]


@pytest.mark.parametrize("linked", ["file", "folder"])
def test_a_link_out_of_the_root_is_not_read(tmp_path: Path, linked: str) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "a.png").write_bytes(b"secret")
    root = tmp_path / "in"
    root.mkdir()
    if linked == "file":
        (root / "a.png").symlink_to(tmp_path / "outside" / "a.png")
    else:
        (root / "sub").symlink_to(tmp_path / "outside")
    spec = manifest(root / "m.parquet", "a.png" if linked == "file" else "sub/a.png")
    (ref,) = list_images(spec)
    with pytest.raises(ImageProblem, match="symlink that leaves the allowed folders"):
        read_allowed(ref.uri, image_roots(spec))
    assert read_allowed(ref.uri, image_roots(spec, [str(tmp_path)])) == b"secret"


def test_a_worker_refuses_what_the_list_should_not_hold(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"pixels")
    assert read_allowed(str(tmp_path / "a.png"), [str(tmp_path)]) == b"pixels"
    with pytest.raises(ImageProblem, match="not below an allowed folder"):
        read_allowed("/etc/passwd", [str(tmp_path)])


@pytest.mark.parametrize(
    ("spec", "root"),
    [
        ("/data/photos", "/data/photos"),
        ("/data/photos/**/*.jpg", "/data/photos"),
        ("file:///data/a%20b", "/data/a b"),
        ("s3://bucket/photos/*/a.png?region=x", "s3://bucket/photos?region=x"),
        ("s3://bucket/list/m.parquet?region=x", "s3://bucket/list?region=x"),
        ("m.parquet", f"{Path.cwd()}/m.parquet"),
    ],
)
def test_the_root_of_a_source_is_what_the_user_named(spec: str, root: str) -> None:
    assert image_roots(spec, ["/data", "s3://more"]) == (root, "/data", "s3://more")


def test_a_label_sets_image_is_read_only_with_its_checksum_or_permission(tmp_path: Path) -> None:
    outside, home = tmp_path / "photos", str(tmp_path / "labels")
    outside.mkdir()
    (outside / "a.png").write_bytes(b"pixels")
    uri = str(outside / "a.png")
    checksum = hashlib.sha256(b"pixels").hexdigest()
    assert read_labelled(uri, checksum, home) == b"pixels"
    assert read_labelled(uri, None, home, [str(outside)]) == b"pixels"
    with pytest.raises(ImageProblem, match="has changed since it was labelled"):
        read_labelled(uri, checksum[::-1], home)
    for stranger in (uri, "/proc/self/environ", "http://evil/a.png", "s3://evil/a.png"):
        with pytest.raises(ImageProblem, match=r"not an image below the label set or image\.roots"):
            read_labelled(stranger, None, home)
    with pytest.raises(ImageProblem, match=r"not an image below the label set or image\.roots"):
        read_labelled("s3://evil/a.png", checksum, "s3://bucket/labels")
    (outside / "a.png").unlink()
    with pytest.raises(ImageProblem, match="missing"):
        read_labelled(uri, checksum, home)

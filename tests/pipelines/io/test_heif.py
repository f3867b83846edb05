"""HEIC images, and kinds that are known and not read."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from segray.pipelines.io import decoder_process, heif
from segray.pipelines.io.images import ImageOptions, ImageProblem, decode, decode_image
from segray.pipelines.io.sources import list_images
from segray.pipelines.training.data.mask_checks import image_shape
from tests.faults.images import encode, scene

SCENE = scene()


def heic(*images: Image.Image, exif: bytes = b"", **options: Any) -> bytes:
    """Lossless; an orientation in `exif` is written as the container has it."""
    file = pillow_heif.from_pillow(images[0])
    if exif:
        file[0].info["exif"] = exif
    for image in images[1:]:
        file.add_from_pillow(image)
    buffer = io.BytesIO()
    file.save(buffer, quality=-1, matrix_coefficients=0, chroma=444, **options)
    return buffer.getvalue()


PHOTO = heic(Image.fromarray(SCENE))


def problem(data: bytes, **options: Any) -> tuple[str, str]:
    with pytest.raises(ImageProblem) as caught:
        decode(data, ImageOptions(**options))
    return caught.value.status, caught.value.reason


def test_heic_is_read_in_the_process_that_is_watched() -> None:
    decoder_process.decoder._end()
    np.testing.assert_array_equal(decode(PHOTO, ImageOptions()), SCENE)
    assert decoder_process.decoder._process is not None
    assert problem(PHOTO, max_seconds=1e-4) == ("error", "took longer than 0.0001 s")


def test_an_orientation_is_applied_once() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.fromarray(np.ascontiguousarray(np.rot90(SCENE)))
    image = decode_image(heic(turned, exif=exif.tobytes()), ImageOptions())
    assert (image.height, image.width) == SCENE.shape[:2]
    np.testing.assert_array_equal(image.pixels, SCENE)


def test_transparency_and_several_images() -> None:
    clear = Image.fromarray(np.dstack([SCENE, np.full(SCENE.shape[:2], 255, np.uint8)]))
    clear.paste((0, 0, 0, 0), (0, 0, 8, 8))
    image = decode(heic(clear), ImageOptions(background_color=(1, 2, 3)))
    assert image[:8, :8].reshape(-1, 3).tolist() == [[1, 2, 3]] * 64
    two = heic(Image.fromarray(SCENE), Image.fromarray(255 - SCENE))
    assert problem(two) == ("skipped", "animated (2 frames)")
    np.testing.assert_array_equal(decode(two, ImageOptions(frames="first")), SCENE)


def test_limits_hold() -> None:
    assert problem(PHOTO, max_pixels=1000)[1].startswith("too large (0.003072 MP > limit 0.001 MP)")
    assert problem(PHOTO, min_size=100)[1] == "too small (64x48 px, min_size is 100)"
    assert heif.most_pixels(PHOTO) >= 64 * 48


@pytest.mark.parametrize("end", [20, 60, 200, -30])
def test_a_cut_file_is_one_bad_image(end: int) -> None:
    status, reason = problem(PHOTO[:end])
    assert status == "error"
    assert reason.startswith(("not an image (broken HEIF header)", "truncated", "cannot decode: "))
    assert problem(PHOTO[:end])[1] == reason


def test_without_the_extra_the_reason_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heif, "find_spec", lambda name: None)
    assert problem(PHOTO) == ("error", 'a HEIC image: pip install "segray[heif]" reads it')


def test_avif_is_told_from_heic() -> None:
    avif = encode(Image.fromarray(SCENE), "AVIF")
    generic = avif[:8] + b"mif1" + avif[12:]
    assert not heif.is_heif(generic)
    assert decode(generic, ImageOptions()).shape == SCENE.shape
    assert heif.is_heif(PHOTO)
    assert heif.is_heif(PHOTO[:8] + b"mif1" + PHOTO[12:])


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"\xff\x0a\xfa\x1f", "JPEG XL"),
        (struct.pack(">I", 12) + b"JXL \r\n\x87\n", "JPEG XL"),
        (b"8BPS\0\1", "Photoshop's PSD"),
        (b"%PDF-1.7\n", "PDF"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b"\x89HDF\r\n\x1a\n", "HDF5 or NetCDF"),
        (bytes(128) + b"DICM", "DICOM"),
    ],
)
def test_kinds_that_are_known_and_not_read_have_their_names(start: bytes, kind: str) -> None:
    assert problem(start + bytes(99)) == ("error", f"not an image that can be read ({kind})")


def test_the_size_of_any_image_is_known(tmp_path: Path) -> None:
    files = {"a.heic": PHOTO, "b.jxl": b"\xff\x0a" + bytes(9), "c.png": encode(Image.fromarray(SCENE), "PNG")}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    assert [ref.image_id for ref in list_images(str(tmp_path))] == list(files)
    assert image_shape(str(tmp_path / "a.heic")) == SCENE.shape[:2]
    assert image_shape(str(tmp_path / "c.png")) == SCENE.shape[:2]
    with pytest.raises(ImageProblem, match="JPEG XL"):
        image_shape(str(tmp_path / "b.jxl"))

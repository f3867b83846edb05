"""PNG chunks that pixels do not need: of any size, of any content, damaged."""

from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from segray.pipelines.io.images import ImageOptions, ImageProblem, decode
from segray.pipelines.io.png_chunks import SIGNATURE, for_pixels
from tests.faults.images import encode, png, png_chunk, scene

SCENE = scene()
PLAIN = encode(Image.fromarray(SCENE), "PNG")
BOMB = zlib.compress(bytes(4 << 20))
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="%d"/>%s</x:xmpmeta>'
KEYWORD = b"XML:com.adobe.xmp\0"
EXIF6 = b"\nexif\n      26\n" + (b"II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0").hex().encode()


def with_chunk(chunk: bytes, data: bytes = PLAIN, *, behind: bool = False) -> bytes:
    """The PNG with one more chunk before, or behind, its pixels."""
    place = len(data) - 12 if behind else 33
    return data[:place] + chunk + data[place:]


def damaged(chunk: bytes) -> bytes:
    return chunk[:-1] + bytes([chunk[-1] ^ 1])


CHUNKS = {
    "a long comment": png_chunk(b"zTXt", b"Comment\0\0" + BOMB),
    "a long text": png_chunk(b"iTXt", b"Raw\0\1\0\0\0" + BOMB),
    "long compressed XMP": png_chunk(b"iTXt", KEYWORD + b"\1\0\0\0" + BOMB),
    "an EXIF text that unpacks to more": png_chunk(b"zTXt", b"Raw profile type exif\0\0" + BOMB),
    "a long profile": png_chunk(b"iCCP", b"colours\0\0" + BOMB),
    "a damaged profile": damaged(png_chunk(b"iCCP", b"colours\0\0" + zlib.compress(b"mntr"))),
    "a damaged comment": damaged(png_chunk(b"tEXt", b"Comment\0hello")),
    "damaged XMP": damaged(png_chunk(b"iTXt", KEYWORD + b"\0\0\0\0" + XMP % (1, b""))),
    "a gamma of nothing": png_chunk(b"gAMA", b""),
    "a private chunk": png_chunk(b"prVt", bytes(9999)),
    "a thumbnail of Apple": png_chunk(b"iDOT", bytes(28)),
}


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("name", CHUNKS)
def test_pixels_do_not_need_other_chunks(name: str, behind: bool) -> None:
    data = with_chunk(CHUNKS[name], behind=behind)
    np.testing.assert_array_equal(decode(data, ImageOptions()), SCENE)
    assert for_pixels(data) == PLAIN


def test_nothing_is_copied_where_nothing_is_left_out() -> None:
    assert for_pixels(PLAIN) is PLAIN


TURNED = {
    "xmp": png_chunk(b"iTXt", KEYWORD + b"\0\0\0\0" + XMP % (6, b"")),
    "long xmp": png_chunk(b"iTXt", KEYWORD + b"\0\0\0\0" + XMP % (6, b"x" * (5 << 20))),
    "packed xmp": png_chunk(b"iTXt", KEYWORD + b"\1\0\0\0" + zlib.compress(XMP % (6, b""))),
    "exif text": png_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(EXIF6)),
}


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("name", TURNED)
def test_texts_that_turn_an_image_are_kept(name: str, behind: bool) -> None:
    turned = encode(Image.fromarray(np.ascontiguousarray(np.rot90(SCENE))), "PNG")
    data = with_chunk(TURNED[name], turned, behind=behind)
    np.testing.assert_array_equal(decode(data, ImageOptions()), SCENE)


def test_texts_together_have_a_limit() -> None:
    data = PLAIN
    for _ in range(4):
        data = with_chunk(TURNED["long xmp"], data)
    assert len(for_pixels(data)) == len(PLAIN) + 3 * len(TURNED["long xmp"])


def test_transparency_and_animations_are_kept() -> None:
    image = Image.new("RGB", (16, 16), (9, 9, 9))
    clear = encode(image, "PNG", transparency=(9, 9, 9))
    with pytest.raises(ImageProblem, match="next to nothing"):
        decode(clear, ImageOptions())
    other = Image.fromarray(255 - SCENE)
    frames = encode(Image.fromarray(SCENE), "PNG", save_all=True, append_images=[other])
    data = with_chunk(CHUNKS["a long comment"], frames)
    with pytest.raises(ImageProblem, match=r"animated \(2 frames\)"):
        decode(data, ImageOptions())
    np.testing.assert_array_equal(decode(data, ImageOptions(frames="first")), SCENE)


@pytest.mark.parametrize("kept", [0, 1, 30, 47])
def test_rows_that_are_missing_are_no_black_rows(kept: int) -> None:
    rows = [b"\0" + row.tobytes() for row in SCENE]
    data = png(SCENE.shape[1], SCENE.shape[0], b"".join(rows[:kept]))
    with pytest.raises(ImageProblem, match=r"truncated|the pixels need 9264 bytes, it holds"):
        decode(data, ImageOptions())
    black = np.where(np.arange(48)[:, None, None] < kept, SCENE, 0).astype(np.uint8)
    np.testing.assert_array_equal(decode(encode(Image.fromarray(black), "PNG"), ImageOptions()), black)


def test_damage_that_matters_is_still_damage() -> None:
    cut = with_chunk(CHUNKS["a long comment"])[:-100]
    with pytest.raises(ImageProblem, match="truncated"):
        decode(cut, ImageOptions())
    assert for_pixels(SIGNATURE + b"\xff\xff\xff\xfftEXt") == SIGNATURE + b"\xff\xff\xff\xfftEXt"
    clear = io.BytesIO()
    Image.fromarray(SCENE).save(clear, "PNG", pnginfo=PngImagePlugin.PngInfo())
    assert for_pixels(clear.getvalue()) == clear.getvalue()

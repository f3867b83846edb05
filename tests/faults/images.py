"""Every kind of bad, odd and good image, as files: what a folder from the wild contains."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

HEIGHT, WIDTH = 48, 64
Expected = dict[str, tuple[str, str]]


def scene(height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> NDArray[np.uint8]:
    """uint8 [height, width, 3]: a gradient with a box top left, so that each orientation differs."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([rows * 3, columns * 3, (rows + columns) * 2], -1).astype(np.uint8)
    image[: height // 3, : width // 4] = rng.integers(0, 256, 3)
    return image


def encode(image: Image.Image, name: str, **options: Any) -> bytes:
    """The image as the bytes of a file in a format of Pillow."""
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    width: int, height: int, rows: bytes, *, depth: int = 8, colour: int = 2, extra: bytes = b""
) -> bytes:
    """A hand-made PNG, whose header may lie: `rows` are the bytes before compression."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = png_chunk(b"IHDR", header) + extra + png_chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + body + png_chunk(b"IEND", b"")


def text_bomb() -> bytes:
    """A PNG chunk that decoders refuse for its size."""
    return png_chunk(b"zTXt", b"comment\0\0" + zlib.compress(bytes(4 << 20)))


def bad_files() -> dict[str, tuple[bytes, str, str]]:
    """name -> (bytes, expected status, start of the expected reason)."""
    image = Image.fromarray(scene())
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))
    others = [Image.fromarray(255 - scene()), Image.fromarray(scene() // 2)]
    frames = {"save_all": True, "append_images": others}
    jpeg, whole_png = encode(noise, "JPEG"), encode(noise, "PNG")
    broken = bytearray(whole_png)
    broken[20:24] = b"oops"
    nothing = Image.fromarray(np.full((HEIGHT, WIDTH), np.nan, np.float32))
    no_image, cut, animated = "not an image", "truncated", "animated (3 frames)"
    return {
        "empty.jpg": (b"", "error", no_image),
        "text.jpg": (b"these are not the pixels you are looking for\n", "error", no_image),
        "page.jpg": (b"<!DOCTYPE html><html><body>404</body></html>", "error", no_image),
        "vector.png": (b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', "error", no_image),
        "new.jxl": (b"\xff\x0a" + bytes(99), "error", "not an image that can be read (JPEG XL)"),
        "postscript.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n", "error", no_image),
        "phone.heic": (b"\0\0\0\x18ftypheic" + bytes(99), "error", "not an image (broken HEIF"),
        "stub.jpg": (jpeg[:20], "error", no_image),
        "broken_chunk.png": (bytes(broken), "error", no_image),
        "cut.jpg": (jpeg[: len(jpeg) * 6 // 10], "error", cut),
        "cut.png": (whole_png[: len(whole_png) // 2], "error", cut),
        "cut.webp": (encode(noise, "WEBP")[:-500], "error", cut),
        "huge_header.png": (png(20000, 20000, b""), "error", "too large (400 MP > limit "),
        "huge_gif.gif": (b"GIF89a\xff\xff\xff\xff" + encode(image, "GIF")[10:], "error", "too large ("),
        "text_bomb.png": (png(WIDTH, HEIGHT, b"", extra=text_bomb()), "error", cut),
        "nothing.tif": (encode(nothing, "TIFF"), "error", "no pixel has a value"),
        "int32.tif": (encode(Image.new("I", (WIDTH, HEIGHT)), "TIFF"), "error", "next to nothing to see"),
        "lab.tif": (encode(image.convert("LAB"), "TIFF"), "error", "unsupported mode LAB"),
        "dot.png": (encode(image.resize((1, 1)), "PNG"), "error", "too small (1x1 px"),
        "line.png": (encode(image.resize((4000, 1)), "PNG"), "error", "too small (4000x1 px"),
        "animated.gif": (encode(image, "GIF", **frames), "skipped", animated),
        "animated.png": (encode(image, "PNG", **frames), "skipped", animated),
        "animated.webp": (encode(image, "WEBP", **frames), "skipped", animated),
        "pages.tif": (encode(image, "TIFF", **frames), "skipped", animated),
    }


def good_files() -> dict[str, bytes]:
    """name -> bytes of images that look odd and are good."""
    image = Image.fromarray(scene())
    gray = image.convert("L")
    alpha = image.convert("RGBA")
    alpha.putalpha(gray)
    grays = np.linspace(0, 65535, HEIGHT * WIDTH).astype(np.uint16).reshape(HEIGHT, WIDTH)
    files = {
        "cmyk.jpg": encode(image.convert("CMYK"), "JPEG"),
        "gray.jpg": encode(gray, "JPEG"),
        "one_bit.png": encode(image.convert("1"), "PNG"),
        "palette.png": encode(image.convert("P"), "PNG"),
        "palette_clear.png": encode(image.convert("P"), "PNG", transparency=3),
        "rgba.png": encode(alpha, "PNG"),
        "gray_alpha.png": encode(alpha.convert("LA"), "PNG"),
        "long_text.png": encode(image, "PNG")[:33] + text_bomb() + encode(image, "PNG")[33:],
        "overviews.tif": encode(image, "TIFF", save_all=True, append_images=[_overview(image)]),
        "gray16.png": encode(Image.fromarray(grays), "PNG"),
        "modern.webp": encode(image, "WEBP"),
        "still.gif": encode(image, "GIF"),
        "scan.tiff": encode(image, "TIFF", compression="tiff_deflate"),
        "old.bmp": encode(image, "BMP"),
        "plain.ppm": encode(image, "PPM"),
        "two_previews.jpg": encode(image, "MPO", save_all=True, append_images=[gray]),
        "really_a_png.jpg": encode(image, "PNG"),
        "SHOUTED.JPG": encode(image, "JPEG"),
        "twin.jpg": encode(image, "JPEG"),
        "twin.png": encode(image, "PNG"),
        "with space.png": encode(image, "PNG"),
        "-rf.png": encode(image, "PNG"),
        "<b>&amp;.png": encode(image, "PNG"),
        "\u732b \u00e9\U0001f431.png": encode(image, "PNG"),
        "n" * 251 + ".png": encode(image, "PNG"),
        "deep/er/leaf.png": encode(image, "PNG"),
    }
    for orientation in range(2, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        files[f"exif{orientation}.jpg"] = encode(image, "JPEG", quality=95, exif=exif)
    return files


def _overview(image: Image.Image) -> Image.Image:
    """Half the size, for one page of a TIFF, which says so (NewSubfileType)."""
    half = image.reduce(2)
    half.encoderinfo = {"tiffinfo": {254: 1}}
    return half


def write_good_images(folder: Path) -> Expected:
    """Write every odd but good image; all are expected to be ok."""
    for name, data in good_files().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    # Names whose image_id is not the name itself: a line break, and a byte that is no UTF-8.
    escaped = {"two%0Alines.png": b"two\nlines.png", "latin1 %E9.png": b"latin1 \xe9.png"}
    for raw in escaped.values():
        (folder / os.fsdecode(raw)).write_bytes(encode(Image.fromarray(scene()), "PNG"))
    return dict.fromkeys((*good_files(), *escaped), ("ok", ""))


def write_bad_images(folder: Path) -> Expected:
    """Write every bad and every odd image into a folder, and links out of it; about 100 kB.

    Returns:
        image_id -> (expected status, start of the expected reason or "").
    """
    expected = write_good_images(folder)
    for name, (data, status, reason) in bad_files().items():
        (folder / name).write_bytes(data)
        expected[name] = (status, reason)
    return expected | _write_odd_entries(folder)


def write_wild_folder(folder: Path) -> Expected:
    """`write_bad_images`, and every kind of image of tests/faults/image_kinds.py: more than a hundred.

    Returns:
        image_id -> (expected status, start of the expected reason or "").
    """
    from tests.faults import image_kinds

    refused = image_kinds.refused_kinds()
    files = {**image_kinds.exact_kinds(), **image_kinds.close_kinds()}
    (folder / "kinds").mkdir()
    for name, data in (*files.items(), *((name, data) for name, (data, _, _) in refused.items())):
        (folder / name).write_bytes(data)
    reasons = {name: (status, reason) for name, (_, status, reason) in refused.items()}
    return write_bad_images(folder) | dict.fromkeys(files, ("ok", "")) | reasons


def _write_odd_entries(folder: Path) -> Expected:
    """What is no regular file of the folder: links, a folder and a pipe with an image's name."""
    outside = folder.parent / f"{folder.name}_outside"
    outside.mkdir()
    (outside / "secret.png").write_bytes(encode(Image.fromarray(scene()), "PNG"))
    (folder / "folder.jpg").mkdir()
    (folder / "leaves.png").symlink_to(outside / "secret.png")
    (folder / "leaves").symlink_to(outside, target_is_directory=True)
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    (folder / "self.png").symlink_to(folder / "self.png")
    (folder / "dangling.png").symlink_to(folder / "nowhere.png")
    (folder / "inside.png").symlink_to(folder / "twin.png")
    os.mkfifo(folder / "pipe.png")
    (folder / "locked.png").write_bytes(encode(Image.fromarray(scene()), "PNG"))
    (folder / "locked.png").chmod(0)
    # Root reads everything.
    locked = ("ok", "") if os.geteuid() == 0 else ("error", "cannot be read (Permission denied)")
    return {
        "locked.png": locked,
        "folder.jpg": ("skipped", "a folder"),
        "leaves.png": ("ok", ""),
        "leaves/secret.png": ("ok", ""),
        "loop": ("skipped", "symlink loop"),
        "self.png": ("skipped", "symlink loop"),
        "dangling.png": ("skipped", "symlink to nothing"),
        "inside.png": ("ok", ""),
        "pipe.png": ("skipped", "not a regular file"),
    }

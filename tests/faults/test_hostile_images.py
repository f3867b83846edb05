"""Images that are made to cost time or memory: each becomes one row with a reason, and soon."""

from __future__ import annotations

import io
import resource
import struct
import subprocess
import sys
import time
import tracemalloc
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from segray.pipelines.errors import UserError
from segray.pipelines.io import decoder_process
from segray.pipelines.io.image_cost import COUNT_READS, MAX_SCANS, is_unstoppable, jpeg_scans
from segray.pipelines.io.images import ImageOptions, ImageProblem, decode
from segray.pipelines.io.png_chunks import SIGNATURE, chunk
from segray.pipelines.masks import raster
from segray.pipelines.masks.color_table import open_color_table
from segray.pipelines.masks.raster import read_ids
from tests.faults.images import encode, png, scene
from tests.processes import REPOSITORY

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (1200, 1200, 3), np.uint8))


def reason(data: bytes, options: ImageOptions | None = None) -> str:
    with pytest.raises(ImageProblem) as caught:
        decode(data, options or ImageOptions())
    return caught.value.reason


def progressive(side: int, scans: int, *, comment: bytes = b"") -> bytes:
    """A progressive JPEG whose last scan is repeated: a few bytes each, and a pass over all pixels."""
    data = encode(Image.new("L", (side, side), 128), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    more = data[last:-2] * (scans - data.count(b"\xff\xda"))
    extra = b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment if comment else b""
    return data[:2] + extra + data[2:-2] + more + data[-2:]


def test_a_jpeg_of_hundreds_of_scans_is_not_decoded() -> None:
    # With 8,000 pixels a side and 400 scans, 290 kB took 40 seconds.
    assert reason(progressive(800, 400)) == f"more than {MAX_SCANS} scans"
    assert reason(progressive(800, 400, comment=b"\xff\xda" * 99)) == f"more than {MAX_SCANS} scans"


@pytest.mark.parametrize("scans", [6, 30, 100])
def test_scans_are_counted_as_they_are(scans: int) -> None:
    data = progressive(64, scans, comment=b"\xff\xda\xff\xd9" * 500)
    assert jpeg_scans(data) == scans
    assert jpeg_scans(encode(NOISE, "JPEG", progressive=True)) == encode(
        NOISE, "JPEG", progressive=True
    ).count(b"\xff\xda")
    assert decode(data, ImageOptions()).shape == (64, 64, 3)


@pytest.mark.parametrize(("scans", "apart"), [(20, False), (21, True)])
def test_a_jpeg_of_many_scans_is_decoded_apart(scans: int, apart: bool) -> None:
    data = progressive(64, scans)
    with Image.open(io.BytesIO(data)) as image:
        assert is_unstoppable(image, data) is apart


def tiff_of_frames(count: int) -> bytes:
    """A TIFF of many frames that share one strip of 16 x 16 pixels."""
    tags = [(256, 4, 1, 16), (257, 4, 1, 16), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    tags += [(273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, 16), (279, 4, 1, 256)]
    frame = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
    size, start = len(frame) + 4, 8 + 256
    ends = [start + size * (k + 1) for k in range(count - 1)] + [0]
    return (
        b"II*\0"
        + struct.pack("<I", start)
        + bytes(256)
        + b"".join(frame + struct.pack("<I", e) for e in ends)
    )


def test_frames_of_a_tiff_are_not_counted_to_the_end() -> None:
    data = tiff_of_frames(COUNT_READS)
    assert reason(data) == "animated (many frames)"
    assert reason(tiff_of_frames(3)) == "animated (3 frames)"


def test_frames_are_not_counted_where_the_first_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "PIL.TiffImagePlugin.TiffImageFile.n_frames", property(lambda _: pytest.fail("counted"))
    )
    assert decode(tiff_of_frames(50), ImageOptions(frames="first")).shape == (16, 16, 3)


def test_frames_of_a_gif_are_not_counted_to_the_end() -> None:
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 16, 16, 0) + b"\x02\x02\x44\x01\x00"
    data = b"GIF89a" + struct.pack("<HHBBB", 16, 16, 0x80, 0, 0) + bytes(6) + frame * COUNT_READS + b"\x3b"
    assert reason(data) == "animated (many frames)"


@pytest.mark.parametrize(("width", "height"), [(8, 12_000_000), (12_000_000, 8), (100_001, 16)])
def test_a_side_above_the_limit_is_told_from_the_header(width: int, height: int) -> None:
    data = png(width, height, b"")
    assert reason(data) == f"too large ({width}x{height} px, max_side is 100000)"
    assert reason(data, ImageOptions(max_side=2**24)) != reason(data)


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF"])
def test_an_image_that_takes_too_long_is_given_up(name: str) -> None:
    assert reason(encode(NOISE, name), ImageOptions(max_seconds=1e-4)) == "took longer than 0.0001 s"


@pytest.mark.parametrize(("name", "options"), [("JPEG2000", {}), ("AVIF", {"quality": 95})])
def test_a_native_decoder_that_takes_too_long_is_killed(name: str, options: dict[str, int]) -> None:
    data = encode(NOISE, name, **options)
    whole = decode(data, ImageOptions())
    process = decoder_process.decoder._process
    assert process is not None
    assert reason(data, ImageOptions(max_seconds=0.02)) == "took longer than 0.02 s"
    assert process.poll() is not None
    assert np.array_equal(decode(data, ImageOptions()), whole)


def test_the_process_of_native_decoders_has_memory_in_proportion_to_the_image() -> None:
    assert decode(encode(NOISE, "JPEG2000"), ImageOptions()).shape == (1200, 1200, 3)
    process = decoder_process.decoder._process
    assert process is not None
    limit, _ = resource.prlimit(process.pid, resource.RLIMIT_AS)
    assert limit == decoder_process._BASE_BYTES + 1200 * 1200 * decoder_process._BYTES_PER_PIXEL


def test_an_image_that_kills_its_decoder_is_one_bad_image(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(NOISE, "JPEG2000")
    decode(data, ImageOptions())
    process = decoder_process.decoder._process
    assert process is not None
    send = decoder_process._send

    def send_and_die(*arguments: object) -> None:
        send(*arguments)  # type: ignore[arg-type]
        process.kill()

    monkeypatch.setattr(decoder_process, "_send", send_and_die)
    assert reason(data) == "cannot decode: the decoder crashed or ran out of memory"
    monkeypatch.undo()
    assert decode(data, ImageOptions()).shape == (1200, 1200, 3)


def test_problems_and_options_pass_through_the_decoders_process() -> None:
    data = encode(Image.fromarray(scene()), "JPEG2000")
    assert reason(data[: len(data) // 2]) in {
        "truncated",
        "cannot decode: broken data stream when reading image file",
    }
    half = Image.new("RGBA", (16, 16), (200, 200, 200, 255))
    half.paste((0, 0, 0, 0), (0, 0, 8, 16))
    assert decode(encode(half, "JPEG2000"), ImageOptions(background_color=(1, 2, 3)))[0, 0].tolist() == [
        1,
        2,
        3,
    ]


def _greedy(image: Image.Image) -> tuple[bytes, bytes]:
    """A TIFF, and the same with a strip that has more bytes than the file."""
    plain = encode(image, "TIFF", compression="tiff_lzw")
    with Image.open(io.BytesIO(plain)) as opened:
        sizes = opened.tag_v2[279]  # type: ignore[attr-defined]
    assert len(sizes) == 1
    head = struct.pack("<HHI", 279, 4, len(sizes))
    place = plain.index(head) + len(head)
    return plain, plain[:place] + struct.pack("<I", len(plain) + 1) + plain[place + 4 :]


def test_strips_of_a_tiff_that_share_bytes_are_decoded_apart() -> None:
    def stops_by_itself(data: bytes) -> bool:
        with Image.open(io.BytesIO(data)) as image:
            return not is_unstoppable(image, data)

    plain, greedy = _greedy(Image.fromarray(scene()))
    assert stops_by_itself(plain)
    assert stops_by_itself(encode(Image.fromarray(scene()), "TIFF"))
    assert not stops_by_itself(greedy)
    assert not stops_by_itself(encode(Image.fromarray(scene()), "TIFF", compression="jpeg"))


def test_strips_of_a_mask_that_share_bytes_are_refused() -> None:
    plain, greedy = _greedy(Image.new("L", (24, 16), 1))
    assert read_ids(plain, None, "data.colors").shape == (16, 24)
    with pytest.raises(ValueError, match="whose parts share bytes"):
        read_ids(greedy, None, "data.colors")


FORKED = """
import os, sys
from pathlib import Path
from segray.pipelines.io import decoder_process
from segray.pipelines.io.images import ImageOptions, decode

def decoder() -> int:
    decode(Path(sys.argv[1]).read_bytes(), ImageOptions())
    return decoder_process.decoder._process.pid

mine = decoder()
if (pid := os.fork()) == 0:
    print(decoder(), flush=True)
    os._exit(0)
os.waitpid(pid, 0)
print(mine, flush=True)
os._exit(0)
"""


def test_the_decoders_process_ends_with_its_parent(tmp_path: Path) -> None:
    (image := tmp_path / "scene.jp2").write_bytes(encode(Image.fromarray(scene()), "JPEG2000"))
    command = [sys.executable, "-c", FORKED, str(image)]
    done = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True, timeout=60)
    decoders = {int(line) for line in done.stdout.split()}
    assert len(decoders) == 2
    for _ in range(200):
        if not any(Path(f"/proc/{pid}").exists() for pid in decoders):
            return
        time.sleep(0.05)
    pytest.fail("they live on")


@pytest.mark.timeout(120)
def test_the_header_of_a_pgm_mask_is_read_in_one_pass() -> None:
    """A comment inside a number, which Pillow reads: with nested repetitions, 60 blanks took years."""
    mask = b"P5" + b" " * 100_000 + b"4 3 2#\n55 " + bytes(12)
    with pytest.raises(ValueError, match="a damaged PGM"):
        read_ids(mask, None, "data.colors")


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("labelmap.txt", r"a line of 3000002 characters \(allowed: at most 1000\)"),
        ("colors.csv", "no table of colours"),
    ],
)
def test_an_endless_line_of_a_table_of_colours_is_refused(tmp_path: Path, name: str, why: str) -> None:
    path = tmp_path / name
    path.write_text("a" + " " * 3_000_000 + "x")
    with pytest.raises(UserError, match=why):
        open_color_table(str(path), "data.colors")


@pytest.mark.timeout(120)
def test_a_jpeg_of_fill_bytes_is_searched_once() -> None:
    """Before a marker any number of 0xff may stand: a pattern for all of them took hours for a megabyte."""
    plain = encode(Image.fromarray(scene()), "JPEG")
    scans = b"\xff\xfe" + struct.pack(">H", 2 + 60) + b"\xff\xda" * 30
    data = plain[:2] + scans + plain[2:-2] + b"\xff" * 1_000_000 + b"\0\xff\xd9"
    assert jpeg_scans(data) == 1
    assert decode(data, ImageOptions()).shape == scene().shape


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", ["P1", "P2", "P3"])
def test_comments_of_a_plain_ppm_are_taken_out_once(kind: str) -> None:
    """Pillow takes them out one by one, of a megabyte at a time."""
    highest = "" if kind == "P1" else "255\n"
    values = b"1 " * 16 * 16 * (3 if kind == "P3" else 1)
    data = f"{kind}\n# a\n16 16\n{highest}".encode() + b"#\n" * 3_000_000 + values
    assert decode(data, ImageOptions(check_span=False)).shape == (16, 16, 3)


def _wide_png(side: int, depth: int, colour: int) -> bytes:
    stride = side * {0: 1, 2: 3, 4: 2, 6: 4}[colour] * depth // 8
    row = b"\0" + bytes(i % 251 for i in range(stride))
    packer = zlib.compressobj(1)
    body = b"".join([*(packer.compress(row) for _ in range(side)), packer.flush()])
    header = struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, 0)
    return SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def _wide_tiff(side: int, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.linspace(0, 1, side * side, dtype=kind).reshape(side, side)).save(buffer, "TIFF")
    return buffer.getvalue()


def _peak(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


SIDE = 1600
WIDE = {
    **{f"png {d} {c}": partial(_wide_png, SIDE, d, c) for d in (8, 16) for c in (0, 2, 4, 6)},
    "float tiff": partial(_wide_tiff, SIDE, "float32"),
}


@pytest.mark.parametrize("kind", WIDE)
def test_decoding_takes_at_most_32_bytes_a_pixel(kind: str) -> None:
    """16 bits in three and four bands took 92 and 106: 10 GB for an image of 100 megapixels."""
    data = WIDE[kind]()
    decode(_wide_png(64, 16, 6), ImageOptions())
    Path("/proc/self/clear_refs").write_text("5")
    before = _peak("VmRSS")
    assert decode(data, ImageOptions()).shape == (SIDE, SIDE, 3)
    assert (_peak("VmHWM") - before) / SIDE**2 <= 32


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_decoding_a_photograph_takes_its_pixels_twice(orientation: int) -> None:
    """Once in Pillow, which is not traced, and once as an array; they were there three times more."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(NOISE.resize((SIDE, SIDE)), "JPEG", exif=exif)
    tracemalloc.start()
    try:
        assert decode(data, ImageOptions()).shape == (SIDE, SIDE, 3)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak / SIDE**2 <= 5


def test_pixels_of_many_bytes_count_as_several() -> None:
    data = io.BytesIO()
    tifffile.imwrite(
        data, np.zeros((100, 100, 5), np.float64), photometric="minisblack", planarconfig="contig"
    )
    why = "too large (0.01 MP of 40 bytes; image.max_pixels is for 8 bytes each)"
    assert reason(data.getvalue(), ImageOptions(max_pixels=40_000, bands=(1, 2, 3))) == why
    assert reason(data.getvalue(), ImageOptions(max_pixels=50_000, bands=(1, 2, 3))) != why


def test_run_lengths_of_a_bmp_that_lead_nowhere_are_given_up() -> None:
    """Its decoder is a loop of Python, which took as long as the file: 20 s for 30 MB."""
    assert reason(_endless_bmp(), ImageOptions(max_seconds=0.05)) == "took longer than 0.05 s"


def test_a_mask_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raster, "_MAX_SECONDS", 0.05)
    with pytest.raises(ValueError, match=r"^takes longer than 0\.05 s$"):
        read_ids(_endless_bmp(), None, "data.colors")


def _endless_bmp() -> bytes:
    body = bytes(2) * 2_000_000
    header = struct.pack("<IiiHHIIiiII", 40, 64, 64, 1, 8, 1, len(body), 0, 0, 256, 0)
    head = b"BM" + struct.pack("<IHHI", 54 + 1024 + len(body), 0, 0, 54 + 1024)
    return head + header + bytes(1024) + body


def test_grey_of_16_bits_with_transparency_is_read() -> None:
    """Pillow cannot take its low bytes; it was an error row."""
    pixels = decode(_wide_png(64, 16, 4), ImageOptions(alpha="ignore"))
    assert pixels.shape == (64, 64, 3)
    assert pixels.min() < 100 < 200 < pixels.max()

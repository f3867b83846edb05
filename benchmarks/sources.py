"""Images read one by one from files, tar shards, zip archives and Parquet files, in order and at random."""

from __future__ import annotations

import io
import tarfile
import time
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from segray.pipelines.io.sources import follows_links, image_roots, list_images, read_allowed
from segray.pipelines.scenes.picture_book import draw_scene

SHARDS = 4
"""Of each kind but files."""


def write_sources(folder: Path, images: int, size: int, seed: int) -> dict[str, str]:
    """The same JPEG images in each kind of source; what `images=` takes, by the name of the kind."""
    files = {f"{i:06d}.jpg": _jpeg(draw_scene(seed, i, size).image) for i in range(images)}
    (folder / "files").mkdir(parents=True)
    for name, data in files.items():
        (folder / "files" / name).write_bytes(data)
    names = sorted(files)
    for n in range(min(SHARDS, images)):
        _write_shard(folder, n, {name: files[name] for name in names[n::SHARDS]})
    return {
        "files": f"{folder}/files",
        **{kind: f"{folder}/*.{kind}" for kind in ("tar", "zip", "parquet")},
    }


def _write_shard(folder: Path, number: int, files: Mapping[str, bytes]) -> None:
    with (
        tarfile.open(folder / f"{number}.tar", "w") as tar,
        zipfile.ZipFile(folder / f"{number}.zip", "w") as z,
    ):
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
            z.writestr(name, data)
    rows = [{"bytes": data, "path": name} for name, data in files.items()]
    pq.write_table(pa.table({"image": rows}), folder / f"{number}.parquet", row_group_size=100)


def measure(spec: str, seed: int) -> dict[str, float]:
    """Images per second: listed, read in order, and read in a drawn order."""
    began = time.perf_counter()
    refs = list(list_images(spec))
    listed = time.perf_counter()
    uris, roots, follow = [ref.uri for ref in refs], image_roots(spec), follows_links(spec, True)
    drawn = np.random.default_rng(seed).permutation(uris).tolist()
    return {
        "list": len(refs) / (listed - began),
        "read": _rate(uris, roots, follow),
        "random": _rate(drawn, roots, follow),
    }


def _rate(uris: Sequence[str], roots: Sequence[str], follow: bool) -> float:
    began = time.perf_counter()
    for uri in uris:
        read_allowed(uri, roots, follow=follow)
    return len(uris) / (time.perf_counter() - began)


def _jpeg(image: np.typing.NDArray[np.uint8]) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(image).save(sink, "JPEG", quality=90)
    return sink.getvalue()

"""Images read one by one from files, tar shards, zip archives and Parquet files, in order and at random.

`python -m benchmarks.sources` prints the CPU time per image; `benchmarks.store` keeps the same figures.
"""

from __future__ import annotations

import io
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.common import table
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
    """Images per second of CPU time: listed, read in order, and read in a drawn order."""
    began = time.process_time()
    refs = list(list_images(spec))
    listed = time.process_time()
    uris, roots, follow = [ref.uri for ref in refs], image_roots(spec), follows_links(spec, True)
    drawn = np.random.default_rng(seed).permutation(uris).tolist()
    return {
        "list": len(refs) / (listed - began),
        "read": _rate(uris, roots, follow),
        "random": _rate(drawn, roots, follow),
    }


def _rate(uris: Sequence[str], roots: Sequence[str], follow: bool) -> float:
    began = time.process_time()
    for uri in uris:
        read_allowed(uri, roots, follow=follow)
    return len(uris) / (time.process_time() - began)


def _jpeg(image: np.typing.NDArray[np.uint8]) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(image).save(sink, "JPEG", quality=90)
    return sink.getvalue()


@click.command()
@click.option("--images", default=2000, show_default=True, help="Images in each kind of source.")
@click.option("--size", default=256, show_default=True, help="Their side in pixels.")
@click.option("--rounds", default=5, show_default=True, help="Of which the median is shown.")
@click.option("--seed", default=0, show_default=True, help="Of the scenes and the drawn order.")
def main(images: int, size: int, rounds: int, seed: int) -> None:
    """Print the CPU time per image of each kind of source, in microseconds."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, spec in write_sources(Path(folder) / "sources", images, size, seed).items():
            figures = [measure(spec, seed) for _ in range(rounds)]
            rows.append([name, *(f"{1e6 / median(one[step] for one in figures):.0f}" for step in figures[0])])
    click.echo(table(["us of CPU per image", "list", "read", "random"], rows))


if __name__ == "__main__":
    main()

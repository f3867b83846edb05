"""`segray serve` over a large label set: how long each request of the page takes.

    python -m benchmarks.review_server --images 10000

A synthetic label set (500 x 375 pixels, 20 segments per image, embeddings of 512 numbers that form one cloud
per class; files, maps and masks are those of a few drawn images) is served by a process of its own, and asked
over HTTP, one request after another, as the page asks. `first`: the answer was never made before; `again`: a
cache may have it. Writing the label set is not measured; `open` is the time from the start of the command to
the first answer.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import httpx2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.common import Benchmark, circumstances, table, write_result
from benchmarks.memory import rss_of
from segray.models.masks import encode_rle, segment_from_mask
from segray.pipelines.io.label_png import encode_gray_png
from segray.pipelines.io.manifest import MANIFEST, ImageRef, write_manifest
from segray.pipelines.label_set.store import (
    class_counts,
    labels_schema,
    labels_table,
    segments_schema,
    segments_table,
    write_part,
)

WIDTH, HEIGHT = 500, 375
CLASSES = ("background", *(f"class {i}" for i in range(1, 21)))
_DRAWN, _PART = 25, 128
_COLUMNS, _ROWS = 5, 4
_NOISE = 0.5


@dataclass(frozen=True)
class Drawn:
    """An image of which many copies are in the label set.

    Attributes:
        row: of the labels table, without an id.
        segments: rows of the segments table, without id and embedding.
        path: its file.
    """

    row: dict[str, Any]
    segments: list[dict[str, Any]]
    path: Path


@click.command("review_server", cls=Benchmark)
@click.option("--images", default=10_000, show_default=True, help="Rows of the label set.")
@click.option("--dim", default=512, show_default=True, help="Length of the embeddings.")
@click.option("--rounds", default=40, show_default=True, help="Requests of each kind.")
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--out", type=click.Path(path_type=Path), help="JSON file; default: results/review_server.json."
)
def main(images: int, dim: int, rounds: int, seed: int, out: Path | None) -> None:
    """Measure and write the figures."""
    with tempfile.TemporaryDirectory() as folder:
        labels = write_labels(Path(folder), images, dim, np.random.default_rng(seed))
        began = time.perf_counter()
        with served(labels) as (process, client):
            client.get("/api/set").raise_for_status()
            opened = time.perf_counter() - began
            search = _seconds_until_search(client)
            times = measure(client, images, rounds, np.random.default_rng(seed + 1))
            memory = rss_of(process.pid) >> 20
    requests = {name: _figures(seconds) for name, seconds in times.items()}
    record = {
        **circumstances([seed]),
        "images": images,
        "segments": images * _COLUMNS * _ROWS,
        "dim": dim,
        "open_s": round(opened, 2),
        "search_s": round(search, 2),
        "memory_mib": memory,
        "requests": requests,
        "slowest_ms": max(one["max_ms"] for one in requests.values()),
    }
    rows = [
        [name, *(f"{one[key]:.1f}" for key in ("median_ms", "p95_ms", "max_ms"))]
        for name, one in requests.items()
    ]
    click.echo(table(["request", "median ms", "95 % ms", "max ms"], rows))
    click.echo(f"open {opened:.1f} s, search after {search:.1f} s, memory {memory} MiB")
    write_result(out, record)


def write_labels(folder: Path, count: int, dim: int, random: np.random.Generator) -> Path:
    """A label set of `count` images in `folder`."""
    drawn = [_draw(folder / f"drawn-{i}.jpg", random) for i in range(_DRAWN)]
    directions = random.normal(size=(len(CLASSES), dim)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    provenance = {"classes": list(CLASSES), "ignore_index": 255}
    root, refs = folder / "labels", []
    for start in range(0, count, _PART):
        ids = [f"folder-{i % 7}/image-{i:06}.jpg" for i in range(start, min(count, start + _PART))]
        ones = [drawn[i % _DRAWN] for i in range(start, start + len(ids))]
        rows = [
            {**one.row, "image_id": name, "mean_confidence": float(random.random())}
            for name, one in zip(ids, ones, strict=True)
        ]
        segments = [
            _embedded(row, name, directions, random)
            for name, one in zip(ids, ones, strict=True)
            for row in one.segments
        ]
        write_part(
            str(root),
            labels_table(rows, labels_schema(provenance)),
            segments_table(segments, segments_schema(dim, provenance)),
        )
        refs += [ImageRef(name, str(one.path)) for name, one in zip(ids, ones, strict=True)]
    write_manifest(sorted(refs, key=lambda ref: ref.image_id), str(root / MANIFEST))
    return root


def _draw(path: Path, random: np.random.Generator) -> Drawn:
    """Ellipses of several classes on noise."""
    label = np.zeros((HEIGHT, WIDTH), np.uint8)
    pixels = random.integers(90, 150, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    segments = []
    for number in range(_COLUMNS * _ROWS):
        mask, class_id = _ellipse(number, random), int(random.integers(1, len(CLASSES)))
        label[mask], pixels[mask] = class_id, random.integers(0, 255, 3)
        segments.append(_segment_row(mask, number, class_id, random))
    Image.fromarray(pixels).save(path, quality=85)
    ids, counts = class_counts(label)
    row = {
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "width": WIDTH,
        "height": HEIGHT,
        "label": encode_gray_png(label),
        "confidence": encode_gray_png(np.where(label > 0, 200, 0).astype(np.uint8)),
        "class_ids": ids,
        "class_pixels": counts,
        "labelled_fraction": 0.5,
        "n_segments": len(segments),
        "status": "ok",
        "run_id": "benchmark",
    }
    return Drawn(row, segments, path)


def _ellipse(number: int, random: np.random.Generator) -> NDArray[np.bool_]:
    """bool [H, W] in a cell of its own, with a ragged edge."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    cell = WIDTH / _COLUMNS, HEIGHT / _ROWS
    middle = (number % _COLUMNS + 0.5) * cell[0], (number // _COLUMNS + 0.5) * cell[1]
    ragged = random.uniform(0.9, 1.1, (HEIGHT, WIDTH))
    return ((x - middle[0]) / (0.45 * cell[0])) ** 2 + ((y - middle[1]) / (0.45 * cell[1])) ** 2 < ragged


def _segment_row(
    mask: NDArray[np.bool_], number: int, class_id: int, random: np.random.Generator
) -> dict[str, Any]:
    segment = segment_from_mask(mask)
    size, counts = encode_rle(segment, HEIGHT, WIDTH)
    return {
        "segment_id": number,
        "bbox": [float(v) for v in segment.box],
        "area": segment.area,
        "class_id": class_id,
        "score": 0.3,
        "margin": float(random.uniform(0, 0.2)),
        "runner_up_class": 0,
        "predicted_iou": 0.9,
        "stability_score": 0.9,
        "rle": {"size": size, "counts": counts},
    }


def _embedded(
    row: dict[str, Any], name: str, directions: NDArray[np.float32], random: np.random.Generator
) -> dict[str, Any]:
    dim = directions.shape[1]
    noise = random.normal(0, _NOISE / dim**0.5, size=dim)
    vector = directions[row["class_id"]] + noise
    return {**row, "image_id": name, "embedding": vector.astype(np.float16)}


@contextmanager
def served(labels: Path) -> Iterator[tuple[subprocess.Popen[str], httpx2.Client]]:
    """`segray serve` over a label set, and a client of it."""
    command = [sys.executable, "-m", "segray", "serve", f"out={labels}", "port=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            base, _, token = process.stdout.readline().split()[1].partition("/?token=")
            headers = {"authorization": f"Bearer {token}"}
            with httpx2.Client(base_url=base, headers=headers, timeout=60) as client:
                yield process, client
        finally:
            process.terminate()


def measure(
    client: httpx2.Client, images: int, rounds: int, random: np.random.Generator
) -> dict[str, list[float]]:
    """Seconds of each request, by kind."""
    numbers = random.permutation(images)[: 6 * rounds].tolist()
    fingerprint = client.get("/api/set").json()["fingerprint"]
    page = {"limit": 100}
    times: dict[str, list[float]] = {}

    def ask(kind: str, path: str, **values: Any) -> Any:
        began = time.perf_counter()
        answer = (
            client.get(path, params=values)
            if "json" not in values
            else client.post(path, json=values["json"])
        )
        times.setdefault(kind, []).append(time.perf_counter() - began)
        answer.raise_for_status()
        return answer

    for i in range(rounds):
        image = numbers[i % len(numbers)]
        offset = int(random.integers(0, max(1, images - 100)))
        ask("label set", "/api/set")
        ask("page of the grid", "/api/images", **page, offset=offset)
        ask(
            "page, sorted and filtered",
            "/api/images",
            **page,
            sort="margin",
            confidence="0.2,0.9",
            classes=str(1 + i % 20),
        )
        ask("page, text search", "/api/images", **page, text=f"folder-{i % 7} {i % 10}")
        for kind in ("photo.jpg?size=thumbnail", "overlay.png", "photo.jpg", "label.png", "confidence.png"):
            path, _, query = f"/api/images/{image}/{kind}".partition("?")
            ask(
                f"{kind.partition('?')[0]}{', thumbnail' if query else ''}, first",
                path,
                **dict([query.split("=")] if query else []),
            )
        ask("thumbnail, again", f"/api/images/{image}/photo.jpg", size="thumbnail")
        ask("image in the viewer", f"/api/images/{image}")
        row = int(random.integers(0, images * _COLUMNS * _ROWS))
        ask("similar segments", f"/api/segments/{row}/alike", **{"class": 1 + i % 20})
        ask("picture of a segment", f"/api/segments/{row}/crop.jpg")
        correction = {"image": image, "kind": "name", "segments": [i % 20], "class": CLASSES[1 + i % 20]}
        ask("correction", "/api/corrections", json={"set": fingerprint, "corrections": [correction]})
        ask("image, corrected", f"/api/images/{image}")
        ask("what is next", "/api/next", json={})
    return times


def _seconds_until_search(client: httpx2.Client) -> float:
    """From the first answer until similar segments can be searched."""
    began = time.perf_counter()
    client.get("/api/segments/0/alike", params={"class": 1}).raise_for_status()
    return time.perf_counter() - began


def _figures(seconds: list[float]) -> dict[str, float]:
    milliseconds = 1000 * np.array(seconds)
    return {
        "count": len(seconds),
        "median_ms": round(float(np.median(milliseconds)), 2),
        "p95_ms": round(float(np.percentile(milliseconds, 95)), 2),
        "max_ms": round(float(milliseconds.max()), 2),
    }


if __name__ == "__main__":
    main()

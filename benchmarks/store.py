"""The label set on disk against two plain formats: bytes, writing, reading, one label at random.

    python -m benchmarks.store --images 200

The built-in models annotate picture-book scenes without Ray. From what they found, in memory, one process
writes each format: segray's Parquet parts as `segray annotate` does (label and confidence PNG, every segment
with its scores, RLE and embedding, checksums, flushed to the disk); one COCO-style JSON with compressed RLE,
class and score of every segment; a grey PNG file per label. `read` gives all label maps, uint8 [H, W], in
order, `random` all of them in a drawn order, as training asks for them, after what `open` takes to get ready.
All are compared with what was written. Medians over the rounds, from the page cache; a ratio above 1 is in
segray's favour.

Beside them, the images of those scenes (JPEG) are listed and read one by one from files, tar shards, zip
archives and Parquet files with groups of 100 rows, without decoding them.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
from PIL import Image

from benchmarks.common import Benchmark, circumstances, fresh, table, write_result
from benchmarks.labeller import Labeller
from benchmarks.sources import measure as measure_source
from benchmarks.sources import write_sources
from segray.models.clip.zero_shot import pool_segments
from segray.models.label_map import LabelMap, SegmentClasses, render_label_map
from segray.models.label_space import IGNORE_INDEX
from segray.models.masks import Segment, decode_rle, encode_rle
from segray.pipelines.annotation.parts import part_tables
from segray.pipelines.annotation.prepared import Prepared
from segray.pipelines.annotation.stages.encode import encode_segments
from segray.pipelines.commands.annotate import prepare, space_of
from segray.pipelines.config.commands.annotate import AnnotateConfig
from segray.pipelines.config.loading import load
from segray.pipelines.engine.rows import Row
from segray.pipelines.io.label_png import decode_gray_png
from segray.pipelines.label_set.store import LabelStore, labels_schema, segments_schema, write_part
from segray.pipelines.scenes.picture_book import draw_scene
from segray.pipelines.training.data.stored_labels import IN_MEMORY, StoredLabels

Ask = Callable[[str], LabelMap]
SEGRAY, FROM_DISK, RLE, PNG = "segray", "segray, not in memory", "RLE in one JSON", "PNG files"
STEPS = ("write", "read", "random")


@dataclass(frozen=True)
class Labelled:
    """An annotated image before it is stored: columns of its own, what was found, what has to come back."""

    row: Row
    segments: list[Segment]
    naming: SegmentClasses
    embeddings: bytes
    label: LabelMap


Pile = dict[str, Labelled]
"""By image_id."""


@dataclass(frozen=True)
class Format:
    """Writes into an empty folder; opens one to be asked for labels; reads all of them."""

    write: Callable[[Pile, Path], None]
    open: Callable[[Path, Sequence[str]], Ask]

    def read(self, root: Path, ids: Sequence[str]) -> dict[str, LabelMap]:
        """All label maps by image_id."""
        ask = self.open(root, ids)
        return {image_id: ask(image_id) for image_id in ids}


class LabelSet(Format):
    """Segray's, which has a reader for the whole."""

    def read(self, root: Path, ids: Sequence[str]) -> dict[str, LabelMap]:  # noqa: ARG002
        """See `Format.read`."""
        rows = LabelStore(str(root)).rows(["image_id", "label"])
        return {row["image_id"]: decode_gray_png(row["label"]["bytes"]) for row in rows}


def annotate(prepared: Prepared, images: int, size: int, seed: int) -> Pile:
    """The first scenes of a picture book with what the built-in models find in them."""
    labeller, pile = Labeller(prepared.config, 1), {}
    for index in range(images):
        image, image_id = draw_scene(seed, index, size).image, f"scene-{index:06d}.png"
        segments, features = labeller.segments(image), labeller.features(image, "gem")
        naming = labeller.name(segments, features, size, size)
        row: Row = {"image_id": image_id, "width": size, "height": size, "status": "ok", "error": None}
        row["sha256"] = hashlib.sha256(image.tobytes()).hexdigest()
        embeddings = pool_segments(features, segments, size, size).half().cpu().numpy().tobytes()
        label, _ = render_label_map(segments, naming, size, size)
        pile[image_id] = Labelled(row, segments, naming, embeddings, label)
    return pile


def write_parts(prepared: Prepared, rows_per_part: int, pile: Pile, root: Path) -> None:
    """A label set."""
    schemas = labels_schema(prepared.provenance), segments_schema(prepared.dim, prepared.provenance)
    images = list(pile.values())
    for start in range(0, len(images), rows_per_part):
        rows = [_encoded(image) for image in images[start : start + rows_per_part]]
        write_part(str(root), *part_tables(rows, *schemas, "benchmark"))


def _encoded(image: Labelled) -> Row:
    return encode_segments(image.row, image.segments, image.naming, image.embeddings, IGNORE_INDEX)


def open_parts(in_memory: int, root: Path, ids: Sequence[str]) -> Ask:
    """As training does, which may hold so many bytes in memory."""
    stored = StoredLabels(str(root), ids, in_memory)
    return lambda image_id: decode_gray_png((stored.read(image_id) or (b"", b""))[0])


def write_json(pile: Pile, root: Path) -> None:
    """Annotations in drawing order, without a category where a segment has no name."""
    annotations: list[dict[str, object]] = []
    for image_id, image in pile.items():
        segments, naming = image.segments, image.naming
        for k in sorted(range(len(segments)), key=lambda k: (-segments[k].area, naming.score[k])):
            size, counts = encode_rle(segments[k], image.row["height"], image.row["width"])
            what = {
                "bbox": segments[k].box,
                "area": segments[k].area,
                "score": round(float(naming.score[k]), 4),
            }
            what["category_id"] = int(naming.class_id[k]) if naming.has_class[k] else None
            what["segmentation"] = {"size": size, "counts": counts.decode("ascii")}
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, "iscrowd": 0, **what})
    images = [
        {"id": i, "height": image.row["height"], "width": image.row["width"]} for i, image in pile.items()
    ]
    text = json.dumps({"images": images, "annotations": annotations}, separators=(",", ":"))
    (root / "labels.json").write_text(text, encoding="ascii")


def open_json(root: Path, ids: Sequence[str]) -> Ask:  # noqa: ARG001
    """The whole file is parsed; a label's masks are decoded when it is asked for."""
    data = json.loads((root / "labels.json").read_text(encoding="ascii"))
    sizes = {image["id"]: (image["height"], image["width"]) for image in data["images"]}
    objects = defaultdict(list)
    for annotation in data["annotations"]:
        if annotation["category_id"] is not None:
            objects[annotation["image_id"]].append((annotation["category_id"], annotation["segmentation"]))

    def ask(image_id: str) -> LabelMap:
        label = np.zeros(sizes[image_id], np.uint8)
        for category, rle in objects[image_id]:
            label[decode_rle(rle["size"], rle["counts"].encode("ascii"))] = category
        return label

    return ask


def write_png(pile: Pile, root: Path) -> None:
    """A file per label, as Pillow writes it."""
    for image_id, image in pile.items():
        label, _ = render_label_map(image.segments, image.naming, image.row["height"], image.row["width"])
        Image.fromarray(label).save(root / image_id)


def open_png(root: Path, ids: Sequence[str]) -> Ask:  # noqa: ARG001
    """Nothing to get ready."""
    return lambda image_id: np.asarray(Image.open(root / image_id))


def formats(prepared: Prepared, rows_per_part: int) -> dict[str, Format]:
    """All that are compared."""
    write = partial(write_parts, prepared, rows_per_part)
    return {
        SEGRAY: LabelSet(write, partial(open_parts, IN_MEMORY)),
        FROM_DISK: LabelSet(write, partial(open_parts, 0)),
        RLE: Format(write_json, open_json),
        PNG: Format(write_png, open_png),
    }


def measure(form: Format, pile: Pile, root: Path, order: Sequence[str]) -> dict[str, float]:
    """Seconds of each step, and bytes.

    Raises:
        ValueError: a label that is read is not the one that was written.
    """
    root.mkdir()
    clock = [time.perf_counter()]
    form.write(pile, root)
    clock.append(time.perf_counter())
    read = form.read(root, list(pile))
    clock.append(time.perf_counter())
    ask = form.open(root, order)
    clock.append(time.perf_counter())
    drawn = {image_id: ask(image_id) for image_id in order}
    clock.append(time.perf_counter())
    if not all(np.array_equal(labels[i], pile[i].label) for labels in (read, drawn) for i in pile):
        raise ValueError(f"{root.name} gives back other labels than it was given")
    seconds = dict(zip(("write", "read", "open", "random"), np.diff(clock).tolist(), strict=True))
    return seconds | {"bytes": sum(path.stat().st_size for path in root.rglob("*") if path.is_file())}


def summary(taken: dict[str, list[dict[str, float]]], images: int) -> dict[str, Any]:
    """Medians over the rounds, and segray's ratios to each of the others."""
    ways: dict[str, dict[str, float]] = {}
    for name, rounds in taken.items():
        middle = {key: median(figures[key] for figures in rounds) for key in rounds[0]}
        ways[name] = {f"{step}_images_per_second": images / middle[step] for step in STEPS}
        ways[name] |= {"bytes_per_image": middle["bytes"] / images, "open_seconds": middle["open"]}

    def better(name: str, peer: str, key: str) -> float:
        return ways[name][f"{key}_images_per_second"] / ways[peer][f"{key}_images_per_second"]

    ratios = {peer: {step: better(SEGRAY, peer, step) for step in STEPS} for peer in (RLE, PNG)}
    for peer, ratio in ratios.items():
        ratio["random, not in memory"] = better(FROM_DISK, peer, "random")
        ratio["bytes"] = ways[peer]["bytes_per_image"] / ways[SEGRAY]["bytes_per_image"]
    return {"ratios": ratios, "ways": ways}


@click.command("store", cls=Benchmark, help=__doc__)
@click.option("--images", default=200, show_default=True, type=click.IntRange(1))
@click.option("--size", default=256, show_default=True, type=click.IntRange(32), help="Side in pixels.")
@click.option(
    "--rows-per-part", default=8, show_default=True, type=click.IntRange(1), help="Of the label set."
)
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1))
@click.option("--seed", default=11, show_default=True, callback=fresh, type=int)
@click.option("--out", type=click.Path(path_type=Path), help="JSON file.")
def main(images: int, size: int, rows_per_part: int, rounds: int, seed: int, out: Path | None) -> None:
    """Measure, print, record."""
    record = circumstances([seed])
    record |= {"images": images, "size": size, "rows_per_part": rows_per_part, "rounds": rounds}
    with tempfile.TemporaryDirectory() as folder:
        config = load(AnnotateConfig, None, ["images=none", f"out={folder}/none", "classes=picture_book"])
        prepared = prepare(config, space_of(config))
        pile, todo = annotate(prepared, images, size, seed), formats(prepared, rows_per_part)
        taken: dict[str, list[dict[str, float]]] = {name: [] for name in todo}
        for number in range(rounds):
            order = np.random.default_rng([seed, number]).permutation(list(pile)).tolist()
            for name in list(todo)[:: -1 if number % 2 else 1]:
                taken[name].append(measure(todo[name], pile, Path(folder) / f"{name} {number}", order))
        kinds = write_sources(Path(folder) / "sources", images, size, seed)
        read = {name: [measure_source(spec, seed) for _ in range(rounds)] for name, spec in kinds.items()}
    record["sources"] = {
        name: {f"{step}_images_per_second": median(timing[step] for timing in figures) for step in figures[0]}
        for name, figures in read.items()
    }
    record |= {"segments": sum(len(image.segments) for image in pile.values())} | summary(taken, images)
    rows = [
        [
            name,
            f"{way['bytes_per_image']:.0f}",
            *(f"{way[f'{step}_images_per_second']:.0f}" for step in STEPS),
            f"{1000 * way['open_seconds']:.1f}",
        ]
        for name, way in record["ways"].items()
    ]
    click.echo(f"\n{images} images of {size} px, {record['segments']} segments, medians of {rounds} rounds\n")
    click.echo(table(["", "bytes per image", "write/s", "read/s", "random/s", "open, ms"], rows))
    sources = [[name, *(f"{rate:.0f}" for rate in way.values())] for name, way in record["sources"].items()]
    click.echo(f"\n{table(['images out of', 'list/s', 'read/s', 'random/s'], sources)}")
    click.echo(f"\n{write_result(out, record)}")


if __name__ == "__main__":
    main()

"""Annotation without Ray: the same stages, called one after the other on small images."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from pathlib import Path

import pyarrow as pa
from PIL import Image

from segray.pipelines.annotation.model_stages import model_stages
from segray.pipelines.annotation.parts import part_tables
from segray.pipelines.annotation.prepared import Prepared
from segray.pipelines.annotation.stages.encode import EncodeLabels
from segray.pipelines.annotation.stages.read import ReadImages
from segray.pipelines.commands.annotate import prepare, space_of
from segray.pipelines.config.commands.annotate import AnnotateConfig
from segray.pipelines.config.loading import dump, load
from segray.pipelines.engine.guard import Guard
from segray.pipelines.engine.ledger import Ledger
from segray.pipelines.engine.pools import PoolPlan
from segray.pipelines.io.manifest import read_manifest, write_manifest
from segray.pipelines.io.sources import list_images
from segray.pipelines.label_set.store import labels_schema, segments_schema, write_part
from segray.pipelines.scenes.picture_book import draw_scene

PLAN = PoolPlan(workers=1, max_workers=1, num_cpus=0, num_gpus=0, threads=1, batch_size=4)
# Every prompt's masks are kept, so that there are segments however well or badly the weights are trained.
BUILTIN_MODELS = ("sam.model=builtin", "clip.model=builtin")
OPTIONS = (
    *("classes=picture_book", *BUILTIN_MODELS),
    *("sam.points_per_side=3", "sam.pred_iou_thresh=0", "sam.stability_score_thresh=0"),
)


def draw_scenes(folder: Path, count: int, first: int = 0) -> Path:
    """Picture-book scenes of 64 to 96 px, some portrait, some landscape."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(first, first + count):
        image = draw_scene(3, index, 96).image
        cut = image[: 64 + 8 * (index % 5)] if index % 2 else image[:, : 64 + 8 * (index % 5)]
        Image.fromarray(cut).save(folder / f"scene-{index}.png")
    return folder


def config_of(images: Path | str, out: Path | str, *overrides: str) -> AnnotateConfig:
    """The configuration of a quick run; of two overrides of a key the last wins."""
    return load(AnnotateConfig, None, [f"images={images}", f"out={out}", *OPTIONS, *overrides])


def manifest_table(images: Path | str) -> pa.Table:
    """What the first stage reads, for every image of a source."""
    rows = [{"image_id": r.image_id, "uri": r.uri, "problem": r.problem} for r in list_images(str(images))]
    return pa.Table.from_pylist(rows)


def label_plainly(config: AnnotateConfig, part_sizes: Sequence[int]) -> Prepared:
    """Write the label set of a configuration, its images in order in parts of these sizes."""
    prepared = prepare(config, space_of(config))
    guard = Guard(Ledger(), max_tries=3)
    read = ReadImages(prepared.options, config.embed_images, guard)
    models = [stage.kind(plan=PLAN, guard=guard, **stage.arguments) for stage in model_stages(prepared)]
    encode = EncodeLabels(prepared.space, guard)
    dim = prepared.dim if config.embeddings else None
    schemas = labels_schema(prepared.provenance), segments_schema(dim, prepared.provenance)
    manifest = f"{config.out}/manifest.parquet"
    Path(config.out).mkdir(parents=True)
    write_manifest(list_images(config.images, config.image.roots), manifest)
    (Path(config.out) / "config.yaml").write_text(dump(config))
    refs = [{"image_id": r.image_id, "uri": r.uri, "problem": r.problem} for r in read_manifest(manifest)]
    assert sum(part_sizes) == len(refs)
    for size in part_sizes:
        table = pa.Table.from_pylist([refs.pop(0) for _ in range(size)])
        labelled = reduce(lambda images, stage: stage(images), models, read(table))
        rows = encode(labelled).to_pylist()
        write_part(config.out, *part_tables(rows, *schemas, "run"))
    return prepared

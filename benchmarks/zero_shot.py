"""Label quality without training on labels: CLIP patches, GEM, both with `clip.refine`, and SAM + GEM.

    python -m benchmarks.zero_shot --scenes 100 --seeds 11 12 13

WORDS are `key=value` of `segray annotate`, such as label.templates=imagenet80. All ways share fresh scenes of
the picture book, the model, the names, the background names and the threshold. No Ray: a loop over images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.common import (
    Benchmark,
    available_cores,
    circumstances,
    fresh,
    spread_of,
    table,
    write_result,
)
from benchmarks.labeller import Labeller
from segray.models.label_map import render_label_map
from segray.models.masks import Segment, full_mask, segment_from_mask
from segray.models.metrics import Confusion, class_iou, confusion_matrix, mean_iou
from segray.pipelines.config.commands.annotate import AnnotateConfig
from segray.pipelines.config.loading import load
from segray.pipelines.scenes.picture_book import Scene, draw_scene

STEPS = 10
"""Of `clip.refine`."""
WAYS = {
    "clip": "CLIP patches",
    "clip_refined": f"CLIP patches, refined in {STEPS} steps",
    "gem": "GEM",
    "gem_refined": f"GEM, refined in {STEPS} steps",
    "sam_gem": "SAM + GEM",
}
FOUND = 0.5
"""IoU with an object from which a segment counts as having found it."""


@dataclass
class Seed:
    """What is counted over the scenes of one seed.

    Attributes:
        confusion: of each way, int64 [C, C].
        best: each object's greatest IoU with a segment.
        segments: segments kept in each image; false: those of them that match no object.
        right: of each object, whether GEM names its true mask right.
    """

    confusion: dict[str, Confusion]
    best: list[float] = field(default_factory=list)
    segments: list[int] = field(default_factory=list)
    false: list[int] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)

    def figures(self) -> dict[str, float]:
        """The seed's figures by name."""
        return {
            **{f"miou_{way}": mean_iou(self.confusion[way]) for way in WAYS},
            "sam_best_iou": fmean(self.best),
            "sam_objects_found": fmean(iou >= FOUND for iou in self.best),
            "sam_segments_per_image": fmean(self.segments),
            "sam_false_segments_per_image": fmean(self.false),
            "gem_names_true_masks": fmean(self.right),
        }


def iou_table(segments: Sequence[Segment], objects: Sequence[Segment], height: int, width: int) -> Any:
    """float64 [K, O]: IoU of each of K segments with each of O objects."""

    def flat(group: Sequence[Segment]) -> NDArray[np.float32]:
        masks = [full_mask(s, height, width).ravel() for s in group]
        return np.array(masks, np.float32).reshape(len(group), height * width)

    # Counts up to 2^24 are exact in float32, and so is their sum.
    both = (flat(segments) @ flat(objects).T).astype(np.float64)
    areas = [np.array([s.area for s in group], np.float64) for group in (segments, objects)]
    return both / (areas[0][:, None] + areas[1][None] - both)


def true_segments(scene: Scene) -> tuple[list[Segment], list[int]]:
    """The scene's objects as segments of their visible pixels, and their class ids."""
    numbers = [n for n in range(1, len(scene.objects) + 1) if (scene.instances == n).any()]
    masks = [scene.instances == n for n in numbers]
    return [segment_from_mask(mask) for mask in masks], [int(scene.mask[mask][0]) for mask in masks]


def take(scene: Scene, labeller: Labeller, seed: Seed) -> None:
    """Label one scene in each way and count."""
    height, width = scene.mask.shape
    grids = {kind: labeller.features(scene.image, kind) for kind in ("clip", "gem")}
    segments = labeller.segments(scene.image)
    naming = labeller.name(segments, grids["gem"], height, width)
    labels = {kind: labeller.label_pixels(grid, height, width) for kind, grid in grids.items()}
    for kind, grid in grids.items():
        labels[f"{kind}_refined"] = labeller.label_pixels(grid, height, width, scene.image, STEPS)
    labels["sam_gem"] = render_label_map(segments, naming, height, width)[0]
    for way, label in labels.items():
        seed.confusion[way] += confusion_matrix(scene.mask, label, len(labeller.space.classes))
    objects, class_ids = true_segments(scene)
    iou = iou_table(segments, objects, height, width)
    seed.best += iou.max(0, initial=0.0).tolist()
    seed.segments.append(len(segments))
    seed.false.append(int((iou.max(1, initial=0.0) < FOUND).sum()))
    predicted = labeller.name(objects, grids["gem"], height, width).class_id
    seed.right += (predicted == np.array(class_ids)).tolist()


def measure(labeller: Labeller, number: int, scenes: int, size: int) -> Seed:
    """Everything counted over the first `scenes` scenes of seed `number`."""
    n_classes = len(labeller.space.classes)
    seed = Seed({way: np.zeros((n_classes, n_classes), np.int64) for way in WAYS})
    with click.progressbar(range(scenes), label=f"seed {number}") as bar:
        for index in bar:
            take(draw_scene(number, index, size), labeller, seed)
    return seed


def summary(seeds: Sequence[Seed], classes: Sequence[str]) -> dict[str, Any]:
    """Mean and standard deviation over the seeds of every figure, and of each class's IoU by SAM + GEM."""
    figures = [seed.figures() for seed in seeds]
    ious = [class_iou(seed.confusion["sam_gem"]) for seed in seeds]
    seen = {name: [float(iou[i]) for iou in ious if not np.isnan(iou[i])] for i, name in enumerate(classes)}
    return {
        "figures": {name: spread_of([f[name] for f in figures]) for name in figures[0]},
        "class_iou_sam_gem": {name: spread_of(values) if values else None for name, values in seen.items()},
        "objects": sum(len(seed.best) for seed in seeds),
    }


def show(record: dict[str, Any]) -> str:
    """The record as tables."""

    def row(name: str, spread: dict[str, Any] | None) -> list[str]:
        if spread is None:
            return [name, "-", "-"]
        return [name, f"{spread['mean']:.3f}", "-" if spread["sd"] is None else f"{spread['sd']:.3f}"]

    figures = record["figures"]
    quality = {
        "SAM: mean best IoU of an object": "sam_best_iou",
        f"SAM: objects with IoU >= {FOUND}": "sam_objects_found",
        "SAM: segments an image": "sam_segments_per_image",
        "SAM: false segments an image": "sam_false_segments_per_image",
        "GEM: true masks named right": "gem_names_true_masks",
    }
    parts = [
        table(["mIoU", "mean", "sd"], [row(title, figures[f"miou_{way}"]) for way, title in WAYS.items()]),
        table(["parts", "mean", "sd"], [row(title, figures[name]) for title, name in quality.items()]),
        table(
            ["IoU, SAM + GEM", "mean", "sd"],
            [row(name, spread) for name, spread in record["class_iou_sam_gem"].items()],
        ),
    ]
    return "\n\n".join(parts)


@click.command("zero_shot", cls=Benchmark, help=__doc__)
@click.option("--scenes", default=100, show_default=True, type=click.IntRange(1), help="Scenes of each seed.")
@click.option("--seeds", default=(11, 12, 13), show_default=True, multiple=True, callback=fresh, type=int)
@click.option("--size", default=256, show_default=True, type=click.IntRange(32), help="Side in pixels.")
@click.option(
    "--threads", default=available_cores, type=click.IntRange(1), help="Of torch; default: all cores."
)
@click.option(
    "--out", default=None, type=Path, help="The JSON file; default: benchmarks/results/zero_shot.json."
)
@click.argument("overrides", nargs=-1)
def main(
    scenes: int, seeds: tuple[int, ...], size: int, threads: int, out: Path | None, overrides: tuple[str, ...]
) -> None:
    """Measure, print, record."""
    record = circumstances(seeds)
    config = load(AnnotateConfig, None, [*overrides, "images=none", "out=none", "classes=picture_book"])
    labeller = Labeller(config, threads)
    counted = [measure(labeller, number, scenes, size) for number in seeds]
    record |= {"scenes": scenes, "size": size, "threads": threads, "config": list(overrides)}
    record |= summary(counted, labeller.space.classes)
    click.echo(f"\n{len(seeds)} seeds x {scenes} scenes of {size} px, {record['objects']} objects\n")
    click.echo(show(record))
    click.echo(f"\n{write_result(out, record)}")


if __name__ == "__main__":
    main()

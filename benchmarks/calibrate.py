"""Calibration on a few masks: mIoU on fresh scenes, of labels as they were and calibrated.

    python -m benchmarks.calibrate --work DIR --scenes 100 --seeds 31 32 33 34 35

The built-in models label `--scenes` scenes of each seed in this process, and 32 more to calibrate on, which
are not scored; what they found stays in `--work`. Rows of 8 masks are the mean of four draws: the first,
second, third and last 8 of these 32. In rows of absent classes a third of the classes is named and in no
scene, each third in turn, and the first 8 scenes without them have masks. Class centres and usual stability
scores come from the segments of masks and scored scenes, as in a label set; "alone" knows those with masks
only. No Ray, no label set here. Every pixel counts, and every class that is there: the naming is scored, not
trust.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.common import Benchmark, circumstances, fresh, spread_of, table, write_result
from benchmarks.labeller import Labeller
from segray.models.calibration.heads import normalised
from segray.models.calibration.prompts import Names, Prompts, choose_prompts, evidence_of, with_prompts
from segray.models.calibration.regions import MaskedImage, masked_image
from segray.models.calibration.selection import (
    Choice,
    Labelled,
    Outcome,
    Rule,
    choose,
    gather,
    named_scores,
)
from segray.models.clip.model import build_text_clip
from segray.models.clip.text import embed_label_space
from segray.models.clip.zero_shot import pool_segments
from segray.models.label_space import label_space
from segray.models.metrics import class_iou
from segray.pipelines.config.commands.annotate import AnnotateConfig
from segray.pipelines.config.loading import load
from segray.pipelines.scenes.picture_book import draw_scene

SYNONYMS = {"tree": ["plant"], "car": ["vehicle"], "boat": ["ship"], "person": ["human"]}
"""Names that mean the same to a reader, and nothing to the built-in CLIP."""
POOL = 32
"""Scenes of each seed to calibrate on, before those that are scored."""
THRESHOLD = 0.0
"""`label.threshold` of the label sets."""

THIRDS = ((1, 2, 3), (4, 5, 6), (7, 8, 9))
"""Of the classes' ids."""


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        name: what is shown.
        features: gem or clip.
        masks: how many.
        aliases: names of classes.
        absent: ids of classes of which no scene has any, one set after the other.
    """

    name: str
    features: str
    masks: int
    aliases: Mapping[str, Sequence[str]] = field(default_factory=dict)
    absent: Sequence[tuple[int, ...]] = ((),)


ROWS = [
    Row("SAM + GEM, 8 masks", "gem", 8),
    Row("SAM + GEM, 32 masks", "gem", 32),
    Row("SAM + CLIP's tokens, 8 masks", "clip", 8),
    Row("SAM + CLIP's tokens, 32 masks", "clip", 32),
    Row("four unlucky synonyms, 8 masks", "gem", 8, SYNONYMS),
    Row("SAM + GEM, absent classes, 8 masks", "gem", 8, absent=THIRDS),
    Row("SAM + CLIP's tokens, absent classes, 8 masks", "clip", 8, absent=THIRDS),
]


def images_of(
    seed: int, scenes: int, size: int, work: Path, labeller: Labeller
) -> Iterator[dict[str, MaskedImage]]:
    """The masked images of a seed by features, computed once."""
    for index in range(scenes):
        images = {}
        scene = segments = None
        for kind in ("gem", "clip"):
            path = work / f"{kind}-{size}-{seed}-{index}.npz"
            if not path.exists():
                scene = scene or draw_scene(seed, index, size)
                segments = labeller.segments(scene.image) if segments is None else segments
                pooled = pool_segments(labeller.features(scene.image, kind), segments, size, size)
                image = masked_image(segments, pooled.half().numpy(), scene.mask, len(labeller.space.classes))
                np.savez(path, **{field.name: getattr(image, field.name) for field in fields(image)})
            with np.load(path) as stored:
                images[kind] = MaskedImage(**stored)
        yield images


def names_of(aliases: Mapping[str, Sequence[str]]) -> tuple[Names, Prompts]:
    """The picture book's names with some replaced, and the default prompts."""
    clip = build_text_clip("builtin", None)
    space = label_space("picture_book", None, aliases)
    classifiers = {
        templates: embed_label_space(clip, space, templates) for templates in ("single", "imagenet80")
    }
    ids = classifiers["single"].class_ids.numpy()
    names = Names(
        ids, {name: classifier.embeddings.numpy().astype(float) for name, classifier in classifiers.items()}
    )
    return names, Prompts("single", np.ones(len(ids), bool))


def calibrated(
    images: Sequence[MaskedImage], others: Sequence[MaskedImage], names: Names, default: Prompts
) -> tuple[Prompts, Choice]:
    """What the masks of some images choose, beside the segments of others; none of these: no centres."""
    all_images = [*images, *others]
    stability = np.concatenate([image.stability for image in all_images])
    labelled = gather(images, stability)
    prompts = choose_prompts(labelled, names, default)
    everything = None
    if others:
        stored = np.concatenate([image.embeddings for image in all_images]).astype(float)
        everything = evidence_of(normalised(stored), names, prompts, len(labelled.evidence.named))
    return prompts, choose(with_prompts(labelled, names, prompts), THRESHOLD, everything)


def miou(outcome: Outcome) -> float:
    """Of the classes that are there."""
    confusion = outcome.confusions.sum(0)
    return float(class_iou(confusion)[confusion.any(1)].mean())


def plain_miou(scored: Labelled) -> float:
    """Of the labels as they are."""
    return miou(scored.score(named_scores(scored.evidence), scored.shown(Rule(THRESHOLD))))


def measure(row: Row, images: Sequence[Mapping[str, MaskedImage]]) -> list[dict[str, Any]]:
    """The figures of a row for one seed and each draw of masks, and what was chosen."""
    names, default = names_of(row.aliases)
    of_kind = [image[row.features] for image in images]
    draws: list[dict[str, Any]] = []
    for absent in row.absent:
        pool, fresh_images = (
            [image for image in part if not image.truth[:, list(absent)].any()]
            for part in (of_kind[:POOL], of_kind[POOL:])
        )
        scored = gather(fresh_images)
        plain = plain_miou(with_prompts(scored, names, default))
        for first in (0,) if absent else range(0, POOL, row.masks):
            labelled = pool[first : first + row.masks]
            prompts, choice = calibrated(labelled, fresh_images, names, default)
            alone = calibrated(labelled, [], names, default)
            draws.append(
                {
                    "plain": plain,
                    "alone": _miou_after(scored, names, *alone),
                    "calibrated": _miou_after(scored, names, prompts, choice),
                    "masks": len(labelled),
                    "held_out": choice.outcome.miou,
                    "threshold": choice.rule.threshold,
                    "least_stability": choice.rule.least_stability,
                    "naming": dict(zip(choice.naming.names, map(float, choice.naming.weights), strict=True)),
                    "centres": choice.naming.centres is not None,
                    "templates": prompts.templates,
                    "names_dropped": int((~prompts.used).sum()),
                }
            )
    return draws


def _miou_after(scored: Labelled, names: Names, prompts: Prompts, choice: Choice) -> float:
    named = with_prompts(scored, names, prompts)
    return miou(named.score(choice.naming.shares(named.evidence), named.shown(choice.rule)))


def summary(results: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]) -> dict[str, Any]:
    """Mean and deviation over the seeds of each row's figures, each the mean of its draws."""
    rows = {}
    for name, seeds in results.items():
        means = [
            {key: float(np.mean([draw[key] for draw in draws])) for key in ("plain", "alone", "calibrated")}
            for draws in seeds
        ]
        gains = [mean["calibrated"] - mean["plain"] for mean in means]
        figures = {key: spread_of([mean[key] for mean in means]) for key in ("plain", "alone", "calibrated")}
        rows[name] = {
            **figures,
            "gain_alone": spread_of([mean["alone"] - mean["plain"] for mean in means]),
            "gain": spread_of(gains),
            "worst": min(gains),
            "worst_draw": min(d["calibrated"] - d["plain"] for draws in seeds for d in draws),
            "worst_draw_alone": min(d["alone"] - d["plain"] for draws in seeds for d in draws),
            "seeds": [list(draws) for draws in seeds],
        }
    return rows


def show(rows: Mapping[str, Any]) -> str:
    """The rows as a table, in points of mIoU."""

    def cell(spread: Mapping[str, Any], sign: str = "") -> str:
        return f"{100 * spread['mean']:{sign}.1f} +- {100 * (spread['sd'] or 0):.1f}"

    lines = [
        [
            name,
            cell(row["plain"]),
            cell(row["calibrated"]),
            cell(row["gain"], "+"),
            f"{100 * row['worst']:+.1f}",
            f"{100 * row['worst_draw']:+.1f}",
            cell(row["gain_alone"], "+"),
            f"{100 * row['worst_draw_alone']:+.1f}",
        ]
        for name, row in rows.items()
    ]
    titles = ["mIoU", "plain", "calibrated", "gain", "worst seed", "draw", "gain alone", "draw"]
    return table(titles, lines)


@click.command("calibrate", cls=Benchmark, help=__doc__)
@click.option(
    "--work", required=True, type=click.Path(path_type=Path), help="Folder for what the models found."
)
@click.option(
    "--scenes", default=100, show_default=True, type=click.IntRange(1), help="Scored scenes of each seed."
)
@click.option(
    "--seeds", default=(31, 32, 33, 34, 35), show_default=True, multiple=True, callback=fresh, type=int
)
@click.option("--size", default=256, show_default=True, type=click.IntRange(32), help="Side in pixels.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1), help="Of torch.")
@click.option(
    "--out", default=None, type=Path, help="The JSON file; default: benchmarks/results/calibrate.json."
)
@click.argument("overrides", nargs=-1)
def main(
    work: Path,
    scenes: int,
    seeds: tuple[int, ...],
    size: int,
    threads: int,
    out: Path | None,
    overrides: tuple[str, ...],
) -> None:
    """Measure, print, record."""
    record = circumstances(seeds)
    config = load(AnnotateConfig, None, [*overrides, "images=none", "out=none", "classes=picture_book"])
    labeller = Labeller(config, threads)
    work.mkdir(parents=True, exist_ok=True)
    results: dict[str, list[list[dict[str, Any]]]] = {row.name: [] for row in ROWS}
    for seed in seeds:
        with click.progressbar(length=POOL + scenes, label=f"seed {seed}") as bar:
            images = []
            for masked in images_of(seed, POOL + scenes, size, work, labeller):
                images.append(masked)
                bar.update(1)
        for row in ROWS:
            results[row.name].append(measure(row, images))
    rows = summary(results)
    click.echo(f"\n{show(rows)}")
    record |= {"scenes": scenes, "size": size, "threads": threads, "config": list(overrides), "rows": rows}
    click.echo(f"\n{write_result(out, record)}")


if __name__ == "__main__":
    main()

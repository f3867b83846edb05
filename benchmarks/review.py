"""Clicks of a simulated person on weak labels: mIoU of the labels over clicks, and of a network after ten.

    python -m benchmarks.review --work DIR --scenes 48 --seeds 42 43 44

Each seed draws a picture book and labels it with SAM and CLIP's own tokens, which name segments badly. The
person knows the exact masks. A click gives one segment its true class. `next` clicks what the page's "Correct
next" offers, chosen again after each click. With spread, the person then accepts all that the page marks as
looking like it, without a look; `checked`: only what is right of it. `random` takes segments in any order,
`image by image` every wrong segment of one image after the other. All pixels of all images are scored.

With --epochs, networks train on the labels as they are, and with the ten first clicks and their checked
spread as corrections; both are scored on scenes that neither the person nor the networks have seen.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import click
import numpy as np
from numpy.typing import NDArray

import segray
from benchmarks.common import ROOT, Benchmark, circumstances, fresh, spread_of, table, write_result
from benchmarks.methods import train_once
from segray.models.calibration.regions import MaskedImage, Regions, join_regions
from segray.models.metrics import mean_iou
from segray.pipelines.annotation.relabelling import require_embeddings
from segray.pipelines.calibration.examples import folder_masks, read_examples
from segray.pipelines.commands.demo import RECIPE
from segray.pipelines.corrections import CorrectionLog
from segray.pipelines.corrections.suggestions import SHOWN, Candidates, next_segments
from segray.pipelines.engine import single_process
from segray.pipelines.label_set.store import LabelStore
from segray.pipelines.label_set.stored_segments import shown_pixels
from segray.pipelines.masks.options import MaskOptions
from segray.pipelines.review.neighbours import NeighbourSearch
from segray.pipelines.review.spread import find_alike

CLICKS = (0, 5, 10, 20, 40, 80, 160)
TEN = 10
EXAM, EXAM_SEED = 100, 1000
"""Scenes that networks are scored on, and their seed, which is none of the others'."""
OFFERED = 60
"""Segments that the page offers after a correction."""


@dataclass
class Person:
    """One who knows the truth, and the labels as they become.

    Attributes:
        ids: (image_id, segment_id) of each of the n segments.
        image: int64 [n], the number of its image.
        truth: int64 [n], the class of most of its pixels.
        shown: bool [n], whether it is drawn.
        candidates: the same segments, with the class that each has now.
        search: the page's, for similar ones.
        regions: of the images, to score with.
        settled: bool [n], what was clicked or accepted.
        covered: bool [n], of which the page offers none, as smaller ones cover it.
        recent: the class that each clicked segment had.
    """

    ids: list[tuple[str, int]]
    image: NDArray[np.int64]
    truth: NDArray[np.int64]
    shown: NDArray[np.bool_]
    candidates: Candidates
    search: NeighbourSearch
    regions: Regions
    settled: NDArray[np.bool_]
    covered: NDArray[np.bool_]
    recent: list[int]

    @classmethod
    def of(cls, labels: str, masks: str) -> Person:
        """On a label set with the exact masks of all its images."""
        store = LabelStore(labels)
        names = tuple(store.provenance["classes"])
        dim = require_embeddings(store)
        statuses = {i: status for i, status, _ in store.statuses()}
        readers = folder_masks(masks, MaskOptions(), statuses, names, split=None, allow_missing=True)
        images = read_examples(store, readers, len(names), dim)
        rows = _segments(store, images)
        flat = [row for image_id in images for row in rows[image_id]]
        threshold = float(store.provenance["config"]["label.threshold"])
        embedding = np.array([row["embedding"] for row in flat], np.float16)
        classes = np.array([row["class_id"] for row in flat], np.int32)
        search = NeighbourSearch(embedding, classes)
        return cls(
            [(row["image_id"], row["segment_id"]) for row in flat],
            np.repeat(np.arange(len(images)), [len(rows[i]) for i in images]),
            np.concatenate([image.pixels for image in images.values()]).argmax(1),
            np.array([row["score"] > threshold for row in flat]),
            Candidates(
                embedding,
                np.array([row["margin"] for row in flat], np.float32),
                np.array([row["area"] for row in flat], np.int32),
                classes,
                search.class_means,
            ),
            search,
            join_regions(list(images.values())),
            np.zeros(len(flat), bool),
            np.concatenate([_covered(rows[image_id]) for image_id in images]),
            [],
        )

    @property
    def classes(self) -> NDArray[np.int32]:
        """int32 [n], the class of each segment now."""
        return self.candidates.class_id

    @property
    def miou(self) -> float:
        """Of the labels as they are now."""
        n = int(self.image.max()) + 1
        return mean_iou(self.regions.confusions(self.classes.astype(np.int64), self.shown, n).sum(0)[:, :-1])

    @property
    def wrong(self) -> NDArray[np.bool_]:
        """bool [n]."""
        return self.classes != self.truth

    def click(self, segment: int) -> None:
        """Give a segment its true class."""
        self.recent.append(int(self.classes[segment]))
        self._name([segment], int(self.truth[segment]))

    def spread(self, segment: int, *, checked: bool = False) -> list[int]:
        """Accept what the page marks after a click on a segment; those segments.

        Args:
            segment: that was clicked.
            checked: only what has its class.
        """
        new = int(self.truth[segment])
        found = find_alike(self.search, self.classes, self.settled, segment, new, OFFERED)
        rows = found.found.rows[found.alike]
        accepted: list[int] = (rows[self.truth[rows] == new] if checked else rows).tolist()
        self._name(accepted, new)
        return accepted

    def _name(self, segments: list[int], class_id: int) -> None:
        self.classes[segments] = class_id
        self.shown[segments] = self.settled[segments] = True


def _segments(store: LabelStore, images: Mapping[str, MaskedImage]) -> dict[str, list[dict[str, Any]]]:
    """The rows of the segments table, by image."""
    columns = ["image_id", "segment_id", "class_id", "score", "margin", "area", "embedding"]
    columns += ["rle", "predicted_iou", "stability_score"]
    found: dict[str, list[dict[str, Any]]] = {image_id: [] for image_id in images}
    for part in store.parts():
        for row in store.segments(part, columns).to_pylist():
            if row["image_id"] in found:
                found[row["image_id"]].append(row)
    return found


def _covered(rows: list[dict[str, Any]]) -> NDArray[np.bool_]:
    """bool [K], of the segments of an image."""
    if not rows:
        return np.zeros(0, bool)
    return shown_pixels(rows, *rows[0]["rle"]["size"]) < SHOWN * np.array([row["area"] for row in rows])


def offered(person: Person, rng: np.random.Generator) -> Iterator[int]:  # noqa: ARG001  as the others
    """What "Correct next" opens."""
    while (found := next_segments(person.candidates, person.settled | person.covered, 1, person.recent)).size:
        yield int(found[0])


def random_segments(person: Person, rng: np.random.Generator) -> Iterator[int]:
    """Any order."""
    yield from rng.permutation(len(person.ids)).tolist()


def image_by_image(person: Person, rng: np.random.Generator) -> Iterator[int]:
    """All wrong segments of one image after the other."""
    for image in rng.permutation(int(person.image.max()) + 1):
        yield from np.flatnonzero((person.image == image) & person.wrong).tolist()


Order = Callable[[Person, np.random.Generator], Iterator[int]]
Spread = Literal["none", "accepted", "checked"]
WAYS: dict[str, tuple[Order, Spread]] = {
    "next, spread": (offered, "accepted"),
    "next, spread checked": (offered, "checked"),
    "next": (offered, "none"),
    "random, spread": (random_segments, "accepted"),
    "random": (random_segments, "none"),
    "image by image": (image_by_image, "none"),
}


def curve(person: Person, way: str, seed: int) -> list[float]:
    """mIoU after each number of `CLICKS`."""
    order, spreads = WAYS[way]
    segments = order(person, np.random.default_rng(seed))
    scores = []
    for count in range(CLICKS[-1] + 1):
        if count:
            segment = next(segments, None)
            if segment is not None:
                person.click(segment)
                if spreads != "none":
                    person.spread(segment, checked=spreads == "checked")
        if count in CLICKS:
            scores.append(person.miou)
    return scores


def prepare(work: Path, seed: int, scenes: int) -> tuple[Path, Path]:
    """Draw and label the scenes of a seed, unless that was done before: (data set, label set)."""
    book, labels = _scenes(work / f"book-{seed}", scenes, seed), work / f"labels-{seed}"
    # In this process: Ray would take longer to start.
    with patch.object(single_process, "FEW", scenes):
        segray.annotate(
            images=str(book / "images"), out=str(labels), classes="picture_book", clip={"features": "clip"}
        )
    return book, labels


def _scenes(folder: Path, count: int, seed: int) -> Path:
    if not (folder / "class_names.txt").exists():
        words = ["picture-book", f"out={folder}", f"n={count}", f"seed={seed}"]
        subprocess.run([sys.executable, "-m", "segray.pipelines.cli", *words], check=True, cwd=ROOT)
    return folder


def held_out(book: Path, labels: Path, folder: Path, seed: int, epochs: int) -> float:
    """mIoU on other scenes of a network that is trained on the labels as they are now."""
    exam = _scenes(book.with_name("exam"), EXAM, EXAM_SEED)
    words = [*RECIPE, "trackers=", f"data.root={book}", f"data.labels={labels}", f"train.epochs={epochs}"]
    # All images of the label set, as any of them may have been corrected.
    words += [f"data.unlabelled={book / 'images'}", "data.validation=none"]
    train_once([*words, "data.labelled=2", f"seed={seed}"], folder)
    checkpoint = max(folder.glob("checkpoint_*"))
    places = {"images": exam / "images", "masks": exam / "masks", "out": folder / "exam"}
    return segray.evaluate(checkpoint=str(checkpoint), **{k: str(v) for k, v in places.items()}).miou


def correct(labels: Path, masks: Path) -> tuple[int, float, float]:
    """Ten clicks and their checked spread as corrections: their number, mIoU of labels before and after."""
    person = Person.of(str(labels), str(masks))
    log, names = CorrectionLog(labels), LabelStore(str(labels)).provenance["classes"]
    before, named = person.miou, []
    for _, segment in zip(range(TEN), offered(person, np.random.default_rng(0)), strict=False):
        person.click(segment)
        named += [segment, *person.spread(segment, checked=True)]
    if not log.images():
        made = [
            log.make(
                person.ids[k][0], "name", segments=(person.ids[k][1],), class_name=names[person.classes[k]]
            )
            for k in dict.fromkeys(named)
        ]
        log.append(made)
    return len(set(named)), before, person.miou


@click.command("review", cls=Benchmark, help=__doc__)
@click.option(
    "--work", required=True, type=click.Path(path_type=Path), help="Folder for scenes, labels and runs."
)
@click.option("--scenes", default=48, show_default=True, type=click.IntRange(5), help="Scenes of each seed.")
@click.option("--seeds", default=(42, 43, 44), show_default=True, multiple=True, callback=fresh, type=int)
@click.option(
    "--epochs", default=0, show_default=True, type=click.IntRange(0), help="Of the networks; 0: none."
)
@click.option(
    "--out", default=None, type=Path, help="The JSON file; default: benchmarks/results/review.json."
)
def main(work: Path, scenes: int, seeds: tuple[int, ...], epochs: int, out: Path | None) -> None:
    """Measure, print, record."""
    record = circumstances(seeds)
    found: dict[str, list[list[float]]] = {way: [] for way in WAYS}
    networks: list[dict[str, Any]] = []
    for seed in seeds:
        book, labels = prepare(work.resolve(), seed, scenes)
        for way in WAYS:
            found[way].append(curve(Person.of(str(labels), str(book / "masks")), way, seed))
        if epochs:
            networks.append(_networks(book, labels, seed, epochs))
    record |= {"scenes": scenes, "epochs": epochs, "clicks": list(CLICKS)}
    record |= {"curves": {way: _spreads(curves) for way, curves in found.items()}, "networks": networks}
    click.echo(_shown(found, networks))
    click.echo(f"\n{write_result(out, record)}")


def _networks(book: Path, labels: Path, seed: int, epochs: int) -> dict[str, Any]:
    plain = held_out(book, labels, book.with_name(f"plain-{seed}"), seed, epochs)
    segments, before, after = correct(labels, book / "masks")
    corrected = held_out(book, labels, book.with_name(f"corrected-{seed}"), seed, epochs)
    return {"seed": seed, "segments": segments, "labels": [before, after], "miou": [plain, corrected]}


def _spreads(curves: Sequence[Sequence[float]]) -> list[dict[str, Any]]:
    return [spread_of([curve[i] for curve in curves]) for i in range(len(CLICKS))]


def _shown(found: Mapping[str, Sequence[Sequence[float]]], networks: Sequence[Mapping[str, Any]]) -> str:
    rows = [[way, *(f"{100 * s['mean']:.1f}" for s in _spreads(curves))] for way, curves in found.items()]
    lines = [table(["mIoU after clicks", *map(str, CLICKS)], rows)]
    if networks:
        gains = spread_of([one["miou"][1] - one["miou"][0] for one in networks])
        pairs = ", ".join("{:.1f} to {:.1f}".format(*(100 * m for m in one["miou"])) for one in networks)
        gain = f"{100 * gains['mean']:+.1f} +- {100 * (gains['sd'] or 0):.1f}"
        lines.append(f"network after ten clicks: {pairs}; gain {gain}")
    return "\n\n".join(lines)


if __name__ == "__main__":
    main()

"""Statistics of a label set, and the rows of the images that its report shows."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.manifest import MANIFEST, read_manifest
from segray.pipelines.label_set.part_reader import PartReader
from segray.pipelines.label_set.part_rows import read_part
from segray.pipelines.label_set.store import LabelStore

N_BINS = 20
N_BAD_SHOWN = 100

_LIGHT = ["image_id", "status", "error", "width", "height", "class_ids", "class_pixels"]
_LIGHT += ["mean_confidence", "labelled_fraction", "n_segments"]
_HEAVY = [*_LIGHT, "sha256", "image", "label", "confidence"]


@dataclass
class Totals:
    """Counts over all images of a label set with C classes.

    Attributes:
        statuses: images by status.
        pixels: int64 [C], pixels of each class.
        images: int64 [C], images that contain each class.
        n_pixels: pixels of all ok images.
        n_segments: segments of all ok images.
        covered: pixels in a segment with a class, the background included.
        histogram: int64 [N_BINS], ok images by mean confidence from 0 to 1.
        confidence_sum: over the images in the histogram.
        bad: the first `N_BAD_SHOWN` images without a label: (image_id, status, reason).
    """

    n_classes: int
    statuses: Counter[str] = field(default_factory=Counter)
    n_pixels: int = 0
    n_segments: int = 0
    covered: float = 0.0
    confidence_sum: float = 0.0
    bad: list[tuple[str, str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pixels: NDArray[np.int64] = np.zeros(self.n_classes, np.int64)
        self.images: NDArray[np.int64] = np.zeros(self.n_classes, np.int64)
        self.histogram: NDArray[np.int64] = np.zeros(N_BINS, np.int64)

    @property
    def n_ok(self) -> int:
        """Images with a label."""
        return self.statuses["ok"]

    @property
    def n_bad(self) -> int:
        """Images without a label."""
        return self.statuses.total() - self.n_ok

    @property
    def n_found(self) -> int:
        """Classes other than 0 that occur."""
        return int((self.images[1:] > 0).sum())

    @property
    def covered_share(self) -> float:
        """Share of all ok images' pixels in a segment with a class; nan without pixels."""
        return self.covered / self.n_pixels if self.n_pixels else math.nan

    @property
    def class_share(self) -> float:
        """Share of all ok images' pixels that carry a class other than 0; nan without pixels."""
        return int(self.pixels[1:].sum()) / self.n_pixels if self.n_pixels else math.nan

    @property
    def ignored_share(self) -> float:
        """Share of all ok images' pixels with the ignore index; nan without pixels."""
        return 1 - int(self.pixels.sum()) / self.n_pixels if self.n_pixels else math.nan

    @property
    def mean_confidence(self) -> float:
        """Mean over images of their mean confidence; nan without images."""
        count = int(self.histogram.sum())
        return self.confidence_sum / count if count else math.nan

    def add(self, row: dict[str, Any]) -> None:
        """Count one row."""
        self.statuses[row["status"]] += 1
        if row["status"] != "ok":
            if len(self.bad) < N_BAD_SHOWN:
                self.bad.append((row["image_id"], row["status"], row["error"] or "no reason given"))
            return
        self.n_pixels += row["width"] * row["height"]
        self.covered += row["width"] * row["height"] * (row["labelled_fraction"] or 0.0)
        self.n_segments += row["n_segments"] or 0
        for class_id, pixels in zip(row["class_ids"] or (), row["class_pixels"] or (), strict=True):
            # Ids beyond the classes are the ignore index.
            if class_id < self.n_classes and pixels:
                self.pixels[class_id] += pixels
                self.images[class_id] += 1
        confidence = row["mean_confidence"]
        if _finite(confidence) is not None:
            self.histogram[min(int(confidence * N_BINS), N_BINS - 1)] += 1
            self.confidence_sum += confidence


def totals(store: LabelStore, n_classes: int) -> Totals:
    """Count all rows, without reading image columns."""
    result = Totals(n_classes)
    for row in store.rows(columns=_LIGHT):
        result.add(row)
    return result


class Choice(NamedTuple):
    """Location of an image in the label set, and its mean confidence."""

    confidence: float
    image_id: str
    part: str
    row: int


def choose(store: LabelStore, n: int) -> tuple[list[Choice], list[Choice]]:
    """The n least and the n most certain images with a label; no image is in both.

    Reads only the columns image_id and mean_confidence, and holds no more than one part and 2n choices.

    Returns:
        (least certain, the least first), (most certain, the most first).
    """
    low: list[Choice] = []
    high: list[Choice] = []
    for part in store.parts():
        rows = enumerate(store.rows(columns=["image_id", "mean_confidence"], parts=[part]))
        scored = [(_finite(r["mean_confidence"]), r["image_id"], i) for i, r in rows]
        choices = [Choice(score, image_id, part, i) for score, image_id, i in scored if score is not None]
        low = heapq.nsmallest(n, low + choices)
        high = heapq.nlargest(n, high + choices)
    together = sorted({*low, *high})
    if len(together) < 2 * n:
        half = (len(together) + 1) // 2
        low, high = together[:half], together[half:][::-1]
    return low, high


def read_chosen(
    store: LabelStore, chosen: Iterable[Choice], columns: list[str] = _HEAVY
) -> Iterator[dict[str, Any]]:
    """The rows of the chosen images, part by part; reads only the row groups that contain them.

    Raises:
        UserError: a part is damaged.
    """
    by_part: dict[str, list[int]] = {}
    for choice in chosen:
        by_part.setdefault(choice.part, []).append(choice.row)
    for part, wanted in sorted(by_part.items()):
        yield from read_part(store, part, partial(_rows, wanted, columns))


def read_uris(root: str, image_ids: Collection[str]) -> dict[str, str]:
    """URIs of the images from the label set's manifest; empty if it is missing or damaged."""
    wanted = set(image_ids)
    try:
        refs = read_manifest(storage.join(root, MANIFEST))
        return dict(islice(((ref.image_id, ref.uri) for ref in refs if ref.image_id in wanted), len(wanted)))
    except UserError:
        return {}


def _rows(wanted: list[int], columns: list[str], file: PartReader) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for group, inside in file.groups_of(wanted):
        rows += file.read_row_group(group, columns=columns).take(inside).to_pylist()
    return rows


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)

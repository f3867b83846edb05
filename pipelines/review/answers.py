"""What the page is told, as plain values for JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segray.models.label_space import no_class_name
from segray.pipelines.corrections.correction import Correction, undone
from segray.pipelines.engine.provenance import STAGES
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.printing import visible
from segray.pipelines.review.browse import share_of
from segray.pipelines.review.review import Review

_MOST_SIMILAR = 6


def about(review: Review) -> dict[str, object]:
    """The label set: classes, counts, and what can be done with it."""
    images, segments = review.index.images, review.index.segments
    return {
        "fingerprint": review.fingerprint,
        "session": review.session,
        "name": visible(storage.display(review.places.root)),
        "who": visible(review.places.who),
        "classes": [_class(review, i) for i in range(len(review.classes))],
        "images": len(images),
        "labelled": int(images.labelled.sum()),
        "segments": len(segments),
        "corrected": int(review.marks.corrected.sum()),
        "good": int(review.marks.good.sum()),
        "truth": review.truth is not None,
        "compare": review.other is not None,
        "ignore": review.ignore_index,
        "embeddings": bool(segments.embedding.size),
        "naming": review.naming.problem,
        "next": len(segments) > 0,
        "made": _models(review.provenance),
        "progress": progress(review),
    }


def progress(review: Review) -> dict[str, object]:
    """How far labels are compared, and with what result."""
    found = review.scorer.progress
    means = {name: _mean(getattr(review.marks, name)) for name in ("errors", "disagreement")}
    return {"done": found.done, "total": found.total, "problem": found.problem, **means}


def tile(review: Review, image: int) -> dict[str, object]:
    """An image in the grid."""
    images, marks = review.index.images, review.marks
    return {
        "n": image,
        "id": visible(images.ids[image]),
        "width": int(images.width[image]),
        "height": int(images.height[image]),
        "problem": visible(images.errors[image]),
        "confidence": _number(images.confidence[image]),
        "margin": _number(images.margin[image]),
        "segments": int(images.count[image]),
        "classes": _classes(review, image),
        "corrected": bool(marks.corrected[image]),
        "good": bool(marks.good[image]),
        "errors": _number(marks.errors[image]),
        "disagreement": _number(marks.disagreement[image]),
        "rank": _number(marks.rank[image]),
        "version": review.corrections.version(image),
    }


def detail(review: Review, image: int, names: str, similar_to: str) -> dict[str, object]:
    """An image in the viewer: its segments and the history of its corrections.

    Args:
        review: the label set.
        image: its number.
        names: a key of `Naming.add`, whose label is shown; "": the label set's.
        similar_to: a key, whose cosines are shown; "": the two that are stored.

    Raises:
        UserError: the image has no label, or a damaged one.
    """
    corrected = review.corrected(image, names)
    rows = review.index.segments.of(image)
    rles = {one["segment_id"]: one["rle"] for one in review.rows.segments(image)}
    similar = _similarities(review, rows, similar_to)
    return {
        **tile(review, image),
        "parts": [
            _segment(review, row, corrected.segments, rles, similar[row - rows.start])
            for row in range(rows.start, rows.stop)
        ],
        "history": history(review.corrections.of(image)),
    }


def next_segment(review: Review) -> dict[str, object]:
    """What to correct next: an image and a segment_id; null where none is left, or not `ready`."""
    row = review.queue.next()
    found: dict[str, object] = {"image": None, "segment": None, "ready": review.queue.ready}
    if row is None:
        return found
    segments = review.index.segments
    return {**found, "image": segments.image_of(row), "segment": int(segments.number[row])}


def history(corrections: Sequence[Correction]) -> list[dict[str, object]]:
    """Corrections of an image, the first one first; `undone` says which are taken back."""
    gone = undone(corrections)
    return [
        {
            "key": one.key,
            "kind": one.kind,
            "segments": list(one.segments),
            "class": one.class_name,
            "who": visible(one.who),
            "when": one.when.isoformat(timespec="seconds"),
            "target": one.target,
            "undone": one.key in gone,
        }
        for one in corrections
    ]


def found_alike(review: Review, row: int, class_id: int, count: int) -> dict[str, object]:
    """The segments that look like a corrected one.

    Raises:
        UserError: the label set has no embeddings.
    """
    found = review.alike(row, class_id, count)
    segments, images = review.index.segments, review.index.images
    rows, distances = found.found.rows.tolist(), found.found.distances.tolist()
    return {
        "segments": [
            {
                "row": one,
                "image": (image := segments.image_of(one)),
                "id": visible(images.ids[image]),
                "number": int(segments.number[one]),
                "class": int(review.corrections.segment_class[one]),
                "area": int(segments.area[one]),
                "distance": round(distance, 4),
                "alike": bool(alike),
            }
            for one, distance, alike in zip(rows, distances, found.alike.tolist(), strict=True)
        ]
    }


def class_counts(review: Review) -> list[int]:
    """Images with each class, after corrections."""
    classes = range(len(review.classes))
    return [int((share_of(review.index.images, review.marks, i) > 0).sum()) for i in classes]


def _segment(
    review: Review, row: int, class_id: Mapping[int, int], rles: Mapping[int, Any], similar: list[list[float]]
) -> dict[str, object]:
    segments = review.index.segments
    number = int(segments.number[row])
    counts = (rles.get(number) or {}).get("counts")
    if counts is None:
        raise UserError(f"segment {number}: no mask; see segray verify", exit_code=1)
    return {
        "row": row,
        "number": number,
        "class": class_id.get(number, int(segments.class_id[row])),
        "stored": int(segments.class_id[row]),
        "score": _number(segments.score[row]),
        "margin": _number(segments.margin[row]),
        "area": int(segments.area[row]),
        "box": segments.bounds(row),
        "rle": counts.decode("ascii", "replace"),
        "similar": similar,
    }


def _similarities(review: Review, rows: slice, names: str) -> list[list[list[float]]]:
    """(class id, cosine) of each segment's most similar classes; without CLIP, of the two that are stored."""
    if not names:
        return [_two_best(review, row) for row in range(rows.start, rows.stop)]
    cosines = review.naming.similarities(names, rows)
    best = np.argsort(-cosines, axis=1)[:, :_MOST_SIMILAR]
    return [
        [[i, round(float(one[i]), 4)] for i in ids] for one, ids in zip(cosines, best.tolist(), strict=True)
    ]


def _two_best(review: Review, row: int) -> list[list[float]]:
    segments = review.index.segments
    score, margin = float(segments.score[row]), float(segments.margin[row])
    class_id = int(segments.class_id[row])
    if not class_id and segments.runner_up[row] == 0:
        # Below the threshold: which class was the best is not stored.
        class_id = review.ignore_index
    found = [[class_id, round(score, 4)]]
    if segments.runner_up[row] >= 0:
        found.append([int(segments.runner_up[row]), round(score - margin, 4)])
    return found


def _classes(review: Review, image: int) -> list[list[float]]:
    """(class id, share of the pixels), the largest first, without the background."""
    shares = review.marks.shares.get(image, review.index.images.classes(image))
    return [[i, round(share, 4)] for i, share in sorted(shares.items(), key=lambda pair: -pair[1]) if i]


def _class(review: Review, class_id: int) -> dict[str, object]:
    name = review.classes[class_id]
    return {
        "id": class_id,
        "name": visible(name),
        "raw": name,
        "colour": "#" + bytes(review.palette[class_id]).hex(),
        "none": class_id == 0 and no_class_name(name) is not None,
    }


def _models(provenance: Mapping[str, Any]) -> dict[str, str]:
    """The models that made the label set."""
    sections = {name: provenance.get(name) for name in STAGES}
    return {name: visible(str(one.get("model"))) for name, one in sections.items() if isinstance(one, dict)}


def _mean(values: Any) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else None


def _number(value: Any) -> float | None:
    number = float(value)
    return round(number, 5) if math.isfinite(number) else None

"""run.json: what a label set holds, counted from its finished parts, and how the last run went."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from segray.pipelines.engine.ledger import Tally
from segray.pipelines.engine.progress import summary_lines
from segray.pipelines.engine.run_record import RunRecord, SomeImages
from segray.pipelines.io import storage
from segray.pipelines.label_set.store import LabelStore

_BAD_SHOWN = 20
_EMPTY_SHOWN = 5


@dataclass(frozen=True)
class LabelSetResult:
    """What `annotate` or `relabel` wrote; as text, the summary that the command prints.

    Attributes:
        out: folder or URI of the label set.
        ok: images with a label.
        error: images that failed.
        skipped: images that were left out.
        n_segments: segments of all images.
        labelled_fraction: share of the pixels with a confidence.
        bad: image_id, status and reason of the first images without a label.
        seconds: how long the run took.
        summary: the printed lines.
    """

    out: str
    ok: int
    error: int
    skipped: int
    n_segments: int
    labelled_fraction: float
    bad: tuple[tuple[str, str, str], ...]
    seconds: float
    summary: tuple[str, ...]

    @classmethod
    def of(cls, record: RunRecord, out: str) -> LabelSetResult:
        """The result of a run with this content of run.json (`summarise`)."""
        return cls(
            out=out,
            ok=record["rows"]["ok"],
            error=record["rows"]["error"],
            skipped=record["rows"]["skipped"],
            n_segments=record["n_segments"],
            labelled_fraction=record["labelled_fraction"],
            bad=tuple(record["bad"]),
            seconds=record["this_run"]["seconds"],
            summary=tuple(summary_lines(record, storage.display(out))),
        )

    @property
    def images(self) -> int:
        """All images, with and without a label."""
        return self.ok + self.error + self.skipped

    def __str__(self) -> str:
        return "\n".join(self.summary)


def summarise(store: LabelStore, provenance: dict[str, Any], tally: Tally, seconds: float) -> RunRecord:
    """Count what the parts hold, in constant memory, and describe the run that has just ended."""
    rows: Counter[str] = Counter({"ok": 0, "error": 0, "skipped": 0})
    pixels: Counter[int] = Counter()
    images: Counter[int] = Counter()
    bad: list[tuple[str, str, str]] = []
    area, labelled, n_segments = 0, 0.0, 0
    empty: SomeImages = {"count": 0, "first": []}
    unnamed: SomeImages = {"count": 0, "first": []}
    columns = [
        "image_id",
        "status",
        "error",
        "width",
        "height",
        "class_ids",
        "class_pixels",
        "labelled_fraction",
    ]
    for row in store.rows([*columns, "n_segments"]):
        rows[row["status"]] += 1
        if row["status"] != "ok":
            bad.append((row["image_id"], row["status"], row["error"]))
            bad = sorted(bad)[:_BAD_SHOWN]
            continue
        size = row["width"] * row["height"]
        area, labelled = area + size, labelled + size * row["labelled_fraction"]
        n_segments += row["n_segments"]
        if not row["n_segments"]:
            _add(empty, row["image_id"])
        elif not row["labelled_fraction"]:
            _add(unnamed, row["image_id"])
        pixels.update(dict(zip(row["class_ids"], row["class_pixels"], strict=True)))
        images.update(row["class_ids"])
    record: RunRecord = {
        "rows": dict(rows),
        "labelled_fraction": labelled / area if area else 0.0,
        "n_segments": n_segments,
        "classes": [
            {
                "name": name,
                "pixels": pixels[i],
                "share": pixels[i] / area if area else 0.0,
                "images": images[i],
            }
            for i, name in enumerate(provenance["classes"])
        ],
        "bad": bad,
        "this_run": {
            "images": sum(tally.rows.values()),
            "seconds": round(seconds, 1),
            "stage_seconds": {name: round(s, 1) for name, s in tally.seconds.items()},
            "workers": tally.workers,
            "utilisation": {name: round(share, 3) for name, share in tally.utilisation().items()},
            "restarts": tally.restarts,
            "probe": {name: round(s, 4) for name, s in tally.probe.items()},
            "gpu_busy": round(tally.gpu_busy / tally.gpu_samples, 3) if tally.gpu_samples else None,
        },
        "config_hash": provenance["config_hash"],
        "versions": provenance["versions"],
        "finished": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    if provenance.get("sam", {}).get("model") != "none":
        record["no_segments"], record["no_class"] = empty, unnamed
    return record


def _add(images: SomeImages, image_id: str) -> None:
    images["count"] += 1
    images["first"] = sorted([*images["first"], image_id])[:_EMPTY_SHOWN]

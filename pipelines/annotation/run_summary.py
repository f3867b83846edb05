"""run.json: what a label set holds, counted from its finished parts, and how the last run went."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Any

from segray.pipelines.engine.ledger import Tally
from segray.pipelines.engine.run_record import RunRecord
from segray.pipelines.label_set.store import LabelStore

_BAD_SHOWN = 20


def summarise(store: LabelStore, provenance: dict[str, Any], tally: Tally, seconds: float) -> RunRecord:
    """Count what the parts hold, in constant memory, and describe the run that has just ended."""
    rows: Counter[str] = Counter({"ok": 0, "error": 0, "skipped": 0})
    pixels: Counter[int] = Counter()
    images: Counter[int] = Counter()
    bad: list[tuple[str, str, str]] = []
    area, labelled, n_segments = 0, 0.0, 0
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
        pixels.update(dict(zip(row["class_ids"], row["class_pixels"], strict=True)))
        images.update(row["class_ids"])
    return {
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
        },
        "config_hash": provenance["config_hash"],
        "versions": provenance["versions"],
        "finished": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }

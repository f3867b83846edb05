from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from segray.pipelines.annotation.run_summary import summarise
from segray.pipelines.engine.ledger import Tally
from segray.pipelines.label_set.store import LabelStore, write_part, write_run
from tests.pipelines.label_sets import CLASSES, IDS, PROVENANCE, error_row, ok_row, tables, write_set

RECORD = {**PROVENANCE, "config_hash": "ab" * 32, "versions": {"torch": "2.14"}}
PIXELS = 20 * 30


@pytest.fixture
def store(tmp_path: Path) -> LabelStore:
    """Five labelled images and a bad one."""
    write_set(tmp_path)
    return LabelStore(str(tmp_path))


def test_it_counts_what_the_parts_hold(store: LabelStore) -> None:
    found = summarise(store, RECORD, Tally(), 0.0)
    assert found["rows"] == {"ok": 5, "error": 1, "skipped": 0}
    assert found["n_segments"] == 10
    assert found["labelled_fraction"] == pytest.approx(0.25)
    assert found["classes"] == [
        {"name": name, "pixels": 5 * n, "share": pytest.approx(n / PIXELS), "images": 5}
        for name, n in zip(CLASSES, (427, 63, 80), strict=True)
    ]
    assert found["bad"] == [(IDS[-1], "error", "truncated")]
    assert (found["config_hash"], found["versions"]) == ("ab" * 32, {"torch": "2.14"})
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", found["finished"])


def test_images_count_by_their_size(tmp_path: Path) -> None:
    rows = [ok_row("a", labelled_fraction=1.0), ok_row("b", labelled_fraction=0.0, width=90, n_segments=0)]
    write_part(str(tmp_path), *tables(rows, []))
    found = summarise(LabelStore(str(tmp_path)), RECORD, Tally(), 0.0)
    assert found["labelled_fraction"] == pytest.approx(0.25)
    assert found["no_segments"] == {"count": 1, "first": ["b"]}
    assert found["no_class"] == {"count": 0, "first": []}
    without_sam = summarise(LabelStore(str(tmp_path)), {**RECORD, "sam": {"model": "none"}}, Tally(), 0.0)
    assert "no_segments" not in without_sam


def test_images_whose_segments_have_no_class_are_counted(tmp_path: Path) -> None:
    rows = [ok_row("a", labelled_fraction=1.0), ok_row("b", labelled_fraction=0.0, n_segments=21)]
    write_part(str(tmp_path), *tables(rows, []))
    found = summarise(LabelStore(str(tmp_path)), RECORD, Tally(), 0.0)
    assert found["no_class"] == {"count": 1, "first": ["b"]}


def test_the_first_bad_images_are_listed_in_order(tmp_path: Path) -> None:
    names = [f"{i:02}.jpg" for i in range(30)]
    for name in (*names[15:], *names[:15]):
        write_part(str(tmp_path), *tables([error_row(name, status="skipped", error=f"reason {name}")]))
    found = summarise(LabelStore(str(tmp_path)), RECORD, Tally(), 0.0)
    assert found["rows"] == {"ok": 0, "error": 0, "skipped": 30}
    assert found["bad"] == [(name, "skipped", f"reason {name}") for name in names[:20]]
    assert (found["labelled_fraction"], found["n_segments"]) == (0.0, 0)
    assert {entry["pixels"] for entry in found["classes"]} == {0}


def test_this_run_is_told_apart_from_what_was_there(store: LabelStore) -> None:
    tally = Tally(
        Counter({"ok": 2, "error": 1}),
        {"sam": 1.26, "write": 0.04},
        restarts=3,
        began={"sam": 10.0},
        ended={"sam": 11.0},
        workers={"sam": 2},
        probe={"sam": 0.123456},
        gpu_busy=1.9,
        gpu_samples=2,
    )
    assert summarise(store, RECORD, tally, 12.34)["this_run"] == {
        "images": 3,
        "seconds": 12.3,
        "stage_seconds": {"sam": 1.3, "write": 0.0},
        "workers": {"sam": 2},
        "utilisation": {"sam": 0.63},
        "restarts": 3,
        "probe": {"sam": 0.1235},
        "gpu_busy": 0.95,
    }


def test_it_is_written_and_read_as_json(store: LabelStore) -> None:
    found = summarise(store, RECORD, Tally(), 0.0)
    write_run(store.root, found)
    assert store.run() == json.loads(json.dumps(found))

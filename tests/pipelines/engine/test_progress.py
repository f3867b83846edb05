from __future__ import annotations

import sys
import threading
from collections import Counter
from typing import Any

import pytest

from segray.pipelines.engine import progress
from segray.pipelines.engine.ledger import Ledger, Tally
from segray.pipelines.engine.progress import (
    Progress,
    bottleneck_lines,
    clock,
    progress_line,
    resumable,
    summary_lines,
)


def tally(sam: int = 0, restarts: int = 0, **rows: int) -> Tally:
    return Tally(rows=Counter(rows), images=Counter({"sam": sam}), restarts=restarts)


@pytest.mark.parametrize(
    ("found", "line"),
    [
        (tally(), "annotate  50/150  waiting for the models and the first images (0:10)"),
        (tally(sam=20), "annotate  70/150  2.0 images/s  0:40 left  written: 0 ok  0 bad"),
        (
            tally(sam=20, ok=7, error=2, skipped=1),
            "annotate  70/150  2.0 images/s  0:40 left  written: 7 ok  3 bad",
        ),
        (tally(sam=1, error=10), "annotate  60/150  1.0 images/s  1:30 left  written: 0 ok  10 bad"),
        # A worker that died takes its images again, so that more may go through SAM than there are.
        (
            tally(sam=104, ok=96, restarts=2),
            "annotate  150/150  10.0 images/s  0:00 left  written: 96 ok  0 bad  restarts 2",
        ),
    ],
)
def test_the_line_counts_images_and_guesses_the_rest(found: Tally, line: str) -> None:
    assert progress_line(found, total=100, before=50, seconds=10.0) == line


def test_the_first_moment_divides_by_nothing() -> None:
    assert "0.0 images/s  ? left" in progress_line(tally(sam=1), 10, 0, 0.0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (59.4, "0:59"), (59.6, "1:00"), (3599, "59:59"), (3600, "1:00:00"), (90061, "25:01:01")],
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


class Watched(Ledger):
    """A ledger that knows when it was asked; from the second time on it may fail."""

    def __init__(self, *, fails: bool = False) -> None:
        super().__init__()
        self.asked, self.fails = threading.Semaphore(0), fails

    def tally(self) -> Tally:
        self.asked.release()
        if self.fails:
            raise ConnectionError("the cluster has gone")
        return super().tally()


def _look(run_ledger: Watched) -> None:
    """Until the display has shown what the ledger says now."""
    while run_ledger.asked.acquire(blocking=False):
        pass
    for _ in range(2):
        assert run_ledger.asked.acquire(timeout=60)


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_TTY_S", 0.001)
    monkeypatch.setattr(progress, "_LOG_S", 0.001)


@pytest.mark.usefixtures("fast")
def test_a_log_gets_a_line_when_something_has_moved(capsys: pytest.CaptureFixture[str]) -> None:
    run_ledger: Any = Watched()
    with Progress(run_ledger, 4, 0):
        _look(run_ledger)
        run_ledger.committed({"ok": 4}, 0.0)
        _look(run_ledger)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert "\r" not in err
    assert lines[0].startswith("annotate  0/4  waiting for the models and the first images")
    assert "annotate  4/4" in lines[-1]
    assert lines.count(lines[0]) == 1


@pytest.mark.usefixtures("fast")
def test_a_terminal_gets_one_line_that_is_wiped_at_the_end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    run_ledger: Any = Watched()
    with Progress(run_ledger, 4, 2):
        _look(run_ledger)
    err = capsys.readouterr().err
    assert err.startswith("\r\033[Kannotate  2/6")
    assert err.endswith("\r\033[K")
    assert "\n" not in err


@pytest.mark.usefixtures("fast")
def test_a_lost_ledger_ends_the_display_and_not_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    run_ledger: Any = Watched(fails=True)
    with Progress(run_ledger, 4, 2):
        assert run_ledger.asked.acquire(timeout=60)
    assert capsys.readouterr().err == ""


def _run(**changes: Any) -> Any:
    run = {
        "rows": {"ok": 6, "error": 3, "skipped": 1},
        "labelled_fraction": 0.4567,
        "n_segments": 321,
        "no_segments": {"count": 0, "first": []},
        "classes": [
            {"name": "background", "pixels": 90, "share": 0.9, "images": 6},
            {"name": "tree", "pixels": 0, "share": 0.0, "images": 0},
            {"name": "sun", "pixels": 10, "share": 0.1, "images": 2},
        ],
        "this_run": {
            "images": 10,
            "seconds": 61.2,
            "stage_seconds": {"sam": 50.0, "clip": 7.5, "write": 0.2},
            "utilisation": {"sam": 0.926, "clip": 0.139},
            "restarts": 0,
        },
    }
    return {**run, **changes}


def test_the_summary_of_labels_of_pixels_has_no_segments() -> None:
    run = _run(n_segments=0)
    del run["no_segments"]
    lines = summary_lines(run, "labels")
    assert "labelled    45.7 % of the pixels have a confidence" in lines
    assert not [text for text in lines if "segment" in text]


def test_the_summary_says_what_was_done_and_what_was_not() -> None:
    assert summary_lines(_run(), "labels") == [
        "",
        "images      10: 6 ok, 3 error, 1 skipped",
        "labelled    45.7 % of the pixels have a confidence",
        "segments    321",
        "",
        "class         pixels    images",
        "background   90.00 %         6",
        "sun          10.00 %         2",
        "no pixel of: tree",
        "",
        "this run    10 images in 1:01",
        "  sam           50.0 s busy  93 % of its workers' time",
        "  clip           7.5 s busy  14 % of its workers' time",
        "  write          0.2 s busy",
        "  bottleneck: sam, busy 93 % of its time",
        "",
        "label set   labels",
    ]


def test_the_summary_of_a_run_with_nothing_to_do_shows_the_set_only() -> None:
    nothing = {"images": 0, "seconds": 1.0, "stage_seconds": {}, "utilisation": {}, "restarts": 0}
    lines = summary_lines(_run(this_run=nothing, classes=[]), "labels")
    assert not any("this run" in line for line in lines)
    assert lines[-1] == "label set   labels"


def test_workers_that_all_waited_are_not_the_bottleneck() -> None:
    assert bottleneck_lines({"sam": 0.31, "clip": 0.08}) == [
        "  bottleneck: not the models, whose workers waited; sam was busy 31 % of its time"
    ]
    assert bottleneck_lines({"sam": 0.5, "clip": 0.9}) == ["  bottleneck: clip, busy 90 % of its time"]


def test_workers_that_died_are_told() -> None:
    run = _run()
    run["this_run"]["restarts"] = 2
    assert "  workers died 2 times; their images were processed again" in summary_lines(run, "labels")


def test_images_without_a_segment_are_no_quiet_ok_rows() -> None:
    lines = summary_lines(_run(no_segments={"count": 3, "first": ["a.tif", "b.tif"]}), "labels")
    assert "no segment  in 3 of the ok images: a.tif, b.tif and 1 more" in lines
    assert not any("no segment" in line for line in summary_lines(_run(), "labels"))


def test_images_whose_segments_have_no_class_are_no_quiet_ok_rows() -> None:
    lines = summary_lines(_run(no_class={"count": 1, "first": ["f32.tif"]}), "labels")
    at = lines.index("no class    in 1 of the ok images: f32.tif")
    assert lines[at + 1].endswith(
        "(no segment is similar enough to a class: see classes and label.threshold)"
    )
    assert not any("no class" in line for line in summary_lines(_run(), "labels"))


def test_ctrl_c_says_what_is_safe(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), resumable("the masks in out are"):
        raise KeyboardInterrupt
    assert capsys.readouterr().err == "\nstopped; the masks in out are safe; run the same command to resume\n"

"""Time one run of the bare loop, or of `segray annotate`, each in a fresh process.

Both start with nothing warm. `bare_loop` counts from when its models are loaded. `pipeline` counts from when
all workers have loaded theirs and SAM takes its first image, and from when the command begins; both end when
the last part is written.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

from segray.pipelines.config.commands.annotate import AnnotateConfig
from segray.pipelines.engine import single_process
from segray.pipelines.engine.actors import actor_here
from segray.pipelines.engine.ledger import Ledger, RemoteLedger

T = TypeVar("T")

START_S = 600
"""Workers that take longer than this to load end the run."""


@dataclass(frozen=True)
class Timing:
    """One run.

    Attributes:
        images: labelled.
        seconds: of labelling alone: models loaded, Ray up.
        wall_seconds: of everything, imports excepted.
        labels: sha256 of each image's label PNG, by file name.
        this_run: what run.json says of the run; {} of the bare loop.
        segments: of all images; 0 of the bare loop.
    """

    images: int
    seconds: float
    wall_seconds: float
    labels: dict[str, str]
    this_run: Mapping[str, Any] = field(default_factory=dict)
    segments: int = 0

    @property
    def rate(self) -> float:
        """Images a second, set-up excluded."""
        return self.images / self.seconds

    @property
    def wall_rate(self) -> float:
        """Images a second of the whole command."""
        return self.images / self.wall_seconds


class ClockedLedger(Ledger):
    """A ledger that keeps on disk when SAM began its first image and when the last part was committed."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path, self._first = Path(path), 0.0

    def begin(self, stage: str, ids: Sequence[str]) -> bool:
        """See `Ledger.begin`."""
        if stage == "sam" and not self._first:
            self._first = time.time()
        return super().begin(stage, ids)

    def committed(self, statuses: Mapping[str, int], seconds: float) -> None:
        """See `Ledger.committed`."""
        super().committed(statuses, seconds)
        self._path.write_text(json.dumps([self._first, time.time()]), encoding="ascii")


def in_fresh_process(work: Callable[..., T], *arguments: Any) -> T:
    """`work(*arguments)` in a process of its own, so that no run warms another one up."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def bare_loop(config: AnnotateConfig, paths: Sequence[Path], threads: int) -> Timing:
    """Read, decode, SAM, GEM, pool, name, draw and encode both PNGs, one image after the other."""
    from benchmarks.labeller import Labeller
    from segray.pipelines.io.images import ImageOptions, decode
    from segray.pipelines.io.label_png import encode_gray_png

    started = time.perf_counter()
    labeller = Labeller(config, threads)
    options = ImageOptions(**config.image.decoding())
    began = time.perf_counter()
    labels = {}
    for path in paths:
        label, confidence = labeller.label_segments(decode(path.read_bytes(), options))
        encode_gray_png(confidence)
        labels[path.name] = encode_gray_png(label)
    ended = time.perf_counter()
    return Timing(
        len(paths), ended - began, ended - started, {name: _digest(png) for name, png in labels.items()}
    )


def pipeline(config: AnnotateConfig) -> Timing:
    """`segray annotate` from a folder to a label set in a new folder, on a Ray of its own."""
    from segray.pipelines.commands import annotate
    from segray.pipelines.engine import ledger
    from segray.pipelines.label_set.store import LabelStore

    with tempfile.TemporaryDirectory() as folder, _quiet():
        clock = Path(folder) / "clock.json"
        config = config.model_copy(update={"out": f"{folder}/labels"})
        started = time.perf_counter()
        with mock.patch.object(ledger, "started", partial(clocked_ledger, clock)), on_cluster():
            annotate.run(config)
        wall = time.perf_counter() - started
        first, last = json.loads(clock.read_text(encoding="ascii"))
        run = LabelStore(config.out).run()
        rows = LabelStore(config.out).rows(["image_id", "label", "status"])
        labels = {row["image_id"]: _digest(row["label"]["bytes"]) for row in rows if row["status"] == "ok"}
    if run is None:
        raise RuntimeError(f"{config.out} has no run.json")
    return Timing(len(labels), last - first, wall, labels, run["this_run"], run["n_segments"])


@contextlib.contextmanager
def clocked_ledger(clock: Path) -> Iterator[RemoteLedger]:
    """A ledger that keeps the times in a file; workers are all loaded before any of them begins."""
    import ray

    # Else SAM takes its first image while CLIP's worker is still loading, which the clock must not count.
    ray.data.DataContext.get_current().wait_for_min_actors_s = START_S
    with actor_here(ClockedLedger, str(clock)) as actor:
        yield RemoteLedger(actor)


def on_cluster() -> AbstractContextManager[object]:
    """Start a cluster for the fewest images, too: it is the cluster that is measured."""
    return mock.patch.object(single_process, "FEW", 0)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def _digest(png: bytes) -> str:
    return hashlib.sha256(png).hexdigest()

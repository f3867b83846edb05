"""`python -m tests.faults.sabotaged FAULT COMMAND ...`: the command line with a fault in it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from segray.pipelines.annotation import graph, model_stages
from segray.pipelines.cli import main
from segray.pipelines.io import storage
from segray.pipelines.label_set.store import LabelStore
from tests.faults.stages import DriverDies, FaultySam


def driver_dies() -> None:
    """The driver is killed while a writer is between its segments and its labels."""
    graph.LabelSink = DriverDies  # type: ignore[attr-defined]


def writer_dies() -> None:
    """The process is killed between the segments and the labels of its third part."""
    real = storage.write_atomic

    def write_atomic(uri: str, data: bytes) -> None:
        path = Path(uri)
        if path.parent.name == "labels" and len(LabelStore(str(path.parent.parent)).parts()) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        real(uri, data)

    storage.write_atomic = write_atomic


def sam_crashes() -> None:
    """SAM's native code crashes on an image, in whichever process it runs."""
    model_stages.SegmentImages = FaultySam  # type: ignore[attr-defined]


FAULTS: dict[str, Callable[[], None]] = {
    "driver-dies": driver_dies,
    "writer-dies": writer_dies,
    "sam-crashes": sam_crashes,
}

if __name__ == "__main__":
    FAULTS[sys.argv[1]]()
    main(sys.argv[2:])

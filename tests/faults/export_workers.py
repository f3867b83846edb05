"""A writer of exports that dies. Ray's workers import this module, so it does nothing by itself."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from segray.pipelines.exporting.journal import Finished
from segray.pipelines.exporting.writer import Writer

DIES, DIES_ONCE = "dies.png", "dies-once.png"


class DyingWriter(Writer):
    """Kills its process in the part of an image of such a name, and leaves half a file."""

    def write_part(self, part: str) -> Finished:
        before = deaths(Path(self.out))
        if DIES in self.plan.ids or (DIES_ONCE in self.plan.ids and not before):
            Path(f"{self.out}.death-{before}").touch()
            Path(self.out, f".{part}.0.tmp").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        return super().write_part(part)


def deaths(out: Path) -> int:
    """How often a worker has died."""
    return len(list(out.parent.glob(f"{out.name}.death-*")))

"""Keep what Ray prints off the terminal."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator

QUIET: dict[str, object] = {"logging_level": logging.ERROR, "log_to_driver": False, "configure_logging": True}
"""Options of `ray.init`."""


@contextlib.contextmanager
def without_greeting() -> Iterator[None]:
    """Ray's native code tells on stderr that RAY_BACKEND_LOG_LEVEL is set; what else it says is passed on."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            caught.seek(0)
            for line in caught:
                if b"RAY_BACKEND_LOG_LEVEL" not in line:
                    os.write(2, line)


def quieten() -> None:
    """Silence Ray's progress bars and warnings, which would drown ours; call before importing ray.data."""
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    # Workers of low priority starve on a busy machine, and Ray starts more and more of them.
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray's native code writes to stderr, past every logger, that actors may restart.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    for name in ("ray", "ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)

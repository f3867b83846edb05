"""`python -m tests.fuzz.child`: reads one request a line, runs a reader, and answers one line.

A request names a reader of `readers.py` and a folder with its input; the answer says how it ended.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import open_clip  # noqa: F401  its import takes seconds of the processor, which no input is to be blamed for

from segray.pipelines import cli
from tests.fuzz.readers import READERS, REFUSALS
from tests.fuzz.watch import Watch, brake

_MAX_LINE = 20_000


def main() -> None:
    """Answer requests until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    # Whatever writes to stdout natively must not be taken for an answer.
    os.dup2(2, 1)
    faulthandler.enable()
    brake()
    watch = Watch()
    watch.install()
    answers.write("ready\n")
    for line in sys.stdin:
        answers.write(json.dumps(answer(watch, json.loads(line))) + "\n")


def answer(watch: Watch, request: dict[str, Any]) -> dict[str, Any]:
    """How a reader ended: "ok", "refused" with its message or "error" with a traceback; and the faults."""
    folder = Path(request["folder"])
    os.chdir(folder)
    # Matplotlib and torch keep caches where the environment tells them to.
    writable = [folder, Path(os.environ["TMPDIR"])]
    out = io.StringIO()
    how, text = "ok", ""
    said = contextlib.redirect_stdout(out), contextlib.redirect_stderr(out)
    limits = request["max_cpu_s"], request["max_bytes"]
    with watch.of(folder.parent / "secret", writable, *limits), said[0], said[1]:
        try:
            READERS[request["reader"]](folder)
        except REFUSALS as error:
            how, text = "refused", str(error)
            cli._print_error(text)
        except BaseException:  # noqa: BLE001  the parent shows whatever it is
            how, text = "error", traceback.format_exc()[-6000:]
    return {"how": how, "text": text, "faults": [*watch.faults, *_unprintable(out.getvalue())]}


def _unprintable(said: str) -> list[str]:
    """Faults if the user's terminal would obey what was printed, or be flooded by it."""
    bad = {c for c in said if (ord(c) < 32 and c not in "\n\r\t") or 127 <= ord(c) < 160}
    long = max((len(line) for line in said.splitlines()), default=0)
    return [
        *([f"prints control characters {sorted(bad)!r}"] if bad else []),
        *([f"prints a line of {long} characters"] if long > _MAX_LINE else []),
    ]


if __name__ == "__main__":
    main()

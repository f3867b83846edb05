"""Gives hostile input to readers in a process of their own, which may crash."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.watch import MAX_BYTES, MAX_CPU_S
from tests.processes import REPOSITORY

_PATIENCE_S = 300.0
"""Without an answer for so long, a reader hangs; work is limited in seconds of the processor instead."""


@dataclass(frozen=True)
class Answer:
    """How a reader ended.

    Attributes:
        how: "ok", "refused", "error", or "died" with the process.
        text: the refusal, the traceback, or what the process said last.
        faults: what it did that it must not do.
    """

    how: str
    text: str
    faults: tuple[str, ...] = ()


class Runner:
    """A process with the readers, started when it is needed.

    Args:
        home: an empty folder: the process's home, its temporary files, the input and the secret lie in it.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self.folder = home / "case"
        self.secret = home / "secret"
        for name in ("secret", "home", "tmp"):
            (home / name).mkdir(parents=True)
        for name in ("secret.json", "secret.png"):
            (self.secret / name).write_text('{"version": 1, "refs": {"a": "secret"}}')
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return "<runner>"

    def read(
        self,
        reader: str,
        files: Mapping[str, bytes],
        max_cpu_s: float = MAX_CPU_S,
        max_bytes: int = MAX_BYTES,
    ) -> Answer:
        """Run a reader of `readers.py` on a fresh folder with these files."""
        folder = self.folder
        shutil.rmtree(folder, ignore_errors=True)
        for name, data in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        folder.mkdir(exist_ok=True)
        limits = {"max_cpu_s": max_cpu_s, "max_bytes": max_bytes}
        answer = self._ask({"reader": reader, "folder": str(folder), **limits})
        left = sorted(path.name for path in self._home.iterdir())
        assert left == sorted({"case", "child.err", "home", "secret", "tmp"}), left
        return answer

    def check(self, reader: str, files: Mapping[str, bytes]) -> Answer:
        """As `read`; fails unless the reader took or refused the input without a fault."""
        answer = self.read(reader, files)
        assert answer.how in ("ok", "refused"), f"{reader} {answer.how}:\n{answer.text}"
        assert answer.faults == (), f"{reader} {answer.how}: {answer.text}\n{answer.faults}"
        return answer

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _ask(self, request: dict[str, object]) -> Answer:
        process = self._process or self._start()
        assert process.stdin is not None
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.flush()
        line = self._line(process)
        if line:
            answer = json.loads(line)
            return Answer(answer["how"], answer["text"], tuple(answer["faults"]))
        self.close()
        said = (self._home / "child.err").read_text(errors="replace")[-4000:]
        return Answer("died", f"status {process.returncode}\n{said}")

    def _start(self) -> subprocess.Popen[bytes]:
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AWS_"))
        }
        environment |= {
            "HOME": str(self._home / "home"),
            "TMPDIR": str(self._home / "tmp"),
            "OMP_NUM_THREADS": "1",
        }
        environment |= {
            "PYTHONDONTWRITEBYTECODE": "1",
            "MPLCONFIGDIR": str(self._home / "tmp"),
            "PYTHONPATH": str(REPOSITORY),
        }
        with (self._home / "child.err").open("wb") as err:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.fuzz.child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=err,
                env=environment,
            )
        ready = self._line(process)
        assert ready == b"ready\n", (self._home / "child.err").read_text(errors="replace")
        self._process = process
        return process

    def _line(self, process: subprocess.Popen[bytes]) -> bytes:
        """A line of its answer; empty if it has died, or hangs."""
        assert process.stdout is not None
        readable, _, _ = select.select([process.stdout], [], [], _PATIENCE_S)
        return process.stdout.readline() if readable else b""

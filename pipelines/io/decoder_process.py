"""A process of its own for decoders that nothing else can stop: it is killed when an image takes too long."""

from __future__ import annotations

import json
import os
import pickle
import select
import struct
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import IO, Any

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from segray.pipelines.io.decoder_process import serve; serve()"
)
_START_S = 60.0
_COUNT = struct.Struct(">Q")
_CHUNK = 1 << 20
_BYTES_PER_PIXEL = 64
_BASE_BYTES = 2 << 30


class DecoderDiedError(Exception):
    """The process ended in the middle of an image."""


class DecoderProcess:
    """Runs functions of images.py on bytes, one at a time; starts with the first, ends with this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def call(self, function: str, arguments: tuple[Any, ...], seconds: float, pixels: int) -> Any:
        """What the function returns, or raises.

        Args:
            function: its name in images.py.
            arguments: picklable, those of the function.
            seconds: after so many the process is killed.
            pixels: of the image; the process gets memory in proportion.

        Raises:
            TimeoutError: it took longer.
            DecoderDiedError: it crashed, or ran out of memory.
        """
        with self._lock:
            process = self._running()
            try:
                _send(process.stdin, (function, arguments, pixels))
                succeeded, value = _receive(process.stdout, time.monotonic() + seconds)
            except BaseException as error:
                self._end()
                if isinstance(error, BrokenPipeError | EOFError | pickle.UnpicklingError):
                    raise DecoderDiedError from error
                raise
        if succeeded:
            return value
        raise value

    def _running(self) -> subprocess.Popen[bytes]:
        # After a fork the pipes belong to two processes.
        if self._process is None or self._process.poll() is not None or self._owner != os.getpid():
            limits = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
            self._process = subprocess.Popen(  # noqa: S603 (this Python, on this module)
                [sys.executable, "-c", _START, json.dumps(sys.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                # What native libraries print of damaged files is in no one's interest.
                stderr=subprocess.DEVNULL,
                # Ctrl-C is for its parent, with which it ends.
                start_new_session=True,
                env={**os.environ, **limits},
            )
            self._owner = os.getpid()
            _widen(self._process)
            _receive(self._process.stdout, time.monotonic() + _START_S)
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in filter(None, (process.stdin, process.stdout)):
                with suppress(BrokenPipeError):
                    pipe.close()


decoder = DecoderProcess()
"""That of this process."""


def serve() -> None:
    """Answer calls on stdin until it ends."""
    from segray.pipelines.io import images

    # What a native library prints must not get between the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _send(answers, (True, None))
    while True:
        try:
            function, arguments, pixels = _receive(sys.stdin.buffer, None)
        except EOFError:
            return
        _limit_memory(pixels)
        try:
            answer = (True, getattr(images, function)(*arguments))
        except Exception as error:  # noqa: BLE001 (the caller raises it)
            answer = (False, error)
        _send(answers, answer)


def _limit_memory(pixels: int) -> None:
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = _BASE_BYTES + _BYTES_PER_PIXEL * pixels
    resource.setrlimit(resource.RLIMIT_AS, (wanted if hard < 0 else min(wanted, hard), hard))


def _widen(process: subprocess.Popen[bytes]) -> None:
    """Larger pipes, on systems that have them: pixels come in fewer pieces."""
    with suppress(ImportError, AttributeError, OSError):
        import fcntl

        for pipe in filter(None, (process.stdin, process.stdout)):
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _CHUNK)


def _send(pipe: IO[bytes] | None, value: object) -> None:
    assert pipe is not None
    # Pixels go beside the pickle, without a copy.
    arrays: list[pickle.PickleBuffer] = []
    head = pickle.dumps(value, pickle.HIGHEST_PROTOCOL, buffer_callback=arrays.append)
    parts = [memoryview(head), *(array.raw() for array in arrays)]
    pipe.write(_COUNT.pack(len(parts)) + b"".join(_COUNT.pack(part.nbytes) for part in parts))
    for part in parts:
        pipe.write(part)
    pipe.flush()


def _receive(pipe: IO[bytes] | None, deadline: float | None) -> Any:
    assert pipe is not None
    (count,) = _COUNT.unpack(_read(pipe, _COUNT.size, deadline))
    sizes = [size for (size,) in _COUNT.iter_unpack(_read(pipe, count * _COUNT.size, deadline))]
    head, *arrays = [_read(pipe, size, deadline) for size in sizes]
    return pickle.loads(head, buffers=arrays)  # noqa: S301 (of our own process, by a pipe)


def _read(pipe: IO[bytes], size: int, deadline: float | None) -> bytearray:
    data, begun = bytearray(size), 0
    view = memoryview(data)
    while begun < size:
        if deadline is not None:
            _wait(pipe, deadline)
        count = os.readv(pipe.fileno(), [view[begun : begun + _CHUNK]])
        if not count:
            raise EOFError
        begun += count
    return data


def _wait(pipe: IO[bytes], deadline: float) -> None:
    # Not select(), which knows no file descriptor above 1023.
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    left = deadline - time.monotonic()
    if left <= 0 or not poll.poll(1000 * left):
        raise TimeoutError

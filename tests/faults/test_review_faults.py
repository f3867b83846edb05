"""`segray serve` is killed while it writes corrections: what it confirmed is there, nothing is half there."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import httpx2
import pytest

from benchmarks.review_server import served
from segray.pipelines.corrections import CorrectionLog
from segray.pipelines.corrections.log import CORRECTIONS
from segray.pipelines.io.local_files import is_temporary
from tests.pipelines.review.conftest import write_labels

_SENT = 400


def _correct_until_killed(client: httpx2.Client, confirmed: list[str], half: threading.Event) -> None:
    fingerprint = client.get("/api/set").json()["fingerprint"]
    for number in range(_SENT):
        one = {"kind": "name", "segments": [0, 1], "class": ("tree", "house")[number % 2]}
        corrections = [{**one, "image": 0}, {**one, "image": 1}]
        try:
            answer = client.post("/api/corrections", json={"set": fingerprint, "corrections": corrections})
        except httpx2.HTTPError:
            return
        confirmed += answer.json()["keys"]
        if number == 8:
            half.set()


def _wait_for_half_a_part(labels: Path, sender: threading.Thread) -> None:
    folder = labels / CORRECTIONS
    while sender.is_alive() and not any(is_temporary(path.name) for path in folder.iterdir()):
        pass


@pytest.mark.slow
def test_a_server_that_is_killed_while_it_stores_corrections_loses_none(tmp_path: Path) -> None:
    labels = write_labels(tmp_path)
    for kill in (0, 1):
        confirmed: list[str] = []
        before = {one.key for one in CorrectionLog(labels).read()}
        with served(labels) as (process, client):
            busy = threading.Event()
            sender = threading.Thread(target=_correct_until_killed, args=(client, confirmed, busy))
            sender.start()
            busy.wait()
            _wait_for_half_a_part(labels, sender)
            process.send_signal(signal.SIGKILL)
            sender.join()
        log = CorrectionLog(labels)
        stored = {one.key for one in log.read()} - before
        assert set(confirmed) <= stored, kill
        assert len(stored) % 2 == 0, "half of a request was stored"
        assert log.problems() == {}
        assert len(confirmed) < 2 * _SENT
    with served(labels) as (_, client):
        assert client.get("/api/set").json()["corrected"] == 2

"""`segray serve` before its page is there: what it refuses, and what it says."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from segray.pipelines.commands import serve
from segray.pipelines.config.commands.serve import ServeConfig
from segray.pipelines.errors import UserError
from segray.pipelines.review.security import Door
from segray.pipelines.review.server import listen


def test_a_port_that_is_in_use_is_one_line(tmp_path: Path) -> None:
    with listen("127.0.0.1", 0) as other:
        port = other.getsockname()[1]
        with pytest.raises(
            UserError, match=f"cannot listen on host=127.0.0.1 port={port}: .*; port=0 takes any"
        ):
            serve.run(ServeConfig(out=str(tmp_path), port=port))


def test_a_folder_without_a_label_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no label set here"):
        serve.run(ServeConfig(out=str(tmp_path), port=0))


def test_the_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "segray.pipelines.review.server")

    with pytest.raises(UserError, match=r"segray serve needs uvicorn: pip install 'segray\[review\]'"):
        serve.run(ServeConfig(out=str(tmp_path)))


def test_requests_get_the_interpreter_from_a_thread_that_computes_sooner_than_by_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[float] = []
    page = SimpleNamespace(url="http://127.0.0.1:1", answer=lambda: seen.append(sys.getswitchinterval()))
    monkeypatch.setattr(serve, "make_page", lambda _: page)
    before = sys.getswitchinterval()
    try:
        serve.run(ServeConfig(out="labels"))
    finally:
        sys.setswitchinterval(before)
        gc.unfreeze()

    assert seen[0] < before


@pytest.mark.parametrize(
    ("host", "wide"),
    [("127.0.0.1", False), ("localhost", False), ("::1", False), ("0.0.0.0", True), ("192.168.1.5", True)],
)
def test_which_addresses_other_machines_reach(host: str, wide: bool) -> None:
    assert Door(host, 1).is_wide is wide


def test_every_start_has_a_token_of_its_own_that_is_not_printed_with_the_door() -> None:
    door, other = Door("127.0.0.1", 1), Door("127.0.0.1", 1)

    assert door.token != other.token
    assert len(door.token) >= 43
    assert door.token not in repr(door)
    assert door.address == f"http://127.0.0.1:1/?token={door.token}"

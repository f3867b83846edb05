from __future__ import annotations

import os
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from segray.pipelines.engine import auth_token


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture(params=[0o000, 0o022, 0o277])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.usefixtures("umask")
def test_the_token_is_private_whatever_the_umask(home: Path) -> None:
    (home / ".ray").mkdir()
    (home / ".ray").chmod(0o700)
    auth_token.keep_private()
    (token,) = (home / ".ray").iterdir()
    assert (token.name, mode(token)) == ("auth_token", 0o600)
    assert len(bytes.fromhex(token.read_text())) == 32
    assert auth_token.exposure() is None


def test_its_folder_is_private_too_and_a_second_call_keeps_the_token(home: Path) -> None:
    auth_token.keep_private()
    token = (home / ".ray" / "auth_token").read_bytes()
    auth_token.keep_private()
    assert mode(home / ".ray") == 0o700
    assert (home / ".ray" / "auth_token").read_bytes() == token


def test_ray_writes_it_open_and_it_is_closed_and_told(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    setup = pytest.importorskip("ray._private.authentication.authentication_token_setup")
    before = os.umask(0o022)
    try:
        setup.generate_and_save_token()
    finally:
        os.umask(before)
    file = home / ".ray" / "auth_token"
    assert mode(file) == 0o644
    exposure = auth_token.exposure()
    assert exposure is not None
    assert "read by other users (mode 0644)" in exposure.reason
    assert f"chmod 600 {file}" in exposure.remedy
    token = file.read_bytes()
    auth_token.keep_private()
    assert (mode(file), file.read_bytes()) == (0o600, token)
    assert "could be read by other users" in caplog.text
    assert auth_token.exposure() is None


def test_others_cannot_replace_it(home: Path) -> None:
    auth_token.keep_private()
    (home / ".ray").chmod(0o777)
    exposure = auth_token.exposure()
    assert exposure is not None
    assert exposure.reason == "can be replaced by other users"
    auth_token.keep_private()
    assert mode(home / ".ray") == 0o755


@pytest.mark.parametrize(
    ("name", "value"),
    [("RAY_AUTH_MODE", "disabled"), ("RAY_AUTH_TOKEN", "0" * 64), ("RAY_AUTH_TOKEN_PATH", "/nowhere/token")],
)
def test_where_the_user_decides_nothing_is_written(
    home: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    auth_token.keep_private()
    assert list(home.iterdir()) == []


def test_of_many_processes_that_create_it_one_wins_and_none_sees_half_of_it(home: Path) -> None:
    (home / ".ray").mkdir()
    file = home / ".ray" / "auth_token"
    seen: set[str] = set()

    def create() -> None:
        auth_token._create(file)
        seen.add(file.read_text())

    threads = [threading.Thread(target=create) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (token,) = seen
    assert len(token) == 64
    assert list((home / ".ray").iterdir()) == [file]


def test_a_file_system_without_hard_links_gets_its_token(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    auth_token.keep_private()
    (token,) = (home / ".ray").iterdir()
    assert (token.name, mode(token)) == ("auth_token", 0o600)


def test_a_token_of_another_user_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    auth_token.keep_private()
    if (owner := os.getuid()) == 0:
        owner = 12345
        os.chown(home / ".ray" / "auth_token", owner, -1)
    else:
        monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    exposure = auth_token.exposure()
    assert exposure is not None
    assert exposure.reason == f"belongs to user {owner}"


def test_a_token_switches_authentication_on(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    auth_token.use_token()
    assert "RAY_AUTH_MODE" not in os.environ
    auth_token.keep_private()
    auth_token.use_token()
    assert os.environ.pop("RAY_AUTH_MODE") == "token"


@pytest.mark.usefixtures("home")
def test_a_token_does_not_contradict_a_ray_that_has_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))
    auth_token.keep_private()
    auth_token.use_token()
    assert "RAY_AUTH_MODE" not in os.environ

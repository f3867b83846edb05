from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from segray.pipelines.cli import main
from segray.pipelines.engine.reachable import is_on_loopback_alone, require_listener
from segray.pipelines.errors import UserError


@pytest.fixture
def listening() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


@pytest.fixture
def closed() -> int:
    """A port that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_TMPDIR", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))


@pytest.mark.parametrize("scheme", ["", "ray://", "http://"])
def test_a_port_that_is_open_is_enough(scheme: str, listening: int) -> None:
    require_listener(f"{scheme}127.0.0.1:{listening}")


@pytest.mark.parametrize("scheme", ["", "ray://", "http://"])
def test_a_port_that_nobody_has_is_refused(scheme: str, closed: int) -> None:
    address = f"{scheme}127.0.0.1:{closed}"
    with pytest.raises(UserError, match=rf"^address={address}: nobody listens there .* is the cluster up\?$"):
        require_listener(address)


@pytest.mark.parametrize("address", [None, "auto"])
def test_the_variable_is_named_where_the_address_comes_from_it(
    address: str | None, closed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{closed}")
    with pytest.raises(UserError, match=rf"^RAY_ADDRESS=127.0.0.1:{closed}: .*: unset RAY_ADDRESS$"):
        require_listener(address)


def test_an_explicit_address_goes_before_the_variable(
    listening: int, closed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{closed}")
    require_listener(f"127.0.0.1:{listening}")


def test_auto_means_the_cluster_that_ray_wrote_down(closed: int, tmp_path: Path) -> None:
    require_listener("auto")
    record = tmp_path / "ray" / "ray_current_cluster"
    record.parent.mkdir()
    record.write_text(f"127.0.0.1:{closed}")
    with pytest.raises(UserError, match=rf"^address=auto \(127.0.0.1:{closed}\): nobody listens there"):
        require_listener("auto")


def test_a_cluster_on_loopback_alone_is_told_from_one_on_all_interfaces(listening: int) -> None:
    assert is_on_loopback_alone(f"127.0.0.1:{listening}")
    assert is_on_loopback_alone(f"localhost:{listening}")
    assert not is_on_loopback_alone(f"10.0.0.1:{listening}")
    assert not is_on_loopback_alone(None)
    with socket.create_server(("", 0)) as server:
        assert not is_on_loopback_alone(f"127.0.0.1:{server.getsockname()[1]}")


def test_a_host_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UserError, match=r"^address=ray://none.invalid: there is no host none.invalid; "):
        require_listener("ray://none.invalid")


def test_a_host_that_never_answers_is_given_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(address: tuple[str, int], timeout: float) -> socket.socket:
        assert (address, timeout) == (("10.0.0.1", 6379), 5.0)
        raise TimeoutError

    monkeypatch.setattr("socket.create_connection", silent)
    with pytest.raises(UserError, match=r"nobody answers at 10\.0\.0\.1 port 6379 within 5 s"):
        require_listener("10.0.0.1:6379")


@pytest.mark.parametrize("address", [None, "local", "HOST", "other://host:1", "127.0.0.1:port"])
def test_what_is_no_address_of_a_port_is_left_to_ray(address: str | None) -> None:
    require_listener(address)


def test_a_job_server_behind_a_proxy_is_left_to_it(closed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy.invalid:3128")
    monkeypatch.setenv("no_proxy", "")
    require_listener(f"http://10.0.0.1:{closed}")


_COMMANDS = (
    "annotate images={0} classes=cat sam.model=builtin clip.model=builtin out={0}/out",
    "train data.root={0} data.labels={0} out={0}/out",
    "predict checkpoint={0} images={0} out={0}/out",
    "tune space.train.lr=loguniform(0.001,0.1) data.root={0} data.labels={0} out={0}/out",
    "plan images={0} classes=cat sam.model=builtin clip.model=builtin",
    "demo out={0}/out",
    "submit doctor",
)


@pytest.mark.parametrize("command", _COMMANDS, ids=lambda command: command.split()[0])
@pytest.mark.parametrize("by_key", [True, False], ids=["address", "RAY_ADDRESS"])
def test_a_cluster_that_is_gone_costs_seconds_and_names_the_key(
    command: str,
    by_key: bool,
    closed: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", lambda **_: pytest.fail("Ray is asked"))
    name, port = command.split(maxsplit=1)[0], f"127.0.0.1:{closed}"
    address = f"http://{port}" if name == "submit" else port
    if by_key and name in {"demo", "plan"}:
        pytest.skip("it has no such key")
    (tmp_path / "a.png").write_bytes(b"")
    if not by_key:
        monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(SystemExit) as ended:
        main([*command.format(tmp_path).split(), *([f"address={address}"] if by_key else [])])
    assert ended.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("segray: ")]
    assert len(lines) == 1
    assert lines[0].startswith(f"segray: {'address' if by_key else 'RAY_ADDRESS'}={address}: nobody listens")

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from segray.pipelines.engine.listening import Listener, listeners

_SESSION = """
import stat, pathlib
from segray.pipelines.engine import cluster
from segray.pipelines.engine.listening import listeners
token = pathlib.Path.home() / ".ray" / "auth_token"
with cluster.session(None):
    ports = listeners()
    print(sorted({port.process for port in ports}))
    print([str(port) for port in ports if not port.is_local])
    print(oct(stat.S_IMODE(token.stat().st_mode)), oct(stat.S_IMODE(token.parent.stat().st_mode)))
"""


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"])
def test_addresses_of_this_machine_alone(address: str) -> None:
    assert Listener("raylet", address, 1).is_local


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.168.0.2", "::ffff:10.0.0.1", "2001:db8::1"])
def test_addresses_that_the_network_reaches(address: str) -> None:
    port = Listener("raylet", address, 6379)
    assert not port.is_local
    assert str(port) == f"raylet on {address} port 6379"


def test_open_ports_of_this_process_are_found() -> None:
    pytest.importorskip("ray")
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = server.getsockname()[1]
        (found,) = [port for port in listeners() if port.port == number]
        assert (found.address, found.is_local) == ("127.0.0.1", True)
    assert number not in [port.port for port in listeners()]


@pytest.mark.ray
@pytest.mark.slow
def test_a_local_ray_listens_on_loopback_alone_and_its_token_is_private(tmp_path: Path) -> None:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", f"import os; os.umask(0)\n{_SESSION}"],
        env={**plain, "HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    processes, reachable, modes = done.stdout.splitlines()
    assert "raylet" in processes
    assert "gcs_server" in processes
    assert (reachable, modes) == ("[]", "0o600 0o700")

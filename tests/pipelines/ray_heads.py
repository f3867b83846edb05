"""A Ray cluster of one node as `ray start --head` makes it, with a token, ports and folders of its own."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

RAY = Path(sys.executable).parent / "ray"
PATIENCE_S = 180.0
_LISTS = (
    *("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands"),
    *("head_start_ray_commands", "worker_start_ray_commands"),
    *("cluster_synced_files", "rsync_exclude", "rsync_filter"),
)


@dataclass(frozen=True)
class Head:
    """A running head.

    Attributes:
        gcs: address for `ray.init`.
        dashboard: address of the job server.
        token: without it, the head refuses.
        home: a home directory without a token.
    """

    gcs: str
    dashboard: str
    token: str
    home: Path

    def environment(self, token: str | None = None) -> dict[str, str]:
        """Environment variables for a process, with this head's token or another one ("": none)."""
        chosen = self.token if token is None else token
        auth = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": chosen} if chosen else {}
        return {**_plain_environment(self.home), **auth}


def _plain_environment(home: Path) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    path = f"{RAY.parent}{os.pathsep}{os.environ['PATH']}"
    return {**environment, "PATH": path, "HOME": str(home), "OMP_NUM_THREADS": "1"}


@contextmanager
def head_with_token(*, asks: bool = True, grows: bool = False, jobs: bool = True) -> Iterator[Head]:
    """A head of 2 CPUs that asks for its token, or for none; all its processes end with the block.

    Args:
        asks: whether it asks for the token.
        grows: without a CPU of its own, it starts up to two nodes of 2 CPUs on this machine when asked to.
        jobs: whether it has the dashboard, a dozen processes, and with it the job server.
    """
    # Sockets lie in this folder, and their paths must be short.
    with tempfile.TemporaryDirectory(prefix="rh-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        gcs, dashboard = f"127.0.0.1:{_free_port()}", f"http://127.0.0.1:{_free_port()}"
        head = Head(gcs, dashboard, secrets.token_hex(32), Path(folder) / "home")
        head.home.mkdir()
        mode = {} if asks else {"RAY_AUTH_MODE": "disabled"}
        command = [*_command(head, folder), f"--include-dashboard={str(jobs).lower()}"]
        if grows:
            mode |= {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
            command = [option for option in command if not option.startswith("--num-cpus")]
            command += ["--num-cpus=0", f"--autoscaling-config={_growing(head)}"]
        log = Path(folder) / "head.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                command,
                stdout=out,
                stderr=out,
                env={**head.environment(), **mode},
                start_new_session=True,
            )
        try:
            # The dashboard answers before a slow machine's node can be joined.
            _wait_until(lambda: _has_started(log) and (not jobs or _answers(head)), process, log)
            yield head
        finally:
            _end(process)


def _command(head: Head, folder: str) -> list[str]:
    return [
        *(str(RAY), "start", "--head", "--block", "--disable-usage-stats", f"--temp-dir={folder}"),
        *("--node-ip-address=127.0.0.1", f"--port={head.gcs.rpartition(':')[2]}"),
        *("--dashboard-host=127.0.0.1", f"--dashboard-port={head.dashboard.rpartition(':')[2]}"),
        # Beside another Ray here the agent's usual port is taken, and without an agent no job starts.
        f"--dashboard-agent-listen-port={_free_port()}",
        f"--ray-client-server-port={_free_port()}",
        *("--num-cpus=2", "--object-store-memory=200000000"),
    ]


def _growing(head: Head) -> Path:
    """A cluster file of Ray's own stand-in for a cloud, whose machines are processes here."""
    path = head.home.parent / "cluster.yaml"
    worker = {"CPU": 2, "object_store_memory": 100 * 2**20}
    types = {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "worker": {"resources": worker, "node_config": {}, "min_workers": 0, "max_workers": 2},
    }
    # `ray up` fills these in; `ray start` takes the file as it is.
    filled: dict[str, object] = {name: {} for name in ("auth", "docker", "file_mounts")}
    filled |= {name: [] for name in _LISTS}
    config = {
        **filled,
        "upscaling_speed": 1.0,
        "file_mounts_sync_continuously": False,
        "cluster_name": "grows",
        "max_workers": 2,
        "idle_timeout_minutes": 1,
        # Nothing is installed on these machines, so that there is nothing to repair over SSH.
        "provider": {
            "type": "fake_multinode",
            "gcs_address": head.gcs,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "foreground_node_launch": True,
        },
        "available_node_types": types,
        "head_node_type": "ray.head.default",
    }
    path.write_text(json.dumps(config))
    return path


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and process.poll() is None:
        if ready():
            return
        time.sleep(0.2)
    raise AssertionError(f"no head:\n{log.read_text()}")


def _answers(head: Head) -> bool:
    request = urllib.request.Request(
        f"{head.dashboard}/api/version", headers={"Authorization": f"Bearer {head.token}"}
    )
    with suppress(URLError, OSError), urllib.request.urlopen(request, timeout=5):
        return True
    return False


def _has_started(log: Path) -> bool:
    return "Ray runtime started" in log.read_text()


def _end(process: subprocess.Popen[bytes]) -> None:
    """Everything in its session: jobs and workers are in process groups of their own."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(PATIENCE_S)
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            if int(entry.joinpath("stat").read_text().rpartition(")")[2].split()[3]) == process.pid:
                os.kill(int(entry.name), signal.SIGKILL)

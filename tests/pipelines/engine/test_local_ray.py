from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from segray.pipelines.engine import cluster, local_ray
from segray.pipelines.errors import UserError


class _Busy:
    """A `ray.init` that fails so often before it works."""

    def __init__(self, failures: int) -> None:
        self.failures, self.options = failures, dict[str, object]()

    def __call__(self, **options: object) -> None:
        self.options = options
        self.failures -= 1
        if self.failures >= 0:
            raise Exception("The current node timed out during startup.\nmore")


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> _Busy:
    init = _Busy(0)
    monkeypatch.setattr("ray.init", init)
    monkeypatch.setattr("ray.shutdown", lambda: None)
    monkeypatch.setenv("HOME", str(tmp_path))
    return init


@pytest.mark.parametrize("failures", [0, 1, 2])
def test_ray_that_does_not_start_is_tried_twice_more_with_a_word_each(
    failures: int, busy: _Busy, capsys: pytest.CaptureFixture[str]
) -> None:
    busy.failures = failures
    with local_ray.started():
        pass
    why = "Ray did not start: The current node timed out during startup.; try"
    assert capsys.readouterr().err.splitlines() == [f"{why} {n + 2} of 3" for n in range(failures)]


def test_ray_that_never_starts_is_told_in_one_line_with_advice(busy: _Busy) -> None:
    busy.failures = 9
    with (
        pytest.raises(
            UserError, match=r"^Ray did not start .* in 3 tries: The .* startup\. .*address=auto$"
        ) as told,
        local_ray.started(),
    ):
        pass
    assert told.value.exit_code == 1
    assert busy.failures == 6


def test_what_a_failed_start_leaves_is_ended(
    busy: _Busy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    left: list[subprocess.Popen[bytes]] = []
    raylet = tmp_path / "raylet"
    raylet.write_bytes(Path("/bin/sleep").read_bytes())
    raylet.chmod(0o755)

    def init(**options: object) -> None:
        left.append(subprocess.Popen([raylet, "600"]))
        busy(**options)

    busy.failures = 1
    monkeypatch.setattr("ray.init", init)
    with local_ray.started():
        assert [process.poll() is None for process in left] == [False, True]
    left[-1].kill()


def test_a_long_folder_is_replaced_by_a_short_one_that_goes_with_ray(
    busy: _Busy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    deep = tmp_path / ("x" * local_ray._LONGEST)
    deep.mkdir()
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(deep))
    with local_ray.started():
        short = Path(str(busy.options["_temp_dir"]))
        assert short.is_dir()
        assert len(str(short)) < local_ray._LONGEST
        assert busy.options["object_spilling_directory"] == str(deep)
    assert not short.exists()


def test_a_short_folder_is_left_to_ray(busy: _Busy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/var/tmp")
    with local_ray.started():
        assert "_temp_dir" not in busy.options


def test_without_any_short_folder_the_error_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/" + "x" * 80)
    monkeypatch.setattr(local_ray, "_SHORT", str(tmp_path / "none"))
    with pytest.raises(
        UserError, match=r"^RAY_TMPDIR=/x+: too long for Ray's .*81 bytes, allowed: 37"
    ) as told:
        local_ray.check_folder()
    assert told.value.exit_code == 2


def test_a_dead_address_is_checked_before_anything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(UserError, match=r"^RAY_ADDRESS=127.0.0.1:1: nobody listens there"):
        cluster.check_start(None)


_START = """
import multiprocessing.connection, multiprocessing.util, os, ray
from segray.pipelines.engine import cluster

def listens():
    multiprocessing.connection.Listener(family="AF_UNIX").close()
    return os.environ["TMPDIR"]

before = os.environ["TMPDIR"]
with cluster.session(None) as resources:
    there = ray.get(ray.remote(listens).remote())
    print(resources.nodes, len(there) < len(before))
print(os.environ["TMPDIR"] == before, os.path.exists(there))
"""


@pytest.mark.ray
@pytest.mark.slow
def test_ray_starts_under_a_long_tmpdir(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 90)
    deep.mkdir()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", _START],
        env={**inherited, "TMPDIR": str(deep), "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "1 True\nTrue False\n"), done.stderr

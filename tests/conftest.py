"""Fixtures for the whole suite, and how it is divided among processes."""

from __future__ import annotations

import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

# Two processes of many threads each are slower than two of one; set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Workers that yield to everything else starve beside a second process of tests.
os.environ.setdefault("RAY_worker_niceness", "0")
# Ray's workers inherit them; a URI holds no keys.
os.environ.setdefault("AWS_ACCESS_KEY_ID", "test")
os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "test")


_WITH_RAY = pytest.StashKey[set[Path]]()
_RAY_FIXTURES = {"ray_session", "ray_address", "head"}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the modules that need Ray, then those of many slow tests: short ones fill both processes."""
    with_ray = config.stash.setdefault(_WITH_RAY, {item.path for item in items if _needs_ray(item)})
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: (item.path not in with_ray, 0 if item.path in with_ray else -slow[item.path]))


def _needs_ray(item: pytest.Item) -> bool:
    fixtures = set(getattr(item, "fixturenames", ()))
    return item.get_closest_marker("ray") is not None or bool(fixtures & _RAY_FIXTURES)


@pytest.fixture(scope="module", autouse=True)
def _joins_no_ray(request: pytest.FixtureRequest) -> Iterator[None]:
    """A module without Ray does not join the Ray that other modules left to this process.

    Its commands would, and start workers for a few images that they process themselves when alone.
    """
    with pytest.MonkeyPatch.context() as patch:
        if request.path not in request.config.stash[_WITH_RAY]:
            _leave_ray(patch)
        yield


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for one test of a module that needs Ray."""
    _leave_ray(monkeypatch)


def _leave_ray(patch: pytest.MonkeyPatch) -> None:
    patch.delenv("RAY_ADDRESS", raising=False)
    patch.setattr("segray.pipelines.engine.cluster.has_joined", lambda: False)


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of reference outputs, beside the repository; tests that need it are skipped without it."""
    folder = Path(__file__).parents[2] / "shared" / "golden"
    if not folder.is_dir():
        pytest.skip(f"no reference outputs at {folder}")
    return folder


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One small local Ray for all tests of a process that need one; a run in this process uses it."""
    import ray

    from segray.pipelines.engine.auth_token import keep_private
    from segray.pipelines.engine.cluster import on_loopback

    keep_private()
    with on_loopback():
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=200 * 2**20,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        yield
        ray.shutdown()


@pytest.fixture
def ray_address(ray_session: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test whose processes join the Ray of this one, where they would start one each."""
    import ray

    monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training run of two epochs, which no test may spoil."""
    from tests.pipelines.reporting.training.training_folders import trained

    return trained(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def own_run(trained_run: Path, tmp_path: Path) -> Path:
    """A copy of the run that the test may spoil; data and labels stay where they are."""
    return Path(shutil.copytree(trained_run, tmp_path / "run"))

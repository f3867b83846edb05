"""How many inputs, the process that reads them, and the valid files that they come from."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, settings

from tests.fuzz.runner import Runner

_COMMON = {
    # Time is limited in the child, in seconds of the processor.
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
    "print_blob": True,
}
LABEL_SET_READERS = (
    *("verify", "report", "evaluate", "relabel", "calibrate", "export", "suggest", "serve"),
    *("label set", "training labels", "segment maps"),
)

_EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES") or 0)
settings.register_profile(
    "short",
    max_examples=_EXAMPLES or 25,
    derandomize=True,
    database=None,
    **_COMMON,  # type: ignore[arg-type]
)
settings.register_profile(
    "long",
    max_examples=_EXAMPLES or 2000,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    **_COMMON,  # type: ignore[arg-type]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "short"))


class Files(dict[str, bytes]):
    """Files by their path, too many to be shown with a failure."""

    def __repr__(self) -> str:
        return f"<{len(self)} files>"


@pytest.fixture(scope="session")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """The process that reads."""
    process = Runner(tmp_path_factory.mktemp("fuzz") / "home")
    yield process
    process.close()


@pytest.fixture(scope="session")
def valid(runner: Runner) -> dict[str, bytes]:
    """The files of a valid label set, checkpoint, search, lock, images and masks, by path."""
    answer = runner.read("make", {})
    assert answer.how == "ok", answer.text
    folder = runner.folder
    paths = [path for path in folder.rglob("*") if path.is_file()]
    files = Files({str(path.relative_to(folder)): path.read_bytes() for path in paths})
    # What is imported and loaded once is not the cost of an input.
    for reader in (
        "verify",
        "report",
        "evaluate",
        "relabel",
        "calibrate",
        "suggest",
        "serve",
        "label set",
        "training labels",
        "predict",
        "resume",
        "tune",
        "tune moved",
        "lock",
    ):
        answer = runner.read(reader, files)
        assert answer.how == "ok", f"{reader}: {answer.text}"
    return files

"""One undisturbed run that every disturbed one is compared with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.runs import N_PARTS, annotate_here, draw_images, finished_parts


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images, `tests.faults.runs.NAMES`; never changed."""
    return draw_images(tmp_path_factory.mktemp("faults") / "images")


@pytest.fixture(scope="session")
def reference(images: Path, ray_session: None) -> Path:
    """The label set of an undisturbed run on `images`; never changed."""
    out = images.parent / "reference"
    annotate_here(images, out)
    assert len(finished_parts(out)) == N_PARTS
    return out

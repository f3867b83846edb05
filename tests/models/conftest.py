"""The built-in SAM, and how the tests of its parts compute."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from segment_anything.modeling import Sam

from segray.models.sam.generator import build_sam


@pytest.fixture(scope="module")
def sam() -> Sam:
    """The built-in model."""
    return build_sam("builtin")[0]


@pytest.fixture
def no_gradients() -> Iterator[None]:
    """Without gradients: parts are called that leave this to the whole."""
    with torch.no_grad():
        yield

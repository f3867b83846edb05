"""Each file of the wild folder, decoded alone."""

from __future__ import annotations

import numpy as np
import pytest

from segray.pipelines.io.images import ImageOptions, ImageProblem, decode
from tests.faults.image_kinds import close_kinds, exact_kinds, refused_kinds
from tests.faults.images import scene

EXACT, CLOSE, REFUSED = exact_kinds(), close_kinds(), refused_kinds()
SCENE = scene()


@pytest.mark.parametrize("name", EXACT)
def test_the_scene_is_read_bit_for_bit(name: str) -> None:
    np.testing.assert_array_equal(decode(EXACT[name], ImageOptions()), SCENE)


@pytest.mark.parametrize("name", CLOSE)
def test_the_scene_is_recognised(name: str) -> None:
    image = decode(CLOSE[name], ImageOptions())
    assert image.shape == SCENE.shape
    assert np.corrcoef(image.mean(2).ravel(), SCENE.mean(2).ravel())[0, 1] > 0.6


@pytest.mark.parametrize("name", REFUSED)
def test_the_reason_is_true(name: str) -> None:
    data, status, reason = REFUSED[name]
    with pytest.raises(ImageProblem) as caught:
        decode(data, ImageOptions())
    assert caught.value.status == status
    assert caught.value.reason.startswith(reason)

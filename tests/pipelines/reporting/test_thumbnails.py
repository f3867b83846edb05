"""Pictures of label maps for pages."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from segray.pipelines.reporting import thumbnails


def decoded(uri: str) -> Image.Image:
    head, _, body = uri.partition(",")
    assert head in {"data:image/png;base64", "data:image/jpeg;base64"}
    return Image.open(io.BytesIO(base64.b64decode(body, validate=True)))


def test_pictures_keep_ids_and_colours() -> None:
    label = np.zeros((6, 6), np.uint8)
    label[:, 3:] = 2
    palette = np.zeros((256, 3), np.uint8)
    palette[2] = 10, 200, 30
    shown = np.asarray(decoded(thumbnails.label_overlay(label, palette, opaque=True)))
    assert shown[0, 5].tolist() == [10, 200, 30, 255]
    assert shown[0, 0].tolist() == [0, 0, 0, 0]
    assert np.asarray(decoded(thumbnails.label_overlay(label, palette)))[0, 5, 3] < 255
    ids = np.random.default_rng(0).choice(np.array([0, 7, 255], np.uint8), (1000, 500))
    small = thumbnails.shrink(ids)
    assert small.shape == (360, 180)
    assert set(np.unique(small)) == {0, 7, 255}


def test_error_map_tells_the_kinds_apart() -> None:
    truth = np.array([[1, 1, 1, 0, 255, 0, 1]], np.uint8)
    label = np.array([[1, 2, 0, 2, 2, 0, 255]], np.uint8)
    shown = np.asarray(decoded(thumbnails.error_map(truth, label)))[0]
    kinds = ["right class", "wrong class", "missed", "not there", "not counted"]
    assert [tuple(pixel[:3]) for pixel in shown[:5]] == [thumbnails.ERROR_COLOURS[kind] for kind in kinds]
    assert shown[5, 3] == 0
    assert tuple(shown[6, :3]) == thumbnails.ERROR_COLOURS["missed"]


def test_confidence_runs_from_dark_to_light_and_zero_is_blank() -> None:
    shown = np.asarray(decoded(thumbnails.confidence_map(np.array([[0, 1, 128, 255]], np.uint8))))[0]
    assert shown[0, 3] == 0
    brightness = shown[1:, :3].sum(1).astype(int)
    assert (np.diff(brightness) > 0).all()

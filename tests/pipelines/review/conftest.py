"""A label set of three drawn images with masks, open for review, and a client of its page."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from starlette.testclient import TestClient

from segray.pipelines.io.label_png import encode_gray_png
from segray.pipelines.io.manifest import MANIFEST, ImageRef, write_manifest
from segray.pipelines.label_set.store import write_part
from segray.pipelines.masks.folder import MaskFolder
from segray.pipelines.review.app import build_app
from segray.pipelines.review.review import Places, Review
from segray.pipelines.review.scores import TruthMasks
from segray.pipelines.review.security import Door
from tests.pipelines.label_sets import labelled_row, segment_row, tables

CLASSES = ("background", "tree", "house")
HEIGHT, WIDTH = 40, 60
NAMES = ("a.png", "b.png", "sub/c.png")
DIM = 8


def boxes() -> list[NDArray[np.bool_]]:
    """Two masks [40, 60]: the left half of the upper rows, and a block at the right."""
    masks = [np.zeros((HEIGHT, WIDTH), np.bool_) for _ in range(2)]
    masks[0][4:20, 4:26] = True
    masks[1][10:34, 36:56] = True
    return masks


def truth() -> NDArray[np.uint8]:
    """uint8 [40, 60]: the first box is a house, the second a tree."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[boxes()[0]], mask[boxes()[1]] = 2, 1
    return mask


def label() -> NDArray[np.uint8]:
    """uint8 [40, 60]: both boxes are trees."""
    return np.minimum(truth(), 1)


def write_labels(
    folder: Path,
    names: tuple[str, ...] = NAMES,
    vectors: NDArray[np.float32] | None = None,
    **made_with: Any,
) -> Path:
    """A label set in which every first segment is wrong; its images are in `images/` beside it.

    Args:
        folder: where both go.
        names: of the images.
        vectors: [2, D], embeddings of the two segments of every image.
        made_with: further provenance.
    """
    rows, segments, refs = [], [], []
    for number, name in enumerate(names):
        file = folder / "images" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), 60 + 40 * (number % 4), np.uint8)).save(file)
        refs.append(ImageRef(name, str(file), 0, 0.0))
        rows.append(_row(name, file.read_bytes()))
        segments += [_segment(name, i, mask, number) for i, mask in enumerate(boxes())]
    if vectors is not None:
        segments = [{**one, "embedding": vectors[one["segment_id"]].astype(np.float16)} for one in segments]
    provenance = {"classes": list(CLASSES), "ignore_index": 255, **made_with}
    root = folder / "labels"
    dim = DIM if vectors is None else vectors.shape[1]
    write_part(str(root), *tables(rows, segments, dim=dim, provenance=provenance))
    write_manifest(sorted(refs, key=lambda ref: ref.image_id), str(root / MANIFEST))
    return root


def _row(name: str, data: bytes) -> dict[str, Any]:
    return labelled_row(
        name,
        label(),
        np.where(label() > 0, 200, 0).astype(np.uint8),
        sha256=hashlib.sha256(data).hexdigest(),
        mean_confidence=0.5 + len(name) / 100,
    )


def _segment(name: str, number: int, mask: NDArray[np.bool_], image: int) -> dict[str, Any]:
    embedding = np.zeros(DIM, np.float16)
    embedding[number], embedding[2] = 1, 0.1 * image
    return segment_row(name, number, mask, margin=0.1 + 0.1 * number, runner_up_class=2, embedding=embedding)


def write_masks(folder: Path, names: tuple[str, ...] = NAMES) -> Path:
    """The true masks of the label set."""
    for name in names:
        path = folder / "masks" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_gray_png(truth()))
    return folder / "masks"


def pixels(data: bytes) -> NDArray[np.uint8]:
    """A picture of the page as an array."""
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """A label set that a test may correct."""
    return write_labels(tmp_path)


@pytest.fixture
def review(labels: Path, tmp_path: Path) -> Review:
    """The label set with its masks, open."""
    folder = MaskFolder(str(write_masks(tmp_path)))
    return Review(Places(str(labels), who="ada"), partial(TruthMasks, folder))


DOOR = Door("127.0.0.1", 8765, "secret")


@pytest.fixture
def page(review: Review) -> Iterator[TestClient]:
    """A browser that has opened the printed address."""
    with TestClient(build_app(review, DOOR), base_url="http://127.0.0.1:8765") as client:
        assert client.get("/?token=secret").status_code == 200
        client.headers["origin"] = "http://127.0.0.1:8765"
        yield client

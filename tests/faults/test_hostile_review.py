"""The page of `segray serve` on a label set that somebody sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from segray.pipelines.commands.suggest import execute
from segray.pipelines.config.commands.suggest import SuggestConfig
from segray.pipelines.errors import UserError
from segray.pipelines.io.manifest import MANIFEST, ImageRef, write_manifest
from segray.pipelines.label_set.store import write_part
from segray.pipelines.review.app import build_app
from segray.pipelines.review.review import Places, Review
from segray.pipelines.review.security import Door
from tests.pipelines.label_sets import HEIGHT, WIDTH, ok_row, segment_rows, tables

INF, NAN = float("inf"), float("nan")


def _labels(root: Path, row: dict[str, Any], segment: dict[str, Any]) -> str:
    write_part(str(root), *tables([ok_row("a.png", **row)], segment_rows("a.png", **segment)))
    photo = root.parent / "photos" / "a.png"
    photo.parent.mkdir()
    Image.new("RGB", (WIDTH, HEIGHT), (90, 120, 30)).save(photo)
    write_manifest([ImageRef("a.png", str(photo), 0, 0.0)], str(root / MANIFEST))
    return str(root)


def _statuses(review: Review) -> set[int]:
    """Of everything that the page asks for; an unexpected error is raised."""
    review.queue.order()
    review.catch_up()
    app = build_app(review, Door("127.0.0.1", 8765, "secret"))
    headers = {"authorization": "Bearer secret"}
    client = TestClient(app, base_url="http://127.0.0.1:8765", headers=headers)
    kinds = ("", "/photo.jpg", "/overlay.png", "/label.png", "/confidence.png")
    places = ["/api/set", "/api/images?sort=next&classes=1", *(f"/api/images/0{kind}" for kind in kinds)]
    places += [f"/api/segments/{n}/{what}" for n in (0, 1) for what in ("crop.jpg", "alike?class=1")]
    return {client.get(place).status_code for place in places}


@pytest.mark.parametrize(
    ("row", "segment"),
    [
        ({}, {"class_id": 32_767, "runner_up_class": 32_767}),
        ({}, {"class_id": -5, "runner_up_class": -5}),
        ({}, {"bbox": [1e30, -1e30, 1e30, NAN], "area": 2**62}),
        ({}, {"bbox": None, "area": -1, "score": NAN, "margin": INF}),
        ({}, {"embedding": np.array([NAN, INF, -INF, 0], np.float16)}),
        ({}, {"embedding": None, "rle": None}),
        ({}, {"rle": {"size": [20, 30], "counts": None}}),
        ({}, {"rle": {"size": [2**31 - 1, 2**31 - 1], "counts": b"oooooo"}}),
        ({"class_ids": [2**62, -(2**62)], "class_pixels": [2**62, -1]}, {}),
        ({"class_ids": None, "class_pixels": [1], "mean_confidence": NAN}, {}),
        ({"width": 2**31 - 1, "height": 2**31 - 1}, {}),
        ({"width": -1, "height": 0, "n_segments": -7}, {}),
    ],
)
def test_the_page_answers_or_refuses_whatever_a_label_set_holds(
    tmp_path: Path, row: dict[str, Any], segment: dict[str, Any]
) -> None:
    """A class_id of 32,767 took as many numbers per image, and 4 GB for its segments."""
    labels = _labels(tmp_path / "labels", row, segment)
    review = Review(Places(labels, (str(tmp_path / "photos"),)))
    segments = review.index.segments
    assert segments.class_id.max(initial=0) < len(review.classes)
    assert segments.class_id.min(initial=0) >= 0
    assert _statuses(review) <= {200, 404, 422, 500}
    assert execute(SuggestConfig(labels=labels)).images == ("a.png",)


def test_embeddings_of_different_lengths_are_refused(tmp_path: Path) -> None:
    labels = tmp_path / "labels"
    for name, dim in (("a.png", 4), ("b.png", 6)):
        write_part(str(labels), *tables([ok_row(name)], segment_rows(name, dim=dim), dim=dim))
    with pytest.raises(UserError, match=r"embeddings of \d numbers in one part, of \d in another"):
        Review(Places(str(labels)))

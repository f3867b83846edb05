"""Background names and threshold are changed live, by the CLIP that made the label set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from segray.models.clip.model import build_text_clip
from segray.models.clip.text import embed_label_space
from segray.models.label_space import LabelSpace
from segray.pipelines.review.app import build_app
from segray.pipelines.review.review import Places, Review
from tests.pipelines.review.conftest import CLASSES, DOOR, boxes, pixels, write_labels

_TEMPLATE = "a photo of a {}."


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> TestClient:
    """A page over segments that are exactly what CLIP calls a sky and a house."""
    clip = build_text_clip("builtin")
    space = LabelSpace(("sky", "house"), (("sky",), ("house",)))
    vectors = embed_label_space(clip, space, [_TEMPLATE]).embeddings.numpy()
    root: Path = write_labels(
        tmp_path_factory.mktemp("named"),
        vectors=vectors,
        prompts={"names": [["sky"], ["tree", "oak"], ["house"]], "templates": [_TEMPLATE]},
        clip={"model": "builtin", "weights": None, "sha256": None},
        config={"label.threshold": 0.1},
    )
    client = TestClient(build_app(Review(Places(str(root))), DOOR), base_url="http://127.0.0.1:8765")
    client.headers |= {"authorization": "Bearer secret"}
    return client


def _label(named: TestClient, background: list[str], threshold: float) -> Any:
    answer = named.post("/api/naming", json={"background": background, "threshold": threshold})
    assert answer.status_code == 200, answer.json()
    return pixels(named.get("/api/images/0/label.png", params={"names": answer.json()["key"]}).content)


def test_the_names_of_the_label_set_are_told_and_six_classes_with_their_cosines(named: TestClient) -> None:
    stored = named.get("/api/naming").json()

    assert (stored["background"], stored["threshold"]) == (["sky"], 0.1)
    assert stored["aliases"] == {"tree": ["tree", "oak"]}
    parts = named.get("/api/images/0", params={"names": stored["key"]}).json()["parts"]
    assert [part["similar"][0][0] for part in parts] == [0, 2]
    assert [part["similar"][0][1] for part in parts] == pytest.approx([1, 1], abs=1e-3)
    assert len(parts[0]["similar"]) == len(CLASSES)


def test_labels_follow_names_and_threshold(named: TestClient) -> None:
    sky, house = boxes()

    with_sky = _label(named, ["sky"], 0.1)
    assert set(np.unique(with_sky[house])) == {2}
    assert set(np.unique(with_sky[sky & ~house])) == {0}
    assert not _label(named, ["sky"], 1.0).any()
    answer = named.post("/api/naming", json={"background": ["sky"], "threshold": 1.0}).json()
    assert (answer["segments"], answer["changed"]) == ([6, 0, 0], 1.0)


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"background": ["house"], "threshold": 0}, "'house' is a name of a class"),
        ({"background": ["sea", "Sea"], "threshold": 0}, "'Sea' is a name of a class, is listed twice"),
        ({"background": "sky", "threshold": 0}, "background: not a list"),
        ({"background": [""], "threshold": 0}, "a name that is no text"),
        ({"background": [], "threshold": 7}, "threshold: not a number from -1 to 1"),
        ({"background": [], "threshold": True}, "threshold: not a number from -1 to 1"),
    ],
)
def test_names_that_are_none_are_refused(named: TestClient, document: dict[str, Any], reason: str) -> None:
    answer = named.post("/api/naming", json=document)

    assert answer.status_code == 422
    assert reason in answer.json()["error"]


def test_a_key_that_is_not_known_is_refused(named: TestClient) -> None:
    answer = named.get("/api/images/0/label.png", params={"names": "0" * 16})

    assert (answer.status_code, answer.json()["error"]) == (422, "names: not known any more; set them again")

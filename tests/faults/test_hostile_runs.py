"""Training runs that somebody sent, for `segray report`: whose data the page shows."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segray.pipelines.io import clients
from segray.pipelines.reporting.training.page import build

SECRET = "ssn 078-05-1120"


def reason(run: Path, roots: Sequence[str] = ()) -> str:
    """Why the page has no examples; "" if it has some."""
    found = re.search(r"No examples: ([^<]*)", build(str(run), 1, roots))
    return "" if found is None else found[1].replace("&#39;", "'")


def change(run: Path, key: str, value: object) -> Path:
    """Another value in config.yaml, as whoever sends the run may write it; where the data was."""
    path = run / "config.yaml"
    text = path.read_text()
    root = re.search(r"root: (.*)", text)
    assert root is not None
    path.write_text(re.sub(rf"^( +){key}:.*$", rf"\g<1>{key}: {value}", text, flags=re.MULTILINE))
    return Path(root[1])


def test_a_received_run_shows_no_data_that_its_author_does_not_know(own_run: Path, tmp_path: Path) -> None:
    assert reason(own_run) == ""
    mine = tmp_path / "mine"
    shutil.copytree(change(own_run, "root", mine), mine)
    image = next((mine / "images").rglob("*.*"))
    Image.effect_noise(Image.open(image).size, 50).convert("RGB").save(image)
    for path in (mine / "masks").rglob("*.png"):
        mask = np.array(Image.open(path))
        mask[0, 0] = 1 - min(1, int(mask[0, 0]))
        Image.fromarray(mask).save(path)
    assert "is not the data that data.json tells of, and config.yaml may be anyone's" in reason(own_run)
    (own_run / "data.json").unlink()
    assert "image.roots=FOLDER allows it" in reason(own_run)
    assert reason(own_run, [str(mine)]) == ""


@pytest.mark.parametrize(
    "place",
    [
        "s3://bucket/x?endpoint_override=127.0.0.1:9&scheme=http",
        *("s3://mine/photos", "gs://mine/photos", "https://127.0.0.1:9/x", "simplecache::s3://mine/photos"),
    ],
)
@pytest.mark.parametrize("key", ["root", "labels", "unlabelled"])
def test_a_received_run_asks_no_bucket_and_no_host(
    own_run: Path, monkeypatch: pytest.MonkeyPatch, key: str, place: str
) -> None:
    """A request has the key id and a signature of whoever makes the report."""
    monkeypatch.setattr(clients, "open_storage", lambda *_: pytest.fail("it was asked"))
    change(own_run, key, place)
    assert "image.roots=FOLDER allows it" in reason(own_run) or "config.yaml is not" in reason(own_run)


def test_a_received_run_quotes_no_file(own_run: Path, tmp_path: Path) -> None:
    (tmp_path / "private.txt").write_text(f"{SECRET}\n")
    change(own_run, "validation", tmp_path / "private.txt")
    page = build(str(own_run), 1)
    assert SECRET not in page
    assert "cannot be opened as config.yaml says; image.roots=FOLDER shows why" in reason(own_run)

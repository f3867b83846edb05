"""Names of the previous version: refused in what users write, translated in what segray stored."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from segray.pipelines.config import previous
from segray.pipelines.config.commands.annotate import AnnotateConfig
from segray.pipelines.config.loading import load
from segray.pipelines.config.received import load_received
from segray.pipelines.config.source import read_yaml
from segray.pipelines.errors import UserError

REQUIRED = ["images=photos", "out=labels", "classes=cat"]


def test_an_old_key_is_refused_with_the_new_one(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text("image: {matte: [0, 0, 0]}\n")
    for source, override in ((None, ["image.matte=0,0,0"]), (str(file), [])):
        with pytest.raises(UserError) as caught:
            load(AnnotateConfig, source, [*REQUIRED, *override])
        assert str(caught.value) == "unknown key image.matte; it is now image.background_color"
        assert caught.value.exit_code == 2


def test_a_search_of_an_older_version_keeps_its_clip_weights() -> None:
    tree = {"data": {"root": "book"}, "search": {"trials": 3, "clip_weights": "clip.pt"}}
    now = {"data": {"root": "book", "clip_weights": "clip.pt"}, "search": {"trials": 3}}
    assert previous.current_tree(tree) == now


def test_an_old_value_is_refused_with_the_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(previous.VALUES, "clip.model", {"tiny": "small"})
    with pytest.raises(UserError) as caught:
        load(AnnotateConfig, None, [*REQUIRED, "clip.model=tiny"])
    assert str(caught.value) == "clip.model: tiny is now small"


def test_a_stored_configuration_is_translated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(previous.VALUES, "clip.model", {"tiny": "small"})
    file = tmp_path / "config.yaml"
    file.write_text(
        "images: a\nout: b\nclasses: cat\nimage: {min_size: 9, matte: [1, 2, 3]}\nclip: {model: tiny}\n"
    )
    config = load_received(AnnotateConfig, read_yaml(str(file)), {"out": "c", "images": "a"}, "b/config.yaml")
    assert (config.out, config.image.min_size, config.image.background_color) == ("c", 9, (1, 2, 3))
    assert config.clip.model == "small"


def test_what_was_stored_is_not_changed_in_place() -> None:
    tree = {"image": {"matte": [1, 2, 3]}, "sam": None}
    assert previous.current_tree(tree) == {"image": {"background_color": [1, 2, 3]}, "sam": None}
    assert tree == {"image": {"matte": [1, 2, 3]}, "sam": None}
    assert previous.current_tree(yaml.safe_load("- a")) == ["a"]


def test_a_provenance_is_translated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(previous.VALUES, "sam.model", {"tiny": "small"})
    record = {
        "sam": {"model": "tiny", "sha256": "5a"},
        "config": {"image.matte": [1, 2, 3], "sam.model": "tiny", "label.threshold": 0.0},
    }
    assert previous.current_provenance(record) == {
        "sam": {"model": "small", "sha256": "5a"},
        "config": {
            "image.background_color": [1, 2, 3],
            "sam.model": "small",
            "sam.precision": "fp32",
            "label.threshold": 0.0,
        },
    }
    assert previous.current_provenance({}) == {}


@pytest.mark.parametrize("key", ["sam.model", "clip.model"])
def test_the_built_in_models_are_no_longer_called_picture_book(key: str) -> None:
    with pytest.raises(UserError) as caught:
        load(AnnotateConfig, None, [*REQUIRED, f"{key}=picture_book"])
    assert str(caught.value) == f"{key}: picture_book is now builtin"
    config = load(AnnotateConfig, None, [*REQUIRED, "classes=picture_book"])
    assert (config.classes, config.sam.model, config.clip.model) == ("picture_book", "builtin", "builtin")
    old = {"sam": {"model": "picture_book"}, "clip": {"model": "picture_book"}}
    new = {"sam": {"model": "builtin"}, "clip": {"model": "builtin"}}
    assert previous.current_provenance(old) == previous.current_tree(old) == new
    assert previous.current_tree({"classes": "picture_book"}) == {"classes": "picture_book"}

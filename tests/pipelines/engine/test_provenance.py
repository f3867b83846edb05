from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from segray.models.label_space import label_space
from segray.pipelines.config.commands.annotate import AnnotateConfig
from segray.pipelines.config.loading import load
from segray.pipelines.engine.provenance import differences, other_configuration, provenance


def record(*words: str, **changes: Any) -> dict[str, Any]:
    """The provenance of a run, as it comes back from a part's metadata."""
    config = load(AnnotateConfig, None, ["images=photos", "out=labels", "classes=cat,dog", *words])
    space = label_space(config.classes, config.label.background_names, config.label.aliases)
    found = provenance(
        config,
        space,
        models={
            "sam": {"model": "vit_b", "sha256": "5a" * 32},
            "clip": {
                "model": "ViT-B-16",
                "sha256": "c1" * 32,
                "features": "gem",
                "weights": None,
                "logit_scale": 100.0,
            },
        },
        templates=("a photo of a {}.",),
    )
    return {**json.loads(json.dumps(found)), **changes}


def test_it_says_what_a_relabelling_and_a_reader_need() -> None:
    found = record("label.aliases.cat=cat,kitten")
    assert found["classes"] == ["background", "cat", "dog"]
    assert found["ignore_index"] == 255
    assert found["palette"] == [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
    assert found["prompts"]["names"][1:] == [["cat", "kitten"], ["dog"]]
    assert "sky" in found["prompts"]["names"][0]
    assert found["prompts"]["templates"] == ["a photo of a {}."]
    assert found["clip"]["logit_scale"] == 100.0
    assert found["config"]["label.threshold"] == 0.0
    assert found["config_hash"] != record("label.threshold=0.1")["config_hash"]
    assert found["versions"]["torch"]


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["out=elsewhere"],
        [
            "sam.workers=3",
            "sam.batch_size=1",
            "clip.num_gpus=0.5",
            "sam.points_per_batch=7",
            "sam.compile=true",
        ],
        ["max_bad=0.5", "rows_per_part=3", "max_tries=1", "new_run=true", "address=auto"],
    ],
)
def test_where_and_how_fast_a_run_works_is_no_difference(words: list[str]) -> None:
    assert differences(record(), record(*words), AnnotateConfig) == []
    assert record()["config_hash"] == record(*words)["config_hash"]


def test_other_versions_are_no_difference() -> None:
    assert differences(record(versions={"torch": "1.0"}), record(), AnnotateConfig) == []


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("label.threshold=0.25", "label.threshold: 0.0 -> 0.25"),
        ("sam.points_per_side=8", "sam.points_per_side: None -> 8"),
        ("clip.features=clip", "clip.features: 'gem' -> 'clip'"),
        ("embeddings=false", "embeddings: True -> False"),
        ("image.min_size=1", "image.min_size: 8 -> 1"),
    ],
)
def test_each_key_that_shapes_labels_is_named(word: str, line: str) -> None:
    assert differences(record(), record(word), AnnotateConfig) == [line]


def test_other_weights_are_named_by_their_checksum() -> None:
    other = record(sam={"model": "vit_b", "sha256": "00"})
    assert differences(record(), other, AnnotateConfig) == [f"sam weights sha256: '{'5a' * 32}' -> '00'"]


def test_a_class_file_of_the_same_name_with_other_classes_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_text("cat\ndog\n")
    old = record(f"classes={file}")
    file.write_text("cat\ncow\n")
    assert differences(old, record(f"classes={file}"), AnnotateConfig) == [
        "class list: ['background', 'cat', 'dog'] -> ['background', 'cat', 'cow']",
        f"prompt names: {old['prompts']['names']!r} -> {[*old['prompts']['names'][:2], ['cow']]!r}",
    ]


def test_a_record_without_a_configuration_differs_in_everything() -> None:
    lines = differences({}, record(), AnnotateConfig)
    assert "images: None -> 'photos'" in lines
    assert len(lines) > 20


@pytest.mark.parametrize(
    ("key", "then", "now"),
    [
        ("image.reduce_jpeg", False, True),
        ("sam.precision", "fp32", "bf16"),
        ("clip.precision", "fp32", "fp16"),
    ],
)
def test_a_key_younger_than_the_label_set_is_what_was_done_then(key: str, then: Any, now: Any) -> None:
    old = record()
    del old["config"][key]
    others = [f"{name}.precision=fp32" for name in ("sam", "clip") if key != f"{name}.precision"]
    old["config"] |= {word.split("=")[0]: "fp32" for word in others}
    assert differences(old, record(*others, f"{key}={str(then).lower()}"), AnnotateConfig) == []
    expected = [f"{key}: {then!r} -> {now!r}"]
    assert differences(old, record(*others, f"{key}={str(now).lower()}"), AnnotateConfig) == expected


def test_the_refusal_names_the_folder_each_difference_and_what_to_do() -> None:
    text = other_configuration("s3://me:secret@bucket/x", ["a: 1 -> 2", "b: 3 -> 4"], "give another out=DIR")
    assert text == (
        "s3://***@bucket/x was made with another configuration:\n"
        "  a: 1 -> 2\n  b: 3 -> 4\ngive another out=DIR"
    )

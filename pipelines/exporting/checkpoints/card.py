"""The card of a network on the Hugging Face hub: what it is, what it was trained on, how good it is."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from segray.models.segmenters.registry import NETWORKS
from segray.pipelines.exporting.checkpoints.description import validation
from segray.pipelines.exporting.markdown import cell, table
from segray.pipelines.io import storage
from segray.pipelines.training.checkpoints import CheckpointState
from segray.pipelines.training.data_record import DATA
from segray.pipelines.training.trained import run_folder

_PARTS = ("labelled", "unlabelled", "validation")
# Settings, not places: a card goes to others.
_SETTINGS = ("method", "pseudo.tau", "pseudo.epsilon", "train.epochs", "augment.crop", "seed", "data.kind")
_SCORES = (
    ("mIoU", "miou"),
    ("pixel accuracy", "accuracy"),
    ("mIoU of the zero-shot labels on the same images", "zero_shot_miou"),
)


def model_card(uri: str, state: CheckpointState, described: Mapping[str, Any], file: str) -> str:
    """Markdown with a head that the hub reads.

    Args:
        uri: of the checkpoint; the record of its run is read.
        state: of the checkpoint.
        described: the description in the file.
        file: its name.
    """
    head = {
        "library_name": "segray",
        "pipeline_tag": "image-segmentation",
        "tags": ["semantic-segmentation", described["network"]],
    }
    return _CARD.format(
        head=yaml.safe_dump(head, sort_keys=False),
        network=described["network"],
        file=cell(file),
        contract=_contract(described),
        facts=table(("trained on", ""), _facts(uri, state, described)),
        scores=table(("validation", ""), _scores(state)),
        classes=table(("id", "class", "IoU"), _classes(state, described["classes"])),
    )


def _contract(described: Mapping[str, Any]) -> str:
    pixels = described.get("input")
    if pixels is None:
        return 'Weights alone: `segray.load_network("FILE")` builds the network.'
    low, high = pixels["range"]
    return (
        f"Input `{pixels['name']}`: RGB `{pixels['dtype']} [N, 3, H, W]` in {low} to {high}, sides from "
        f"{pixels['min_side']} pixels on; the normalisation is inside. Output `logits`: "
        "`float32 [N, classes, H, W]`."
    )


def _facts(uri: str, state: CheckpointState, described: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    record, config = _record(uri), state.get("config", {})
    for name in _PARTS:
        part = record.get(name)
        if isinstance(part, dict):
            yield f"{name} images", str(part.get("images"))
    if record.get("labels"):
        yield "label set (fingerprint)", str(record["labels"])
    yield from ((name, str(config[name])) for name in _SETTINGS if config.get(name) is not None)
    if entry := NETWORKS.get(described["network"]):
        yield "encoder's official weights", f"{entry.weights}: {entry.licence}"
    yield "weights (sha256)", described["weights_sha256"]


def _record(uri: str) -> dict[str, Any]:
    """What the run was trained on; {} where that is not known."""
    try:
        record = json.loads(storage.read_bytes(storage.join(run_folder(uri), DATA)))
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def _scores(state: CheckpointState) -> Iterator[tuple[str, str]]:
    entry: Mapping[str, Any] = validation(state) or {}
    for name, key in _SCORES:
        if isinstance(value := entry.get(key), float):
            yield name, f"{value:.1%}"
    if entry.get("epoch") is not None:
        yield "epoch", f"{entry['epoch']:g}"


def _classes(state: CheckpointState, classes: list[str]) -> Iterator[tuple[str, ...]]:
    entry: Mapping[str, Any] = validation(state) or {}
    scores = entry.get("iou") or []
    for i, name in enumerate(classes):
        value = scores[i] if i < len(scores) else None
        yield str(i), name, "" if value is None else f"{value:.1%}"


_CARD = """---
{head}---

# Semantic segmentation: {network}

`{file}`, written by `segray export`. {contract}
Names, colours, window and normalisation are in the metadata of the file.

{scores}

{classes}

{facts}

Figures are those of the run's own validation images. It may have learned from labels that a program made.
"""

"""The images that a label set was begun with: where they were, and the contents of some."""

from __future__ import annotations

from itertools import islice

from segray.pipelines.config.commands.annotate import AnnotateConfig
from segray.pipelines.config.source import parse_yaml
from segray.pipelines.engine import same_images
from segray.pipelines.engine.same_images import SAMPLE
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.label_set.store import LabelStore


def other_images(config: AnnotateConfig, out: str) -> list[str]:
    """As `same_images.other_images`, of a label set.

    Raises:
        UserError: its manifest is damaged, or there are no images.
        DamagedPartError: one of its parts is.
    """
    return same_images.other_images(
        config, out, recorded_place(out), lambda: _labelled_sample(LabelStore(out))
    )


def recorded_place(out: str) -> str | None:
    """Where the images of a label set are by its config.yaml, as `place_of`; None if that cannot be read."""
    stored = storage.join(out, "config.yaml")
    try:
        images = parse_yaml(storage.read_bytes(stored), stored).get("images")
    except (OSError, UserError):
        return None
    return images if isinstance(images, str) else ",".join(map(str, images or ()))


def _labelled_sample(store: LabelStore) -> dict[str, str]:
    """sha256 by image_id of some images, from parts that are evenly spaced."""
    parts = store.parts()
    chosen = parts[:: max(1, len(parts) // SAMPLE)][:SAMPLE]
    each = -(-SAMPLE // max(1, len(chosen)))
    sample: dict[str, str] = {}
    for part in chosen:
        rows = (row for row in store.rows(["image_id", "sha256"], [part]) if row["sha256"])
        sample |= {row["image_id"]: row["sha256"] for row in islice(rows, each)}
    return sample

"""Whether images in another place are those that a label set was begun with.

Where images are is no part of what made a label set: they may be moved. Their ids, sizes and contents are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from segray.pipelines.config.commands.annotate import AnnotateConfig
from segray.pipelines.config.source import parse_yaml
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.manifest import MANIFEST, ImageRef, read_manifest
from segray.pipelines.io.received import below
from segray.pipelines.io.sources import follows_links, image_digest, image_roots, list_images
from segray.pipelines.io.uris import display_all, redacted_tree
from segray.pipelines.label_set.store import LabelStore

SAMPLE = 16
"""Labelled images whose contents are compared."""


def other_images(config: AnnotateConfig, out: str) -> list[str]:
    """What differs between the images of a run and those that `out` was begun with; [] if they are the same.

    Images are listed and read only if their place is another than that in `out`. There may be more of them
    than before, but none less.

    Args:
        config: of the run.
        out: a label set.

    Raises:
        UserError: its manifest is damaged, or there are no images.
        DamagedPartError: one of its parts is.
    """
    manifest = storage.join(out, MANIFEST)
    if not storage.exists(manifest) or not is_moved(config, out):
        return []
    place = display_all(config.images)
    sample = _labelled_sample(LabelStore(out))
    images = list_images(config.images, config.image.roots, follow=config.image.follow_links)
    comparison = _compare(read_manifest(manifest), images, sample)
    roots = image_roots(config.images, config.image.roots)
    follow = follows_links(config.images, config.image.follow_links)
    lines = [
        f"images: {count} of {comparison.total} images {what} {place}, such as {example}"
        for what, (count, example) in comparison.differences.items()
    ]
    return lines or [
        f"images: {ref.image_id} in {place} is not the file that was labelled"
        for ref in comparison.sampled
        if image_digest(ref.uri, roots, follow=follow) != sample[ref.image_id]
    ]


def is_moved(config: AnnotateConfig, out: str) -> bool:
    """Whether the images of a run are somewhere else than those of the label set `out`."""
    if recorded_place(out) != place_of(config):
        return True
    # The same relative path may start in another folder.
    refs = read_manifest(storage.join(out, MANIFEST))
    first = next((ref for ref in refs if ref.problem is None), None)
    return first is not None and not below(first.uri, image_roots(config.images, config.image.roots))


def recorded_place(out: str) -> str | None:
    """Where the images of a label set are by its config.yaml, as `place_of`; None if that cannot be read."""
    stored = storage.join(out, "config.yaml")
    try:
        images = parse_yaml(storage.read_bytes(stored), stored).get("images")
    except (OSError, UserError):
        return None
    return images if isinstance(images, str) else ",".join(map(str, images or ()))


def place_of(config: AnnotateConfig) -> str:
    """Where the images of a run are, as its config.yaml has it; of several sources in one text."""
    images = redacted_tree(config.images)
    return images if isinstance(images, str) else ",".join(images)


@dataclass
class _Comparison:
    """The images of a label set and those of a run.

    Attributes:
        total: images of the label set.
        differences: what is wrong: how many images, and the first.
        sampled: images of the run whose contents are to be compared.
    """

    total: int = 0
    differences: dict[str, tuple[int, str]] = field(default_factory=dict)
    sampled: list[ImageRef] = field(default_factory=list)

    def add(self, what: str, image_id: str) -> None:
        """Count a difference."""
        count, first = self.differences.get(what, (0, image_id))
        self.differences[what] = (count + 1, first)


def _compare(old: Iterable[ImageRef], new: Iterator[ImageRef], sample: Collection[str]) -> _Comparison:
    """Both ascending by image_id; neither is held in memory."""
    result = _Comparison()
    ref = next(new, None)
    for known in old:
        result.total += 1
        while ref is not None and ref.image_id < known.image_id:
            ref = next(new, None)
        if ref is None or ref.image_id != known.image_id:
            if known.problem is None:
                result.add("are not in", known.image_id)
        elif known.size and ref.size and known.size != ref.size:
            result.add("have another size in", known.image_id)
        elif ref.image_id in sample:
            result.sampled.append(ref)
    return result


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

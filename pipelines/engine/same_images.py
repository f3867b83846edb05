"""Whether images in another place are those that an output was begun with.

Where images are is no part of what made an output: they may be moved. Their ids, sizes and contents are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from segray.pipelines.config.commands.annotate import AnnotateConfig
from segray.pipelines.config.commands.predict import PredictConfig
from segray.pipelines.io import storage
from segray.pipelines.io.manifest import MANIFEST, ImageRef, read_manifest
from segray.pipelines.io.received import below
from segray.pipelines.io.sources import image_digest, image_roots, list_images
from segray.pipelines.io.uris import display_all, redacted_tree

SAMPLE = 16
"""Images whose contents are compared."""


def other_images(
    config: AnnotateConfig | PredictConfig,
    out: str,
    recorded: str | None,
    sample: Callable[[], Mapping[str, str]],
) -> list[str]:
    """What differs between the images of a run and those that `out` was begun with; [] if they are the same.

    Images are listed and read only if their place is another than that in `out`. There may be more of them
    than before, but none less.

    Args:
        config: of the run.
        out: the output, with a manifest if it was begun.
        recorded: where its images were, as `place_of`; None: unknown.
        sample: gives sha256 by image_id of some of its images, whose contents are compared.

    Raises:
        UserError: its manifest is damaged, or there are no images.
    """
    manifest = storage.join(out, MANIFEST)
    if not storage.exists(manifest) or not _is_moved(config, manifest, recorded):
        return []
    place, known = display_all(config.images), sample()
    images = list_images(
        config.images, config.image.roots, follow=config.image.follow_links, column=config.image.column
    )
    comparison = _compare(read_manifest(manifest), images, known)
    options = config.image.options(config.images)
    lines = [
        f"images: {count} of {comparison.total} images {what} {place}, such as {example}"
        for what, (count, example) in comparison.differences.items()
    ]
    return lines or [
        f"images: {ref.image_id} in {place} is not the file that was labelled"
        for ref in comparison.sampled
        if image_digest(ref.uri, options.roots, follow=options.follow_links) != known[ref.image_id]
    ]


def _is_moved(config: AnnotateConfig | PredictConfig, manifest: str, recorded: str | None) -> bool:
    if recorded != place_of(config):
        return True
    # The same relative path may start in another folder.
    first = next((ref for ref in read_manifest(manifest) if ref.problem is None), None)
    return first is not None and not below(first.uri, image_roots(config.images, config.image.roots))


def place_of(config: AnnotateConfig | PredictConfig) -> str:
    """Where the images of a run are, without secrets; of several sources in one text."""
    images = redacted_tree(config.images)
    return images if isinstance(images, str) else ",".join(images)


@dataclass
class _Comparison:
    """The images of an output and those of a run.

    Attributes:
        total: images of the output.
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

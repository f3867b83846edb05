"""`segray suggest`: which images to label next, as a list or as the task of a tool."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segray.pipelines.commands.export import ExportResult, check_bad_images, export_labels
from segray.pipelines.config.commands.export import ExportConfig
from segray.pipelines.config.commands.suggest import SuggestConfig
from segray.pipelines.corrections import CorrectedStore
from segray.pipelines.corrections.correction import effective
from segray.pipelines.corrections.suggestions import Candidates, next_images
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.label_set.store import LabelStore
from segray.pipelines.printing import echo, visible
from segray.pipelines.review.index import Index, build_index
from segray.pipelines.review.neighbours import NeighbourSearch
from segray.pipelines.understood import line


@dataclass(frozen=True)
class SuggestResult:
    """What `suggest` chose; as text, what the command prints.

    Attributes:
        images: image_ids, the one to label first first.
        left: images without corrections that were not chosen.
        out: file or folder; None where nothing was written.
        export: of the task; None for a list.
    """

    images: tuple[str, ...]
    left: int
    out: str | None
    export: ExportResult | None = None

    def __str__(self) -> str:
        if self.out is None:
            return "\n".join(map(visible, self.images))
        count = f"{len(self.images)} of {len(self.images) + self.left} without corrections"
        return "\n".join([line("images", count), line("wrote", storage.display(self.out))])


def run(config: SuggestConfig) -> None:
    """Choose, and print or write the choice.

    Raises:
        UserError: as `execute` raises.
    """
    echo(execute(config))


def execute(config: SuggestConfig) -> SuggestResult:
    """Choose images, and write them as a list or a task.

    Raises:
        UserError: no label set, no image without corrections, or an `out` that cannot take the task.
    """
    if config.out is None and config.format != "list":
        raise UserError(f"out: format={config.format} needs a new folder; give out=DIR")
    # What counts of corrected images, embeddings and areas, no correction changes.
    index = build_index(LabelStore(config.labels))
    corrections = CorrectedStore(config.labels).corrections
    corrected = {image_id for image_id, group in corrections.items() if effective(group)}
    open_ = index.images.labelled & [image_id not in corrected for image_id in index.images.ids]
    if not open_.any():
        where = storage.display(config.labels)
        raise UserError(f"labels={where}: every labelled image has corrections")
    images = tuple(index.images.ids[i] for i in choose(index, open_, config.n))
    left = int(open_.sum()) - len(images)
    if config.out is None:
        return SuggestResult(images, left, None)
    if config.format == "list":
        if storage.exists(config.out) and storage.stat(config.out) is None:
            raise UserError(f"out={storage.display(config.out)} is a folder; format=list writes a file")
        storage.write_atomic(config.out, "".join(f"{image}\n" for image in images).encode())
        return SuggestResult(images, left, config.out)
    export = ExportConfig(
        labels=config.labels, out=config.out, format=config.format, images=config.images, image=config.image
    )
    result = export_labels(export, only=frozenset(images))
    check_bad_images(result)
    return SuggestResult(images, left, config.out, result)


def choose(index: Index, open_: NDArray[np.bool_], n: int) -> list[int]:
    """The numbers of the next n images, the first one first; those without a segment last.

    Args:
        index: of the label set.
        open_: bool [N], images to choose from.
        n: how many; all where there are fewer.
    """
    segments = index.segments
    image = np.repeat(np.arange(len(index.images)), np.diff(segments.start))
    search = NeighbourSearch(segments.embedding, segments.class_id)
    candidates = Candidates(
        segments.embedding, segments.margin, segments.area, segments.class_id, search.class_means
    )
    chosen = next_images(candidates, image, ~open_[image], n).tolist()
    rest = np.flatnonzero(open_ & ~np.isin(np.arange(len(open_)), chosen))
    least_certain = rest[np.argsort(index.images.certainty[rest], kind="stable")]
    return [*chosen, *least_certain[: n - len(chosen)].tolist()]

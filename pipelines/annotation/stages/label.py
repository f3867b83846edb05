"""Label: a labeller (SAM 3) finds the segments of the classes and scores them, in one model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from segray.models.class_scores import CheckedLabels, classify_scores
from segray.models.masks import Segment, pack
from segray.models.seams import Scored, TiledLabels
from segray.models.tiling import Tiling
from segray.pipelines.annotation.stages.base import Stage
from segray.pipelines.annotation.stages.loading import device_of, load_or_defer_error
from segray.pipelines.annotation.stages.schemas import CLASSIFIED_SCHEMA, classes_to_bytes, pixels_of
from segray.pipelines.config.commands.annotate import LabellerModel
from segray.pipelines.engine.cpu import reuse_freed_memory, use_threads
from segray.pipelines.engine.guard import Guard
from segray.pipelines.engine.pools import PoolPlan
from segray.pipelines.engine.rows import Row

if TYPE_CHECKING:  # torch takes seconds to import
    from segray.models.annotators.protocols import Labeller, LabelModel

_NOT_OPTIONS = frozenset({"weights", "sha256", "precision"})


class LabelImages(Stage):
    """A labeller over a batch of images.

    Args:
        model: its name.
        config: its options.
        names: of each class id.
        threshold: a segment whose best score is not above it gets no class.
        plan: of its workers.
        guard: of the run.
        loaded: the model, if it is loaded already.
        tiling: of large images; None: each image in one piece.
    """

    name, schema = "labeller", CLASSIFIED_SCHEMA

    def __init__(
        self,
        model: str,
        config: LabellerModel,
        names: Sequence[Sequence[str]],
        threshold: float,
        plan: PoolPlan,
        guard: Guard,
        loaded: LabelModel | None = None,
        tiling: Tiling | None = None,
    ) -> None:
        super().__init__(guard)
        self._device, self._threads = device_of(plan), plan.threads
        if self._device == "cpu":
            reuse_freed_memory()
        self._threshold = threshold
        # Without background names no score is the background's.
        self._ids = [class_id for class_id, group in enumerate(names) if group]
        self._labeller = load_or_defer_error(
            partial(_load, model, config, names, threshold, self._device, loaded, tiling)
        )

    def __call__(self, table: pa.Table) -> pa.Table:
        """READ_SCHEMA to CLASSIFIED_SCHEMA.

        Raises:
            UserError: the weights could not be loaded.
        """
        self._labeller()
        use_threads(self._threads)
        return super().__call__(table)

    def process(self, rows: list[Row]) -> list[Row]:
        """Add the packed segments and their classes."""
        return [self._labelled(row, *scored) for row, scored in zip(rows, self._scored(rows), strict=True)]

    def _scored(self, rows: list[Row]) -> Iterator[Scored]:
        """On a CPU one image at a time, so that no image's labels depend on its batch."""
        step = 1 if self._device == "cpu" else len(rows)
        for start in range(0, len(rows), step):
            batch = rows[start : start + step]
            sizes = [(row["height"], row["width"]) for row in batch]
            yield from self._labeller().label([pixels_of(row) for row in batch], sizes)

    def _labelled(self, row: Row, segments: list[Segment], scores: NDArray[np.float32]) -> Row:
        classes = classify_scores(scores, self._ids, self._threshold)
        return {**row, "packed_segments": pack(segments), "classes": classes_to_bytes(classes)}


def _load(
    model: str,
    config: LabellerModel,
    names: Sequence[Sequence[str]],
    threshold: float,
    device: str,
    loaded: LabelModel | None,
    tiling: Tiling | None,
) -> Labeller:
    from segray.models.annotators.loading import open_labeller

    opened = loaded or open_labeller(model, config.weights, sha256=config.sha256)[0]
    options = labeller_options(model, config, threshold, device)
    labeller = CheckedLabels(opened.labeller(device, names, options), len(names))
    return TiledLabels(labeller, tiling) if tiling else labeller


def labeller_options(
    model: str, config: LabellerModel, threshold: float, device: str = "cpu"
) -> dict[str, object]:
    """The options of a labeller's family.

    Args:
        model: its name.
        config: its options.
        threshold: of a segment with a class.
        device: that `precision=auto` is for.
    """
    from segray.models.annotators.registry import label_entry
    from segray.models.precision import labeller_precision

    values = config.model_dump(include=set(label_entry(model).open_family().options))
    precision = labeller_precision(config.precision, device)
    return {**values, "precision": precision, "threshold": threshold}


def check_labeller_options(model: str, config: LabellerModel, threshold: float) -> None:
    """Refuse options that contradict each other, or that the model would ignore.

    Raises:
        ValueError: which.
    """
    from segray.models.annotators.registry import label_entry

    family = label_entry(model).open_family()
    fields = LabellerModel.model_fields
    for name in fields.keys() - _NOT_OPTIONS - family.options:
        if getattr(config, name) != fields[name].default:
            raise ValueError(f"labeller.{name} has no effect with annotator={model}; leave it out")
    family.check_options(labeller_options(model, config, threshold))

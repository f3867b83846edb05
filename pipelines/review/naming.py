"""Name segments again by other background names and thresholds, from their stored embeddings."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segray.models.label_map import SegmentClasses
from segray.models.label_space import LabelSpace, hidden_characters, name_key
from segray.pipelines.annotation.relabelling import build_stored_clip, of_pixels
from segray.pipelines.config.previous import current_provenance
from segray.pipelines.corrections.suggestions import unit
from segray.pipelines.errors import UserError
from segray.pipelines.io.uris import display
from segray.pipelines.review.index import Halves

if TYPE_CHECKING:  # open_clip takes seconds to import
    from segray.models.clip.model import ClipModel
    from segray.models.clip.text import ZeroShotClassifier

MAX_NAMES = 200
_MAX_LENGTH = 100
_KEPT = 32
_SAMPLE = 20_000


@dataclass(frozen=True)
class Names:
    """How segments are named.

    Attributes:
        background: prompt names of id 0.
        threshold: a segment whose best cosine is not above it has no class.
    """

    background: tuple[str, ...]
    threshold: float

    @property
    def key(self) -> str:
        """Short and different for different names."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]


class Naming:
    """The text side of the CLIP that made a label set. It is loaded when it is first needed.

    Args:
        record: the label set's provenance.
        labels: its folder.
        weights: the user's `clip.weights`.
        embedding: float16 [S, D], of all segments.
        class_id: int32 [S], the classes that they have.
    """

    def __init__(
        self,
        record: Mapping[str, Any],
        labels: str,
        weights: str | None,
        embedding: Halves,
        class_id: NDArray[np.int32],
    ) -> None:
        self._record, self._labels, self._weights = current_provenance(dict(record)), labels, weights
        self._embedding, self._class_id = embedding, class_id
        self._clip: ClipModel | None = None
        self._known: OrderedDict[str, tuple[Names, ZeroShotClassifier]] = OrderedDict()
        self._lock = threading.RLock()

    @property
    def problem(self) -> str:
        """Why segments cannot be named again; "" if they can."""
        if "labeller" in self._record:
            return "its labeller stores no embeddings; segray relabel merges classes and raises the threshold"
        if not self._embedding.size:
            return "the label set holds no embeddings (annotate with embeddings=true)"
        if "calibration" in self._record:
            return "the names of a calibrated label set come from its masks"
        if "label.pool=vote" in of_pixels(self._record):
            return (
                "its segments were named by their pixels (label.pool=vote), which the label set does not hold"
            )
        prompts = self._record.get("prompts")
        if not isinstance(prompts, dict) or not _is_names(prompts.get("names"), prompts.get("templates")):
            return "the label set does not say with which prompts it was made"
        return "" if self._record.get("clip") else "the label set does not say which CLIP made it"

    @property
    def stored(self) -> Names:
        """The names that made the label set.

        Raises:
            UserError: it does not say them.
        """
        self._require_names()
        config = self._record.get("config")
        threshold = config.get("label.threshold", 0.0) if isinstance(config, dict) else 0.0
        return Names(
            tuple(self._prompts()[0]), float(threshold) if isinstance(threshold, int | float) else 0.0
        )

    @property
    def aliases(self) -> dict[str, list[str]]:
        """The prompts of the classes that have others than their own name, as `label.aliases` takes them."""
        prompts = zip(self._record["classes"][1:], self._prompts()[1:], strict=False)
        return {name: spoken for name, spoken in prompts if spoken != [name]}

    def add(self, names: Names) -> str:
        """Embed names; the key under which `classes` finds them.

        Raises:
            UserError: no embeddings, too many names, a name that is one of a class, or no such CLIP.
        """
        self._require_names()
        with self._lock:
            classifier = self._classifier(names)
            self._known[names.key] = (names, classifier)
            self._known.move_to_end(names.key)
            while len(self._known) > _KEPT:
                self._known.popitem(last=False)
        return names.key

    def classes(self, key: str, rows: slice | NDArray[np.int64]) -> SegmentClasses:
        """The classes of segments by names that were added.

        Raises:
            UserError: no such names.
        """
        import torch

        from segray.models.clip.zero_shot import classify_segments

        names, classifier = self._find(key)
        pooled = torch.from_numpy(np.asarray(self._embedding[rows], np.float32))
        return classify_segments(pooled, classifier, names.threshold)

    def similarities(self, key: str, rows: slice) -> NDArray[np.float32]:
        """float32 [K, C], the cosine of each segment with each class; -1 for a class without names.

        Raises:
            UserError: no such names.
        """
        classifier = self._find(key)[1]
        by_name = unit(self._embedding[rows]) @ classifier.embeddings.numpy().T
        found = np.full((len(by_name), len(self._record["classes"])), -1, np.float32)
        for column, class_id in enumerate(classifier.class_ids.tolist()):
            found[:, class_id] = np.maximum(found[:, class_id], by_name[:, column])
        return found

    def changed(self, key: str) -> tuple[NDArray[np.int64], float]:
        """Segments by new class, int64 [C], and the share of all that change; estimated where there are many.

        Raises:
            UserError: no such names.
        """
        rows = np.arange(0, len(self._embedding), max(1, len(self._embedding) // _SAMPLE))
        ids = self.classes(key, rows).class_id.astype(np.int64)
        counts = np.bincount(ids, minlength=len(self._record["classes"]))
        scale = len(self._embedding) / max(1, len(rows))
        return np.rint(counts * scale).astype(np.int64), float((ids != self._class_id[rows]).mean())

    def _require_names(self) -> None:
        if self.problem:
            raise UserError(f"names: {self.problem}")

    def _find(self, key: str) -> tuple[Names, ZeroShotClassifier]:
        with self._lock:
            if key not in self._known:
                raise UserError("names: not known any more; set them again")
            return self._known[key]

    def _prompts(self) -> list[list[str]]:
        prompts: list[list[str]] = self._record["prompts"]["names"]
        return prompts

    def _classifier(self, names: Names) -> ZeroShotClassifier:
        from segray.models.clip.text import embed_label_space

        classes = self._prompts()[1:]
        _check(names.background, classes)
        space = LabelSpace(tuple(self._record["classes"]), (names.background, *map(tuple, classes)))
        try:
            if self._clip is None:
                self._clip = build_stored_clip(self._record, self._labels, self._weights)
            classifier = embed_label_space(self._clip, space, self._record["prompts"]["templates"])
        except ValueError as error:
            raise UserError(f"names: {error}") from error
        if classifier.embeddings.shape[1] != self._embedding.shape[1]:
            where = display(self._labels)
            raise UserError(f"names: the embeddings of {where} are not those of its CLIP", exit_code=1)
        return classifier


def parse_names(document: Mapping[str, Any]) -> Names:
    """The names of a request.

    Raises:
        UserError: not such a document.
    """
    background, threshold = document.get("background"), document.get("threshold")
    if not isinstance(background, list) or len(background) > MAX_NAMES:
        raise UserError(f"background: not a list of at most {MAX_NAMES} names")
    if not all(isinstance(name, str) and 0 < len(name) <= _MAX_LENGTH for name in background):
        raise UserError(f"background: a name that is no text of 1 to {_MAX_LENGTH} characters")
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not -1 <= threshold <= 1:
        raise UserError("threshold: not a number from -1 to 1")
    return Names(tuple(background), float(threshold))


def _check(background: Sequence[str], classes: Sequence[Sequence[str]]) -> None:
    taken = {name_key(name) for names in classes for name in names}
    seen: set[str] = set()
    for name in background:
        if name_key(name) in taken or name_key(name) in seen or hidden_characters(name) or not name.strip():
            raise UserError(f"background: {name!r} is a name of a class, is listed twice or is no name")
        seen.add(name_key(name))


def _is_names(names: object, templates: object) -> bool:
    is_text = partial(map, lambda one: isinstance(one, str))
    return (
        isinstance(names, list)
        and len(names) > 1
        and all(isinstance(group, list) and all(is_text(group)) for group in names)
        and isinstance(templates, list)
        and bool(templates)
        and all(is_text(templates))
    )

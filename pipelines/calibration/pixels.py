"""What a few masks teach a run without segments: the names of its pixels, and whether they follow edges."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segray.models.calibration.heads import Head
from segray.models.calibration.pixels import FOLDS, TaughtHeads, masked_cells, taught_names, teach
from segray.models.calibration.prompts import Names, Prompts, with_prompts
from segray.models.calibration.selection import NO_THRESHOLD, Outcome, gather
from segray.models.calibration.trust import class_prior, transition_matrix
from segray.pipelines.annotation.prepared import Prepared
from segray.pipelines.annotation.stages.classify import TextEmbeddings
from segray.pipelines.calibration.description import (
    average_text,
    count_masks,
    score_lines,
    scores_record,
    transition_record,
)
from segray.pipelines.calibration.fit import check_classes, check_size
from segray.pipelines.calibration.masked_images import MaskedImagePixels, MaskedImageReader, MaskedRef
from segray.pipelines.config.commands.annotate import MOST_REFINE

if TYPE_CHECKING:  # torch and open_clip take seconds to import
    from segray.models.clip.model import ClipModel

REFINE_STEPS = 10
"""`clip.refine` that is tried besides none."""
_MOST_CELLS = 2**13
_STORED = "stored"
TAUGHT = "text and masks"


@dataclass(frozen=True)
class Way:
    """A way of naming pixels.

    Attributes:
        taught: by names that masks taught; else by the text alone.
        refine: steps of `clip.refine`.
    """

    taught: bool
    refine: int

    def __str__(self) -> str:
        return f"{TAUGHT if self.taught else 'text'}, clip.refine={self.refine}"


@dataclass(frozen=True)
class PixelCalibration:
    """What the masks chose.

    Attributes:
        classes: names of the ids.
        image_ids: the images with masks.
        usual: the way without masks.
        way: the chosen one.
        outcomes: of each way on the images with masks, each image named by what the others taught; {} where
            the label set had chosen before.
        heads: what they taught; None: nothing, as it is a single image.
        text: the names to use.
        digest: sha256 of the masks and of their images.
    """

    classes: tuple[str, ...]
    image_ids: tuple[str, ...]
    usual: Way
    way: Way
    outcomes: Mapping[Way, Outcome]
    heads: TaughtHeads | None
    text: TextEmbeddings
    digest: str

    @property
    def weights(self) -> dict[str, float]:
        """Of the candidates that name pixels; {} if the text alone does."""
        return self.heads.weights if self.heads and self.way.taught else {}

    def record(self) -> dict[str, Any]:
        """What the label set's provenance says: nothing whose last digits another machine might change."""
        return {
            "masks": len(self.image_ids),
            "names": TAUGHT if self.way.taught else "text",
            "refine": self.way.refine,
            "sha256": self.digest,
        }

    def description(self) -> dict[str, Any] | None:
        """The content of calibration.json; None where it was written before."""
        if not self.outcomes:
            return None
        before, after = self.outcomes[self.usual], self.outcomes[self.way]
        confusion = after.confusions.sum(0)
        # Pixels of a class in an image are one observation, as those of a segment are.
        observations = max(1, int((after.confusions.sum(2) > 0).sum()))
        transition = transition_matrix(confusion, max(1.0, confusion.sum() / observations))
        return {
            **self.record(),
            "images": list(self.image_ids),
            "miou_before": before.miou,
            "miou_after": after.miou,
            "naming": self.weights,
            **scores_record(self.classes, before, after),
            "held_out_miou": {str(way): outcome.miou for way, outcome in self.outcomes.items()},
            "transition": transition_record(self.classes, transition, class_prior(confusion)),
        }

    def lines(self) -> list[str]:
        """What changed, for which class and by how much, on the images with masks."""
        if not self.outcomes:
            return [f"calibrated on {count_masks(len(self.image_ids))} as before: {self.way}"]
        before, after = self.outcomes[self.usual], self.outcomes[self.way]
        names = f"{TAUGHT}: {average_text(self.weights)}" if self.weights else "by text alone"
        return [
            f"calibrated on {count_masks(len(self.image_ids))}; mIoU there, each image held out:",
            *score_lines(self.classes, before, after),
            f"  names     {names}",
            f"  edges     clip.refine={self.way.refine} (was {self.usual.refine})",
        ]


def calibrate_pixels(
    prepared: Prepared,
    masked: Mapping[str, MaskedRef],
    loaded: ClipModel | None,
    recorded: Mapping[str, Any],
) -> PixelCalibration:
    """Choose by masks how the pixels of a run are named. Where `clip.refine` has steps, it stays.

    Args:
        prepared: the run without masks, with an image reader that keeps what `REFINE_STEPS` needs.
        masked: at least one image with a mask, by image_id.
        loaded: CLIP with its image tower; None: it is loaded here.
        recorded: what the label set chose before, see `PixelCalibration.record`; {}: nothing. The same masks
            and images choose the same again, as another machine's sums might not.

    Raises:
        UserError: an image or a mask that cannot be read, masks that do not fit, or that hold fewer than two
            classes.
    """
    classes, text = prepared.space.classes, prepared.text
    assert text is not None, "CLIP labels pixels"
    check_size(len(masked), len(classes))
    reader = MaskedImageReader.of(prepared, loaded)
    digest, seen = hashlib.sha256(), np.zeros(len(classes), np.int64)
    cells = {}
    for image in reader.images(masked):
        most = -(-_MOST_CELLS // (len(masked) * len(image.tiles)))
        cells[image.image_id] = masked_cells(image.cells(), len(classes), most)
        digest.update(f"{image.image_id}\0{image.sha256}\0{image.truth.shape}\0".encode())
        digest.update(np.ascontiguousarray(image.truth).tobytes())
        seen += image.class_pixels(len(classes))
    check_classes(seen, len(cells), classes)
    names = Names(text.class_ids, {_STORED: text.embeddings.astype(float)})
    prompts = Prompts(_STORED, np.ones(len(text.class_ids), bool))
    heads = teach(with_prompts(gather(list(cells.values())), names, prompts))
    usual, outcomes = Way(False, prepared.config.clip.refine), dict[Way, Outcome]()
    way = _recorded_way(recorded, digest.hexdigest(), heads)
    if way is None:
        taught_from = {image_id: masked[image_id] for image_id in cells}
        outcomes = _outcomes(_ways(usual, heads), text, heads, reader.images(taught_from), len(classes))
        way = max(outcomes, key=lambda way: outcomes[way].miou)
        way = way if outcomes[way].pays_over(outcomes[usual]) else usual
    chosen = replace(_taught(text, heads.head) if heads and way.taught else text, refine=way.refine)
    return PixelCalibration(classes, tuple(cells), usual, way, outcomes, heads, chosen, digest.hexdigest())


def _ways(usual: Way, heads: TaughtHeads | None) -> list[Way]:
    steps = [usual.refine] if usual.refine else [0, REFINE_STEPS]
    return [Way(taught, refine) for taught in ([False, True] if heads else [False]) for refine in steps]


def _recorded_way(recorded: Mapping[str, Any], digest: str, heads: TaughtHeads | None) -> Way | None:
    """The way that a label set's provenance, which anyone may have written, says of the same masks."""
    refine, taught = recorded.get("refine"), recorded.get("names") == TAUGHT
    if recorded.get("sha256") != digest or not isinstance(refine, int) or not 0 <= refine <= MOST_REFINE:
        return None
    return Way(taught, refine) if heads or not taught else None


def _outcomes(
    ways: Sequence[Way],
    text: TextEmbeddings,
    heads: TaughtHeads | None,
    images: Iterable[MaskedImagePixels],
    n_classes: int,
) -> dict[Way, Outcome]:
    """How each way labels the images, each by heads that were fitted to others."""
    of_fold = [_taught(text, head) for head in heads.held_out] if heads else []
    counted: dict[Way, list[NDArray[np.int64]]] = {way: [] for way in ways}
    for number, image in enumerate(images):
        for way in ways:
            used = of_fold[number % FOLDS] if way.taught else text
            counted[way].append(image.confusion(used, way.refine, n_classes))
    return {way: Outcome(np.stack(confusions)) for way, confusions in counted.items()}


def _taught(text: TextEmbeddings, head: Head) -> TextEmbeddings:
    names = taught_names(head, text.embeddings.astype(float), text.class_ids)
    return replace(
        text,
        embeddings=names.embeddings,
        class_ids=names.class_ids,
        bias=names.bias,
        threshold=NO_THRESHOLD,
    )

"""What a few masks teach a run without segments: the names of its pixels, and whether they follow edges."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segray.models.calibration.heads import Head
from segray.models.calibration.pixels import FOLDS, TaughtHeads, masked_cells, taught_names, teach
from segray.models.calibration.prompts import Names, Prompts, with_prompts
from segray.models.calibration.selection import NO_THRESHOLD, Outcome, gather
from segray.models.calibration.trust import class_prior, transition_matrix
from segray.models.label_map import LabelMap
from segray.models.label_space import ignore_index_of
from segray.models.metrics import confusion_matrix
from segray.pipelines.annotation.prepared import Prepared
from segray.pipelines.annotation.stages.classify import TextEmbeddings
from segray.pipelines.annotation.stages.features import load_clip, tile_features
from segray.pipelines.annotation.stages.read import read_row
from segray.pipelines.annotation.stages.schemas import pixels_of
from segray.pipelines.calibration.description import (
    average_text,
    count_masks,
    score_lines,
    scores_record,
    transition_record,
)
from segray.pipelines.calibration.examples import ReadMask, folder_masks
from segray.pipelines.calibration.fit import check_classes, check_size
from segray.pipelines.config.commands.annotate import AnnotateConfig
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.manifest import ImageRef
from segray.pipelines.label_set.store import LabelStore
from segray.pipelines.masks.folder import MaskFolder
from segray.pipelines.masks.options import MaskOptions
from segray.pipelines.printing import visible

if TYPE_CHECKING:  # torch and open_clip take seconds to import
    from segray.models.clip.model import ClipModel
    from segray.models.clip.tiled import TileFeatures

MOST_IMAGES = 64
"""Images with masks that teach, evenly spread over all of them."""
REFINE_STEPS = 10
"""`clip.refine` that is tried besides none."""
_MOST_CELLS = 2**13
_STORED = "stored"
_SHOWN = 3


@dataclass(frozen=True)
class MaskedRef:
    """An image with a mask.

    Attributes:
        ref: where the image is.
        mask: reads the mask.
    """

    ref: ImageRef
    mask: ReadMask


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
        return f"{'text and masks' if self.taught else 'text'}, clip.refine={self.refine}"


@dataclass(frozen=True)
class PixelCalibration:
    """What the masks chose.

    Attributes:
        classes: names of the ids.
        image_ids: the images with masks.
        usual: the way without masks.
        way: the chosen one.
        outcomes: of each way on the images with masks, each image named by what the others taught.
        heads: what they taught; None: nothing, as it is a single image.
        text: the names to use.
        digest: sha256 of the masks and of the way.
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
            "names": "text and masks" if self.way.taught else "text",
            "refine": self.way.refine,
            "sha256": self.digest,
        }

    def description(self) -> dict[str, Any]:
        """The content of calibration.json."""
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
        before, after = self.outcomes[self.usual], self.outcomes[self.way]
        names = f"text and masks: {average_text(self.weights)}" if self.weights else "by text alone"
        return [
            f"calibrated on {count_masks(len(self.image_ids))}; mIoU there, each image held out:",
            *score_lines(self.classes, before, after),
            f"  names     {names}",
            f"  edges     clip.refine={self.way.refine} (was {self.usual.refine})",
        ]


def find_masked(
    config: AnnotateConfig, images: Iterable[ImageRef], classes: tuple[str, ...]
) -> dict[str, MaskedRef]:
    """The images that have a mask, by image_id, ascending; at most `MOST_IMAGES`.

    Args:
        config: of the command, with `calibrate.masks`.
        images: all of them; no more than those with a mask are kept in memory.
        classes: names of the ids.

    Raises:
        UserError: a mask whose image is not there, a listed image without a mask, or no mask.
    """
    keys = config.calibrate
    masks = keys.masks or ""
    options = MaskOptions.of(
        prefix="calibrate.",
        suffix=keys.mask_suffix,
        colors=keys.colors,
        binary=keys.binary,
        void=keys.ignore_index,
        void_set="ignore_index" in keys.model_fields_set,
        follow_links=config.image.follow_links,
        also=config.image.roots,
        column=keys.mask_column,
    )
    refs: dict[str, ImageRef] = {}
    has_mask = _with_mask(masks, options)
    for ref in images:
        # A few of the others show in a message what images are called.
        if len(refs) < _SHOWN or has_mask(ref.image_id):
            refs[ref.image_id] = ref
    statuses = {image_id: "skipped" if ref.problem else "ok" for image_id, ref in refs.items()}
    readers = folder_masks(
        masks, options, statuses, classes, split=keys.split, allow_missing=keys.allow_missing
    )
    chosen = sorted(readers)[:: -(-len(readers) // MOST_IMAGES)]
    return {image_id: MaskedRef(refs[image_id], readers[image_id]) for image_id in chosen}


def _with_mask(masks: str, options: MaskOptions) -> Callable[[str], bool]:
    store = LabelStore(masks)
    if store.parts():
        return {image_id for image_id, _, _ in store.statuses()}.__contains__
    folder = MaskFolder(masks, options)
    return lambda image_id: folder.find(image_id) is not None


def calibrate_pixels(
    prepared: Prepared, masked: Mapping[str, MaskedRef], loaded: ClipModel | None
) -> PixelCalibration:
    """Choose by masks how the pixels of a run are named. Where `clip.refine` has steps, it stays.

    Args:
        prepared: the run without masks, with an image reader that keeps what `REFINE_STEPS` needs.
        masked: at least one image with a mask, by image_id.
        loaded: CLIP with its image tower; None: it is loaded here.

    Raises:
        UserError: an image or a mask that cannot be read, masks that do not fit, or that hold fewer than two
            classes.
    """
    classes = prepared.space.classes
    check_size(len(masked), len(classes))
    reader = _Reader.of(prepared, loaded)
    most = _MOST_CELLS // len(masked)
    digest = hashlib.sha256()
    cells = {}
    for image in reader.images(masked):
        cells[image.image_id] = masked_cells(image.cells(), len(classes), most)
        digest.update(f"{image.image_id}\0{image.truth.shape}\0".encode())
        digest.update(np.ascontiguousarray(image.truth).tobytes())
    check_classes(cells, classes)
    text = prepared.text
    assert text is not None, "CLIP labels pixels"
    names = Names(text.class_ids, {_STORED: text.embeddings.astype(float)})
    prompts = Prompts(_STORED, np.ones(len(text.class_ids), bool))
    heads = teach(with_prompts(gather(list(cells.values())), names, prompts))
    of_fold = [_taught(text, head) for head in heads.held_out] if heads else []
    usual = Way(False, prepared.config.clip.refine)
    steps = [usual.refine] if usual.refine else [0, REFINE_STEPS]
    ways = [Way(taught, refine) for taught in ([False, True] if heads else [False]) for refine in steps]
    counted: dict[Way, list[NDArray[np.int64]]] = {way: [] for way in ways}
    for number, image in enumerate(reader.images(masked)):
        for way in ways:
            used = of_fold[number % FOLDS] if way.taught else text
            counted[way].append(image.confusion(used, way.refine, len(classes)))
    outcomes = {way: Outcome(np.stack(confusions)) for way, confusions in counted.items()}
    way = max(ways, key=lambda way: outcomes[way].miou)
    way = way if outcomes[way].pays_over(outcomes[usual]) else usual
    digest.update(str(way).encode())
    chosen = replace(_taught(text, heads.head) if heads and way.taught else text, refine=way.refine)
    return PixelCalibration(classes, tuple(masked), usual, way, outcomes, heads, chosen, digest.hexdigest())


def _taught(text: TextEmbeddings, head: Head) -> TextEmbeddings:
    names = taught_names(head, text.embeddings.astype(float), text.class_ids)
    return replace(
        text,
        embeddings=names.embeddings,
        class_ids=names.class_ids,
        bias=names.bias,
        threshold=NO_THRESHOLD,
    )


@dataclass(frozen=True)
class _Image:
    """An image with a mask, and its features; `truth` [H, W] in class ids."""

    image_id: str
    pixels: NDArray[np.uint8]
    truth: LabelMap
    tiles: list[TileFeatures]

    def cells(self) -> Iterator[tuple[NDArray[np.float32], LabelMap]]:
        from segray.models.clip.zero_shot import finer_grid

        for tile in self.tiles:
            part = self.truth if len(self.tiles) == 1 else self.truth[tile.tile.inside]
            yield finer_grid(tile.grid).cpu().numpy(), part

    def confusion(self, text: TextEmbeddings, refine: int, n_classes: int) -> NDArray[np.int64]:
        from segray.models.clip.tiled import label_tiles

        classifier = text.to_classifier(str(self.tiles[0].grid.device))
        height, width = self.truth.shape
        pixels = label_tiles(self.tiles, classifier, (height, width), text.threshold, self.pixels, refine)
        return confusion_matrix(self.truth, pixels.label, n_classes, ignore_index_of(n_classes))


@dataclass(frozen=True)
class _Reader:
    """Reads images as the run does, and their features. Twice each, as large ones fill the memory."""

    prepared: Prepared
    clip: ClipModel

    @classmethod
    def of(cls, prepared: Prepared, loaded: ClipModel | None) -> _Reader:
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(prepared, load_clip(prepared.config.clip, device, loaded))

    def images(self, masked: Mapping[str, MaskedRef]) -> Iterator[_Image]:
        config = self.prepared.config
        for image_id, one in masked.items():
            row = read_row(
                {"image_id": image_id, "status": "ok", "uri": one.ref.uri}, self.prepared.options, False
            )
            if row["status"] != "ok":
                raise UserError(
                    f"calibrate.masks={storage.display(config.calibrate.masks or '')}: its image "
                    f"{visible(image_id)} cannot be read: {visible(str(row['error']))}"
                )
            size, pixels = (row["height"], row["width"]), pixels_of(row)
            truth = one.mask(size)
            (tiles,) = tile_features(self.clip, config.clip, config.image.tiling(), [pixels], None, [size])
            yield _Image(image_id, pixels, truth, tiles)

"""Imported masks become corrections: one paint for each class, and the mark of a good image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from segray.models.label_map import LabelMap
from segray.models.label_space import LabelSpace
from segray.pipelines.corrections import CorrectedStore, Correction, CorrectionLog
from segray.pipelines.corrections.carry import class_runs
from segray.pipelines.corrections.identity import set_id
from segray.pipelines.errors import UserError
from segray.pipelines.importing.base import ImageMask
from segray.pipelines.io import storage
from segray.pipelines.io.names import Names
from segray.pipelines.printing import visible


@dataclass(frozen=True)
class Imported:
    """What an import takes.

    Attributes:
        corrections: to append to the log.
        changed: images that differ from the labels as they were.
        unchanged: images that do not.
        good: images that are marked as good.
        pixels: changed pixels.
    """

    corrections: list[Correction]
    changed: int
    unchanged: int
    good: int
    pixels: int


def imported(store: CorrectedStore, masks: Iterable[ImageMask], good: str, who: str | None) -> Imported:
    """Corrections that turn the labels into the masks; nothing is written.

    Args:
        store: the label set.
        masks: of some of its images.
        good: which images to mark: changed, all or none.
        who: the person; None: the user of this process.

    Raises:
        UserError: a mask of another size, class, image or label set; one line.
    """
    by_image = _by_image(store, masks)
    log, space = CorrectionLog(store.root), LabelSpace(tuple(store.provenance["classes"]), ())
    done = Counter[str]()
    corrections: list[Correction] = []
    for image_id, before, is_good, mask in _pairs(store, by_image, space):
        differs = int((mask != before).sum())
        done["changed" if differs else "unchanged"] += 1
        done["pixels"] += differs
        marked = not is_good and (good == "all" or (good == "changed" and differs > 0))
        done["good"] += marked
        if differs:
            for _, name, rle in class_runs(mask, space.classes):
                corrections.append(log.make(image_id, "paint", class_name=name, mask=rle, who=who))
        if marked:
            corrections.append(log.make(image_id, "good", who=who))
    return Imported(corrections, done["changed"], done["unchanged"], done["good"], done["pixels"])


def _by_image(store: CorrectedStore, masks: Iterable[ImageMask]) -> dict[str, ImageMask]:
    """The masks by the image_id that the name in the file means."""
    statuses = {image_id: status for image_id, status, _ in store.statuses()}
    names, own = Names(statuses), set_id(store)
    found: dict[str, ImageMask] = {}
    for mask in masks:
        what = f"{visible(mask.where)[:100]}: {visible(mask.name)[:200]}"
        if mask.set_id not in ("", own):
            raise UserError(f"{what} is a task of another label set ({visible(mask.set_id)[:16]}, not {own})")
        image_id = names.find_path(mask.name.replace("\\", "/"))
        if image_id is None or statuses[image_id] != "ok":
            where = storage.display(store.root)
            raise UserError(f"{what} is no labelled image of {where}")
        if image_id in found:
            raise UserError(
                f"{what} is there twice: {visible(found[image_id].where)[:100]} is of the same image"
            )
        found[image_id] = mask
    return found


def _pairs(
    store: CorrectedStore, by_image: Mapping[str, ImageMask], space: LabelSpace
) -> Iterator[tuple[str, LabelMap, bool, LabelMap]]:
    """(image_id, label as it is, whether it is good, mask) of each image, in the order of the label set."""
    for image_id, corrected in store.labels(by_image):
        mask = by_image[image_id]
        height, width = corrected.label.shape
        try:
            drawn = mask.draw(space, (height, width))
        except ValueError as problem:
            what = f"{visible(mask.where)[:100]}: the mask of {visible(image_id)[:200]}"
            raise UserError(f"{what} {visible(str(problem))[:300]}") from None
        yield image_id, corrected.label, corrected.good, drawn

"""`segray evaluate`: label maps, or what a trained network predicts, against ground-truth masks."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np

from segray.models.label_space import IGNORE_INDEX, WIDE_IGNORE_INDEX, LabelSpace, ignore_index_of
from segray.models.metrics import Confusion
from segray.pipelines.config.commands.evaluate import EvaluateConfig
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.images import ImageOptions
from segray.pipelines.io.uris import redacted_tree
from segray.pipelines.masks.binary import all_look_binary, refuse_binary, refuse_shift, with_object_as_class
from segray.pipelines.masks.folder import MaskFolder
from segray.pipelines.masks.options import MaskOptions
from segray.pipelines.printing import echo
from segray.pipelines.reporting.evaluation import Evaluation, compare, table, to_csv, to_dict
from segray.pipelines.reporting.label_maps import LabelMaps, NetworkMaps, open_labels
from segray.pipelines.understood import show

_SHOWN = 5


def run(config: EvaluateConfig) -> None:
    """Evaluate, print the table, and write evaluation.json and evaluation.csv.

    Raises:
        UserError: as `execute` raises.
    """
    result, out = execute(config)
    echo(table(result))
    echo(f"wrote {storage.display(storage.join(out, 'evaluation.json'))} and evaluation.csv")


def execute(config: EvaluateConfig) -> tuple[Evaluation, str]:
    """Evaluate, and write evaluation.json and evaluation.csv; the scores, and the folder of the files.

    Raises:
        UserError: keys that do not go together, or as `score` raises.
    """
    source = _source(config)
    result = score(
        source, config.masks, MaskOptions.of_keys(config, config.image), allow_missing=config.allow_missing
    )
    out = config.out or source.home
    storage.write_atomic(storage.join(out, "evaluation.csv"), to_csv(result).encode())
    document = {**source.record, "masks": config.masks, **to_dict(result)}
    text = json.dumps(redacted_tree(document), indent=2, allow_nan=False, ensure_ascii=False)
    storage.write_atomic(storage.join(out, "evaluation.json"), f"{text}\n".encode())
    return result, out


def evaluate(
    labels: str, masks: str, options: MaskOptions | None = None, *, allow_missing: bool = False
) -> Evaluation:
    """`score` of a label set, or of a folder of greyscale PNG labels, by its folder or URI."""
    return score(open_labels(labels), masks, options, allow_missing=allow_missing)


def score(
    source: LabelMaps, masks: str, options: MaskOptions | None = None, *, allow_missing: bool = False
) -> Evaluation:
    """Score label maps against a folder of masks; one image at a time.

    Args:
        source: the label maps.
        masks: folder or URI, see `MaskFolder`.
        options: how masks are read; `binary` holds for label maps without class names, too.
        allow_missing: leave images without a mask out instead of refusing.

    Raises:
        UserError: nothing to compare, a missing, ambiguous or broken mask, sizes that differ, an id out of
            range, or masks or label maps of 0 and 255 where `binary` is None.
    """
    truth = MaskFolder(masks, options)
    if source.classes is not None:
        truth.bind(LabelSpace(source.classes, ()))
    elif truth.options.table is not None:
        truth.bind(truth.options.space() or LabelSpace(("background",), ()))
    statuses = source.statuses()
    matched = truth.match(statuses)
    missing = tuple(i for i, status in statuses.items() if status == "ok" and i not in matched)
    if missing and not allow_missing:
        raise UserError(_missing_message(missing, source.noun, truth))
    if isinstance(source, NetworkMaps):
        show(source.value_lines(matched))
    _check_kinds(source, truth, matched)
    classes, confusion, n_images, ignored = _count(source, truth, matched)
    if not n_images:
        of = storage.display(source.record.get("images", source.home))
        raise UserError(f"evaluate: no {source.noun} of {of} has a mask in {storage.display(masks)}")
    if source.classes is not None and truth.options.plain and not truth.options.said:
        where = f"masks={storage.display(masks)}"
        refuse_shift(where, source.classes, confusion, truth.options.colors_key, "ignore_index")
    not_ok = Counter(status for status in statuses.values() if status != "ok")
    unused = len(truth) - len(matched)
    plain = truth.options.plain
    return Evaluation(classes, confusion, n_images, missing, dict(not_ok), unused, ignored, plain)


def _source(config: EvaluateConfig) -> LabelMaps:
    if config.labels is not None and config.checkpoint is not None:
        raise UserError("labels, checkpoint: give one of the two, not both")
    if config.checkpoint is not None:
        from segray.pipelines.training.trained import views_of

        if config.images is None:
            raise UserError("images: checkpoint needs them, give images=FOLDER")
        options = ImageOptions(**config.image.decoding())
        return NetworkMaps(
            config.checkpoint,
            config.images,
            config.window,
            config.image.roots,
            options,
            follow=config.image.follow_links,
            column=config.image.column,
            views=views_of(config.views),
            precision=config.precision,
        )
    if config.labels is None:
        raise UserError("labels: required, give labels=DIR, or checkpoint=DIR and images=FOLDER")
    keys = ("images", "window", "views", "precision")
    if alone := [key for key in keys if getattr(config, key) != EvaluateConfig.model_fields[key].default]:
        raise UserError(f"{', '.join(alone)}: allowed only with checkpoint; labels are compared as they are")
    return open_labels(config.labels)


def _check_kinds(source: LabelMaps, truth: MaskFolder, matched: dict[str, str]) -> None:
    """Stop where masks or label maps could be binary and no key says whether they are."""
    truth.check_kind(matched.values(), source.classes)
    # Only a folder of label maps, whose ids have no names, can hold 255 for an object.
    labels = (label for _, label in source.maps(matched)) if source.classes is None else ()
    if truth.options.binary is None and all_look_binary(labels):
        refuse_binary(f"labels={storage.display(source.home)}", truth.options.binary_key, None)


def _count(
    source: LabelMaps, truth: MaskFolder, matched: dict[str, str]
) -> tuple[tuple[str, ...], Confusion, int, int]:
    # The unused ones of ids without names are cut off below.
    n_classes = len(source.classes) if source.classes else _unnamed(source, matched)
    total = np.zeros((n_classes + 1, n_classes + 1), np.int64)
    n_images, ignored = 0, 0
    for image_id, stored in source.maps(matched):
        label = with_object_as_class(stored) if truth.options.binary and source.classes is None else stored
        mask = truth.read(matched[image_id], shape=label.shape, n_classes=n_classes)
        try:
            total += compare(mask, label, n_classes)
        except ValueError as problem:
            raise UserError(f"label of {image_id} {problem}; `segray verify` checks the whole set") from None
        n_images += 1
        ignored += int((mask == ignore_index_of(n_classes)).sum())
    if source.classes:
        return source.classes, total, n_images, ignored
    used = np.flatnonzero((total.sum(0) + total.sum(1))[:-1])
    keep = [*range(int(used.max(initial=0)) + 1), n_classes]
    return tuple(f"class {i}" for i in keep[:-1]), total[np.ix_(keep, keep)], n_images, ignored


def _unnamed(source: LabelMaps, matched: dict[str, str]) -> int:
    """How many ids label maps without class names may have: 255 in 8 bits, those that occur in 16 bits."""
    most = IGNORE_INDEX
    for _, label in source.maps(matched):
        if label.dtype != np.uint8:
            most = max(most, IGNORE_INDEX + 1, 1 + int(label[label != WIDE_IGNORE_INDEX].max(initial=0)))
    return most


def _missing_message(missing: tuple[str, ...], noun: str, truth: MaskFolder) -> str:
    first = ", ".join(missing[:_SHOWN]) + (", ..." if len(missing) > _SHOWN else "")
    count = f"{len(missing)} {noun}{'s' * (len(missing) > 1)}"
    return (
        f"masks={storage.display(truth.root)}: no mask for {count}: {first}; allow_missing=true leaves them "
        f"out (for {missing[0]}, {truth.looked_for(missing[0])})"
    )

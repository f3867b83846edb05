"""Check a prediction before it starts: its network, its precision, and the folder that it continues."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from segray.models.label_space import is_wide
from segray.models.precision import PredictPrecision
from segray.models.segmenters.inference import Inference
from segray.pipelines.config.commands.predict import PredictConfig
from segray.pipelines.config.loading import identity
from segray.pipelines.engine import devices
from segray.pipelines.engine.same_images import SAMPLE, other_images, place_of
from segray.pipelines.errors import UserError
from segray.pipelines.io import output_record, storage
from segray.pipelines.prediction.job import Files, Job
from segray.pipelines.prediction.rows import ImageRows

Record = Mapping[str, object]

_RECORDED = ("palette", "views.", "image.")
"""Keys, or beginnings of keys, that change what is written."""


def prepare(config: PredictConfig, before: Record | None) -> tuple[Job, Record]:
    """Check the checkpoint, so that a bad one is reported before the first image.

    Args:
        config: of the command.
        before: the record of what `out` was begun with, whose precision is kept; None if it is new.

    Returns:
        What the workers need, and the record of this run.

    Raises:
        UserError: no checkpoint, or an unusable one, more classes than a palette has, or no cluster.
    """
    from segray.pipelines.training.trained import (
        check_network,
        chosen_window,
        find_checkpoint,
        named_window,
        views_of,
        weights_sha256,
    )

    uri = _absolute(find_checkpoint(config.checkpoint))
    state = check_network(uri)
    classes = tuple(state["classes"])
    if config.palette and is_wide(len(classes)):
        ids = len(classes)
        raise UserError(f"palette: {ids} classes need ids of 16 bits, a palette has 256; palette=false")
    precision = _precision(config, before)
    inference = Inference(chosen_window(state, config.window), views_of(config.views), precision)
    files = Files(config.overlays, config.confidence, config.coco, config.palette)
    sha256 = weights_sha256(state)
    options = config.image.options(config.images)
    job = Job(uri, sha256, classes, _absolute(config.out), files, inference, options)
    made_by = {"checkpoint": sha256, "window": named_window(state, config.window), "precision": precision}
    settings = {name: value for name, value in identity(config).items() if name.startswith(_RECORDED)}
    return job, {"images": place_of(config), **made_by, **settings}


def check_folder(config: PredictConfig, before: Record | None, now: Record, rows: ImageRows) -> None:
    """Refuse to mix the predictions of two checkpoints, or of two sets of images, in one folder.

    The same images may be in another place than before.

    Args:
        config: of the command.
        before: the record of what `out` was begun with; None if it is new.
        now: the record of this run.
        rows: of the images so far.

    Raises:
        UserError: with the difference, on one line.
    """
    if before is None:
        return
    known = {**_older_defaults(), **before}
    output_record.check_same(config.out, {**known, "images": now["images"]}, now, "predictions")
    recorded = known.get("images")
    place = recorded if isinstance(recorded, str) else None
    if changed := other_images(config, config.out, place, lambda: rows.sample(SAMPLE)):
        where = storage.display(config.out)
        shown = "; ".join(changed)
        raise UserError(f"out={where} holds predictions of other images ({shown}); give another out=DIR")


def _precision(config: PredictConfig, before: Record | None) -> PredictPrecision:
    if config.precision != "auto":
        return config.precision
    recorded = {**_older_defaults(), **before}["precision"] if before else None
    return cast("PredictPrecision", recorded or devices.best_precision(config.address, config.grow))


def _absolute(uri: str) -> str:
    """Workers may have another working directory."""
    return str(storage.local_path(uri)) if storage.is_local(uri) else uri


def _older_defaults() -> dict[str, object]:
    """For records of an older segray, which did not have all of these keys."""
    defaults = identity(PredictConfig(checkpoint="-", images="-", out="-"))
    return {"precision": "fp32", **{k: v for k, v in defaults.items() if k.startswith(_RECORDED)}}

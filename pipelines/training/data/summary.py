"""What a training run understood of its data, in a few lines, and what it refuses to learn from."""

from __future__ import annotations

from collections.abc import Sequence

from segray.models.semi.methods import METHODS
from segray.pipelines.config.commands.train import NONE, OF_METHOD, TrainConfig
from segray.pipelines.engine.image_values import Looked, spread, value_lines
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.masks.binary import no_zero_text
from segray.pipelines.training.data.samples import TrainingData
from segray.pipelines.training.data.training_data import plain_ids
from segray.pipelines.understood import PixelCounts, classes_line, line, name_some

_NO_VALIDATION = "none: there will be no mIoU and no best epoch; best/ is the last checkpoint"


def data_lines(config: TrainConfig, data: TrainingData) -> list[str]:
    """Classes, images, pixels of each class in the masks, and classes that no mask has."""
    classes = data.space.classes
    source = f" from {storage.display(data.source)}" if data.source else ""
    counts = (len(data.labelled), len(data.unlabelled), source, len(data.validation))
    return [
        classes_line(classes),
        *_method_lines(config),
        line("images", "{} labelled, {} unlabelled{}, {} validation".format(*counts)),
        *(line("zero-shot", text) for text in data.matched),
        *([line("corrected", data.corrected + _used(config))] if data.corrected else []),
        line("labelled", data.labelled_pixels.text(classes)),
        line("validation", data.validation_pixels.text(classes) if data.validation else _NO_VALIDATION),
        *(line("left out", text) for text in data.left_out),
        *_absent_lines(config, data),
    ]


def _method_lines(config: TrainConfig) -> list[str]:
    """The method, where its labels are not what its name says: a config.yaml of another run may set them."""
    usual, texts = OF_METHOD.get(config.method, {}), []
    switches = (("data", "calibrate", config.data.calibrate), ("pseudo", "segments", config.pseudo.segments))
    for section, key, on in switches:
        if on != usual.get(section, {}).get(key, False):
            texts.append(f"{'with' if on else 'without'} {section}.{key}")
    return [line("method", f"{config.method} {', '.join(texts)}")] if texts else []


def _used(config: TrainConfig) -> str:
    return ", which supervised does not use" if METHODS[config.method].pseudo == "none" else ""


def range_lines(data: TrainingData) -> list[str]:
    """What values some of the images have, see `value_lines`."""
    images = (*data.labelled, *data.unlabelled, *data.validation)
    some = spread(images, len(images))
    return value_lines([Looked(each.image_id, each.image, each.read) for each in some], "data.image.range")


def check_pixels(data: TrainingData) -> None:
    """Refuse masks that hold nothing but ignored pixels.

    Raises:
        UserError: there is nothing to learn from, or nothing to compare with.
    """
    for name, part in (("labelled", data.labelled_pixels), ("validation", data.validation_pixels)):
        if part.masks and not any(part.pixels):
            raise UserError(
                f"data.{name}: all pixels of its {part.masks} masks are ignored; "
                "data.ignore_index is the id to ignore, data.binary=true reads 255 as class 1"
            )


def _absent_lines(config: TrainConfig, data: TrainingData) -> list[str]:
    classes, labelled, validation = data.space.classes, data.labelled_pixels, data.validation_pixels
    lines = []
    parts = [part for part in (labelled, validation) if part.masks]
    if config.data.needs_masks and plain_ids(config.data) and all(0 in part.absent for part in parts):
        lines.append(line("ids", no_zero_text(classes[0], "data.colors")))
    if labelled.absent:
        enhanced = METHODS[config.method].pseudo == "enhanced"
        more = "" if config.data.labelled in ("all", NONE) else ", or raise data.labelled"
        effect = "only zero-shot labels teach them" if enhanced else "they cannot be learnt"
        lines.append(
            line(
                "not taught",
                f"no labelled mask has {_of(labelled, classes)}: {effect}; label images that show them{more}",
            )
        )
    if validation.masks and validation.absent:
        lines.append(
            line("not tested", f"no validation mask has {_of(validation, classes)}: mIoU leaves them out")
        )
    return lines


def _of(counts: PixelCounts, classes: Sequence[str]) -> str:
    """The absent classes, and how many of all they are."""
    absent = counts.absent_names(classes)
    return f"{name_some(absent)} ({len(absent)} of {len(classes)} classes)"

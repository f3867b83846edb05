"""What a model that annotates costs here: measured with random weights, without a download."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from segray.pipelines.annotation.stages.label import labeller_options
from segray.pipelines.annotation.stages.segment import mask_options
from segray.pipelines.config.commands.annotate import LabellerModel, SamModel
from segray.pipelines.engine.cpu import use_threads

if TYPE_CHECKING:  # torch takes seconds to import
    from numpy.typing import NDArray

    from segray.models.annotators.protocols import LabelModel, MaskModel

HEIGHT, WIDTH = 375, 500
"""Of the image that is segmented, a usual size of photographs in data sets."""
_FEW, _MANY = 1, 16
"""Points per side whose difference tells what a prompt costs."""
_FILTERS = frozenset({"pred_iou_thresh", "stability_score_thresh", "min_presence"})
_NAMES = 20
"""Class names that a labeller is to look for, as many as PASCAL VOC has."""
_FEW_NAMES, _MANY_NAMES = 1, 5
"""Whose difference tells what a name costs."""
_DEVICES = {"cuda": "GPU", "cpu": "CPU core"}


@dataclass(frozen=True)
class Cost:
    """Seconds of one device.

    Attributes:
        image: of an image without prompts.
        prompt: of a point, or of a class name; 0 for models that take none.
        prompts: that the model gets by default, or the names of 20 classes.
        device: "GPU" or "CPU core".
        kind: of the prompts.
    """

    image: float
    prompt: float
    prompts: int
    device: str
    kind: str = "prompts"

    @property
    def seconds(self) -> float:
        """Of an image with all its prompts."""
        return self.image + self.prompts * self.prompt

    def __str__(self) -> str:
        parts = f" ({self.image:.3g} + {self.prompts:,} {self.kind})" if self.prompts else ""
        return f"{self.seconds:.3g} s{parts} per {WIDTH} x {HEIGHT} image on one {self.device}"


def measure_cost(name: str) -> Cost | None:
    """The cost of a model here; None if its family has no random weights.

    Every mask counts as confident and stable, every name as present: all prompts are decoded in full, more
    than with real weights, and the filters, which take a small part with real ones too, take next to nothing.

    Raises:
        ValueError: an unknown name, or a package that is missing.
    """
    import torch

    from segray.models.annotators.registry import label_entry, label_names, mask_entry

    device = "cuda" if torch.cuda.is_available() else "cpu"
    use_threads(1)
    if name in label_names():
        labeller = label_entry(name).open_family().untrained(name)
        return None if labeller is None else _of_labeller(labeller, name, device)
    source = mask_entry(name, also=tuple(label_names())).open_family().untrained(name)
    return None if source is None else _of_masks(source, name, device)


def _of_masks(model: MaskModel, name: str, device: str) -> Cost:
    options = mask_options(SamModel(model=name), device)

    def seconds(**points: int) -> float:
        return _seconds(model.source(device, _unfiltered({**options, **points})).generate, device)

    if "points_per_side" not in options:
        return Cost(seconds(), 0.0, 0, _DEVICES[device])
    few, many = (seconds(points_per_side=n) for n in (_FEW, _MANY))
    prompt = max(0.0, many - few) / (_MANY**2 - _FEW**2)
    return Cost(max(0.0, few - _FEW**2 * prompt), prompt, options["points_per_side"] ** 2, _DEVICES[device])


def _of_labeller(model: LabelModel, name: str, device: str) -> Cost:
    options = _unfiltered(labeller_options(name, LabellerModel(), 0.0, device))

    def seconds(count: int) -> float:
        names = [(), *((f"thing {i}",) for i in range(count))]
        return _seconds(model.labeller(device, names, options).label, device)

    few, many = seconds(_FEW_NAMES), seconds(_MANY_NAMES)
    prompt = max(0.0, many - few) / (_MANY_NAMES - _FEW_NAMES)
    return Cost(max(0.0, few - _FEW_NAMES * prompt), prompt, _NAMES, _DEVICES[device], "names")


def _unfiltered(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: 0.0 if name in _FILTERS else value for name, value in options.items()}


def _seconds(model: Callable[[list[NDArray[np.uint8]]], object], device: str) -> float:
    """Of one call; on a GPU of the second, as the first one compiles and allocates."""
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    if device == "cuda":
        model([image])
    clock = time.perf_counter if device == "cuda" else time.process_time
    began = clock()
    model([image])
    return clock() - began

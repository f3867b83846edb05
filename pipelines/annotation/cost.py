"""What a model that finds segments costs here: measured with random weights, without a download."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from segray.pipelines.annotation.stages.segment import mask_options
from segray.pipelines.config.commands.annotate import SamModel
from segray.pipelines.engine.cpu import use_threads

if TYPE_CHECKING:  # torch takes seconds to import
    from segray.models.annotators.protocols import MaskModel

HEIGHT, WIDTH = 375, 500
"""Of the image that is segmented, a usual size of photographs in data sets."""
_FEW, _MANY = 1, 16
"""Points per side whose difference tells what a prompt costs."""
_FILTERS = frozenset({"pred_iou_thresh", "stability_score_thresh"})


@dataclass(frozen=True)
class Cost:
    """Seconds of one device.

    Attributes:
        image: of an image without prompts.
        prompt: of a point prompt; 0 for models that take none.
        prompts: that the model gets by default.
        device: "GPU" or "CPU core".
    """

    image: float
    prompt: float
    prompts: int
    device: str

    @property
    def seconds(self) -> float:
        """Of an image with all its prompts."""
        return self.image + self.prompts * self.prompt

    def __str__(self) -> str:
        parts = f" ({self.image:.3g} + {self.prompts:,} prompts)" if self.prompts else ""
        return f"{self.seconds:.3g} s{parts} per {WIDTH} x {HEIGHT} image on one {self.device}"


def measure_cost(name: str) -> Cost | None:
    """The cost of a model here; None if its family has no random weights.

    Every mask counts as confident and stable: all prompts are decoded in full, more than with real weights,
    and the filters, which take a small part with real ones too, take next to nothing.

    Raises:
        ValueError: an unknown name, or a package that is missing.
    """
    import torch

    from segray.models.annotators.registry import mask_entry

    model = mask_entry(name).open_family().untrained(name)
    if model is None:
        return None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    what = "GPU" if device == "cuda" else "CPU core"
    options = mask_options(SamModel(model=name), device)
    use_threads(1)
    if "points_per_side" not in options:
        return Cost(_seconds(model, device, options), 0.0, 0, what)
    few, many = (_seconds(model, device, {**options, "points_per_side": n}) for n in (_FEW, _MANY))
    prompt = max(0.0, many - few) / (_MANY**2 - _FEW**2)
    return Cost(max(0.0, few - _FEW**2 * prompt), prompt, options["points_per_side"] ** 2, what)


def _seconds(model: MaskModel, device: str, options: Mapping[str, Any]) -> float:
    """Of one call; on a GPU of the second, as the first one compiles and allocates."""
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    source = model.source(
        device, {name: 0.0 if name in _FILTERS else value for name, value in options.items()}
    )
    if device == "cuda":
        source.generate([image])
    clock = time.perf_counter if device == "cuda" else time.process_time
    began = clock()
    source.generate([image])
    return clock() - began

"""What `precision=auto` stands for in a run: the label set's own precision, or the best for its devices."""

from __future__ import annotations

from typing import Any

from segray.pipelines.config.commands.annotate import AnnotateConfig, Pool
from segray.pipelines.config.previous import current_provenance
from segray.pipelines.engine import devices
from segray.pipelines.label_set.store import LabelStore

_MODELS = ("sam", "clip")


def recorded_precisions(out: str) -> dict[str, Any]:
    """`sam.precision` and `clip.precision` of the labels in `out`; {} if there are none."""
    store = LabelStore(out)
    stored = current_provenance(store.provenance).get("config", {}) if store.parts() else {}
    return {key: stored[key] for key in (f"{name}.precision" for name in _MODELS) if key in stored}


def with_precisions(config: AnnotateConfig, recorded: dict[str, Any]) -> AnnotateConfig:
    """The configuration with a precision in place of each `auto`, so that the label set records it.

    A resumed label set keeps its precision on any device. A new one gets fp16 on GPUs and fp32 on CPUs.

    Args:
        config: of the command.
        recorded: by `recorded_precisions`; {}: a new label set.

    Raises:
        UserError: no cluster at the configured address.
    """
    chosen = {}
    for name in _MODELS:
        model = getattr(config, name)
        if model.precision == "auto":
            precision = recorded.get(f"{name}.precision") or _of_device(config, model)
            chosen[name] = model.model_copy(update={"precision": precision})
    return config.model_copy(update=chosen)


def _of_device(config: AnnotateConfig, pool: Pool) -> str:
    from segray.models.precision import resolve_precision

    on_gpu = pool.num_gpus != 0 and devices.has_gpus(config.address, config.grow)
    return resolve_precision("auto", "cuda" if on_gpu else "cpu")

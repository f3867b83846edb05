"""What `precision=auto` stands for in a run: the label set's own precision, or the best for its devices."""

from __future__ import annotations

from typing import Any

from segray.pipelines.config.commands.annotate import SAM_CLIP, AnnotateConfig, Pool
from segray.pipelines.config.previous import current_provenance
from segray.pipelines.engine import devices
from segray.pipelines.engine.provenance import STAGES
from segray.pipelines.label_set.store import LabelStore


def recorded_precisions(out: str) -> dict[str, Any]:
    """The precisions of the models that made the labels in `out`, by key; {} if there are none."""
    store = LabelStore(out)
    stored = current_provenance(store.provenance).get("config", {}) if store.parts() else {}
    return {key: stored[key] for key in (f"{name}.precision" for name in STAGES) if key in stored}


def with_precisions(config: AnnotateConfig, recorded: dict[str, Any]) -> AnnotateConfig:
    """The configuration with a precision in place of each `auto`, so that the label set records it.

    A resumed label set keeps its precision on any device. A new one gets fp16 on GPUs (a labeller:
    bf16) and fp32 on CPUs.

    Args:
        config: of the command.
        recorded: by `recorded_precisions`; {}: a new label set.

    Raises:
        UserError: no cluster at the configured address.
    """
    chosen = {}
    # Also that of a SAM that labels nothing: label sets have recorded it.
    for name in ("sam", "clip") if config.annotator == SAM_CLIP else ("labeller",):
        model = getattr(config, name)
        if model.precision == "auto":
            precision = recorded.get(f"{name}.precision") or _of_device(config, name, model)
            chosen[name] = model.model_copy(update={"precision": precision})
    return config.model_copy(update=chosen)


def _of_device(config: AnnotateConfig, name: str, pool: Pool) -> str:
    from segray.models.precision import labeller_precision, resolve_precision

    on_gpu = pool.num_gpus != 0 and devices.has_gpus(config.address, config.grow)
    resolve = labeller_precision if name == "labeller" else resolve_precision
    return resolve("auto", "cuda" if on_gpu else "cpu")

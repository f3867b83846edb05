"""Options of `pseudo` that need something of the method or of the label set, checked before Ray starts."""

from __future__ import annotations

from segray.models.semi.methods import METHODS
from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.errors import UserError
from segray.pipelines.training.data.samples import TrainingData
from segray.pipelines.training.data.segment_maps import check_segments
from segray.pipelines.training.transition import transition_of


def check_pseudo(config: TrainConfig, data: TrainingData) -> None:
    """Refuse options that the method would ignore, or that the label set cannot serve.

    Args:
        config: the run.
        data: what it trains on.

    Raises:
        UserError: the key, what it needs, and what there is.
    """
    pseudo, method = config.pseudo, METHODS[config.method]
    guided = method.pseudo == "enhanced"
    needs = {
        "posterior": (pseudo.posterior != "switch", guided, "a method that uses zero-shot labels"),
        "forward": (pseudo.forward, guided, "a method that uses zero-shot labels"),
        "until": (pseudo.until is not None, guided, "a method that uses zero-shot labels"),
        "segments": (pseudo.segments, method.pseudo != "none", "a method that labels images"),
        "dynamic_tau": (pseudo.dynamic_tau, method.pseudo != "none", "a method that labels images"),
        "soft": (pseudo.soft > 0, method.strong_views > 0, "a method with strong views"),
        "start": (pseudo.start > 0, method.pseudo != "none", "a method that labels images"),
    }
    for key, (is_set, is_met, what) in needs.items():
        if is_set and not is_met:
            raise UserError(f"pseudo.{key} needs {what}, not method={config.method}")
    if pseudo.segments:
        if config.data.labels is None:
            raise UserError("pseudo.segments needs data.labels, a label set with segments")
        check_segments(config.data.labels)
    if pseudo.forward and (config.data.calibrate or pseudo.posterior != "switch"):
        other = "data.calibrate=true" if config.data.calibrate else f"pseudo.posterior={pseudo.posterior}"
        raise UserError(f"pseudo.forward and {other} use the same masks against the same mistakes; set one")
    if not config.data.calibrate:
        transition_of(config, data.space.classes)

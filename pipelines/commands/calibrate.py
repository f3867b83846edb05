"""`segray calibrate`: correct the names of a label set by a few masks; no image, no SAM, no image encoder."""

from __future__ import annotations

from dataclasses import dataclass

from segray.pipelines.annotation.run_summary import LabelSetResult
from segray.pipelines.calibration.description import FILE, to_json
from segray.pipelines.calibration.examples import folder_masks
from segray.pipelines.calibration.label_set import StoredNames, calibrate, report_lines
from segray.pipelines.config.commands.calibrate import CalibrateConfig
from segray.pipelines.masks.options import MaskOptions
from segray.pipelines.printing import echo
from segray.pipelines.understood import classes_line, show


@dataclass(frozen=True)
class CalibrateResult:
    """What `calibrate` wrote; as text, what the command prints.

    Attributes:
        labels: the new label set.
        miou_before: of the label set as it was, on the images with masks, in [0, 1].
        miou_after: of the new names there, each image named by what the others taught.
        masks: images with masks.
        report: what changed, line by line.
    """

    labels: LabelSetResult
    miou_before: float
    miou_after: float
    masks: int
    report: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join([*self.report, str(self.labels)])


def run(config: CalibrateConfig) -> None:
    """Calibrate and print what changed.

    Raises:
        UserError: as `execute` raises.
    """
    echo(execute(config))


def execute(config: CalibrateConfig) -> CalibrateResult:
    """Write the calibrated set to `out`; run again, it writes only the missing parts.

    Raises:
        UserError: no label set with embeddings, masks that do not fit it or hold fewer than two classes,
            other CLIP weights than its own, or an `out` that holds something else.
    """
    stored = StoredNames.of(config.labels)
    statuses = {image_id: status for image_id, status, _ in stored.source.statuses()}
    masks = folder_masks(
        config.masks,
        MaskOptions.of_keys(config, config.image),
        statuses,
        stored.classes,
        split=config.split,
        allow_missing=config.allow_missing,
    )
    candidates = stored.candidates(config.candidates, config.clip.weights)
    show([classes_line(stored.classes)])
    calibrated = calibrate(stored, masks, config, config.out, candidates=candidates, alpha=config.alpha)
    calibration = calibrated.calibration
    labels = calibrated.relabelling.write({FILE: to_json(calibrated.description())})
    return CalibrateResult(
        labels,
        calibration.before.miou,
        calibration.choice.outcome.miou,
        len(calibration.image_ids),
        tuple(report_lines(calibrated)),
    )

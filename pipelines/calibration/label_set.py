"""A calibrated label set: what it is made of, and the description that it carries."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from segray.models.calibration.heads import TEXT
from segray.models.calibration.selection import NO_THRESHOLD, SegmentClassifier
from segray.models.label_space import LabelSpace, label_space
from segray.pipelines.annotation.relabelling import (
    Relabelling,
    build_stored_clip,
    by_embedding,
    check_places,
    clip_of,
    of_pixels,
    require_embeddings,
)
from segray.pipelines.calibration.description import (
    average_text,
    count_masks,
    score_lines,
    scores_record,
    transition_record,
)
from segray.pipelines.calibration.examples import ReadMask, read_examples, sample_segments
from segray.pipelines.calibration.fit import (
    Calibration,
    Candidates,
    check_size,
    embed_candidates,
    fit,
)
from segray.pipelines.config.commands.calibrate import CandidatesConfig
from segray.pipelines.config.previous import current_provenance
from segray.pipelines.config.schema import Config
from segray.pipelines.engine.provenance import fingerprint, provenance, stored_section
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.label_set.store import LabelStore

STORED = "stored"
"""The name of the label set's own templates among those to try."""


@dataclass(frozen=True)
class StoredNames:
    """How a label set was named.

    Attributes:
        source: the label set.
        record: its provenance.
        classes: the name of each class id.
        dim: length of its embeddings.
    """

    source: LabelStore
    record: dict[str, Any] = field(repr=False)
    classes: tuple[str, ...]
    dim: int

    @classmethod
    def of(cls, labels: str) -> StoredNames:
        """Of a label set with embeddings.

        Raises:
            UserError: there is none, or none with embeddings.
        """
        source = LabelStore(labels)
        dim = require_embeddings(source)
        record = current_provenance(source.provenance)
        if stored := of_pixels(record):
            raise UserError(
                f"{storage.display(labels)} was made with {' '.join(stored)}: a calibration names segments "
                "by their stored features alone, and would lose that; annotate without it"
            )
        return cls(source, record, tuple(record["classes"]), dim)

    def candidates(self, config: CandidatesConfig, weights: str | None) -> Candidates:
        """Its names and those to try, embedded by its CLIP.

        Args:
            config: the names and templates to try.
            weights: the user's `clip.weights`.

        Raises:
            UserError: names or templates that cannot be used, or other CLIP weights than its own.
        """
        labels = self.source.root
        settings = stored_section(self.record, "config", ["label.threshold"], labels)
        names, templates = self._prompts()
        more = {0: config.background_names, **self._aliases(config)}
        try:
            stored = _space(self.classes, names)
            space = _space(self.classes, [_joined(known, more.get(i, ())) for i, known in enumerate(names)])
            sets = {STORED: templates, **_template_sets(config.templates, templates)}
            clip = build_stored_clip(self.record, labels, weights)
            return embed_candidates(clip, stored, space, sets, float(settings["label.threshold"]))
        except (ValueError, TypeError) as error:
            raise UserError(str(error)) from error

    def _prompts(self) -> tuple[list[list[str]], tuple[str, ...]]:
        prompts = self.record.get("prompts")
        names = prompts.get("names") if isinstance(prompts, dict) else None
        templates = prompts.get("templates") if isinstance(prompts, dict) else None
        texts = [*(templates or ()), *(n for group in names or () for n in group or ())]
        if not names or not templates or len(names) != len(self.classes) or not all(map(_is_text, texts)):
            raise UserError(f"{self.source.root}: its record has no names of its classes")
        return [list(group) for group in names], tuple(templates)

    def _aliases(self, config: CandidatesConfig) -> dict[int, tuple[str, ...]]:
        unknown = next((name for name in config.aliases if name not in self.classes[1:]), None)
        if unknown is not None:
            raise UserError(
                f"candidates.aliases: no class {unknown!r}; the classes are {', '.join(self.classes[1:])}"
            )
        return {self.classes.index(name): names for name, names in config.aliases.items()}


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _space(classes: tuple[str, ...], names: list[list[str]]) -> LabelSpace:
    aliases = {name: group for name, group in zip(classes[1:], names[1:], strict=True) if group}
    return label_space(classes, names[0], aliases)


def _joined(names: list[str], more: tuple[str, ...]) -> list[str]:
    return list(dict.fromkeys([*names, *more]))


def _template_sets(wanted: tuple[str, ...], stored: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    from segray.models.clip.text import resolve_templates

    sets = {name: resolve_templates(name) for name in dict.fromkeys(wanted)}
    return {name: texts for name, texts in sets.items() if texts != stored}


@dataclass(frozen=True)
class CalibratedSet:
    """A calibration and the label set that it makes.

    Attributes:
        calibration: what the masks chose.
        relabelling: writes the label set.
    """

    calibration: Calibration
    relabelling: Relabelling

    def description(self) -> dict[str, Any]:
        """The content of calibration.json."""
        calibration = self.calibration
        choice, classes = calibration.choice, calibration.candidates.space.classes
        return {
            **summary(calibration),
            "images": list(calibration.image_ids),
            **scores_record(classes, calibration.before, choice.outcome),
            "held_out_miou": {**choice.tried, "average": choice.averaged},
            "transition": transition_record(classes, calibration.transition, calibration.prior),
        }


def calibrate(
    stored: StoredNames,
    masks: Mapping[str, ReadMask],
    config: Config,
    out: str,
    *,
    candidates: Candidates,
    alpha: float,
    leave_out: Collection[str] = (),
) -> CalibratedSet:
    """Choose by masks, and prepare the label set; nothing is written.

    Args:
        stored: the label set to read.
        masks: the masks to learn from, by image_id.
        config: of the command, for the new label set's provenance.
        out: folder or URI of the new label set.
        candidates: what to choose from.
        alpha: see `conformal_quantiles`.
        leave_out: ids of images whose segments teach nothing.

    Raises:
        UserError: masks that do not fit, or too many, a damaged part, or an `out` with another configuration.
    """
    check_places(stored.source.root, out)
    check_size(len(masks), len(stored.classes))
    images = read_examples(stored.source, masks, len(stored.classes), stored.dim)
    calibration = fit(images, candidates, alpha, sample_segments(stored.source, stored.dim, leave_out))
    relabelling = Relabelling(
        stored.source,
        config,
        out,
        _record(stored, calibration, config),
        candidates.space.ignore_index,
        stored.dim,
        by_embedding(calibration.classify, stored.dim),
    )
    relabelling.check()
    return CalibratedSet(calibration, relabelling)


def _record(stored: StoredNames, calibration: Calibration, config: Config) -> dict[str, Any]:
    old, labels = stored.record, stored.source.root
    candidates = calibration.candidates
    templates = candidates.templates[calibration.prompts.templates]
    clip = {**clip_of(old, labels), "logit_scale": candidates.logit_scale}
    models = {"sam": old["sam"], "clip": clip}
    record = provenance(config, calibration.used_space(), models=models, templates=templates)
    # What `relabel` and a second calibration read of any label set.
    record["config"] |= {
        "label.templates": list(templates),
        "label.threshold": calibration.choice.rule.threshold,
    }
    record["source"] = fingerprint(stored.source.provenance)
    return {**record, "calibration": {**summary(calibration), "sha256": calibration.digest()}}


def summary(calibration: Calibration) -> dict[str, Any]:
    """What was chosen, in a few values."""
    choice, prompts = calibration.choice, calibration.prompts
    quantiles = calibration.quantiles
    dropped = calibration.candidates.stored.used & ~prompts.used
    added = prompts.used & ~calibration.candidates.stored.used
    names = [name for _, name in calibration.candidates.space.names()]
    return {
        "masks": len(calibration.image_ids),
        "segments": len(calibration.labelled.classes),
        "miou_before": calibration.before.miou,
        "miou_after": choice.outcome.miou,
        "templates": prompts.templates,
        "names_dropped": [name for name, flag in zip(names, dropped, strict=True) if flag],
        "names_added": [name for name, flag in zip(names, added, strict=True) if flag],
        "threshold": choice.rule.threshold,
        "least_stability": choice.rule.least_stability,
        "naming": dict(zip(choice.naming.names, choice.naming.weights, strict=True)),
        "centres": choice.naming.centres is not None,
        "quantiles": None if quantiles is None else np.round(quantiles, 6).tolist(),
    }


def report_lines(calibrated: CalibratedSet) -> list[str]:
    """What changed, for which class and by how much, on the images with masks."""
    calibration = calibrated.calibration
    choice, figures = calibration.choice, summary(calibration)
    on = f"{count_masks(figures['masks'])}, {figures['segments']} segments"
    lines = [
        f"calibrated on {on}; mIoU there, each image held out:",
        *score_lines(calibration.candidates.space.classes, calibration.before, choice.outcome),
    ]
    lines.append(f"  segments  {_rule_text(calibration)}")
    lines.append(f"  names     {_prompts_text(calibration)}")
    lines.append(f"  naming    {_naming_text(choice.naming)}")
    absent = _without_segment(calibration)
    if absent:
        lines.append(f"  no segment with a mask: {', '.join(absent)}; no mask says what they look like")
    return lines


def _rule_text(calibration: Calibration) -> str:
    rule = calibration.choice.rule
    threshold = "no threshold" if rule.threshold == NO_THRESHOLD else f"threshold {rule.threshold:.3g}"
    floor = f", stability at least {rule.least_stability:.3f}" if rule.least_stability else ""
    return f"{threshold} (was {calibration.candidates.threshold:.3g}){floor}"


def _prompts_text(calibration: Calibration) -> str:
    figures = summary(calibration)
    changes = [
        f"{change} {', '.join(names)}"
        for change, names in (("dropped", figures["names_dropped"]), ("added", figures["names_added"]))
        if names
    ]
    if figures["templates"] != STORED:
        changes.append(f"templates {figures['templates']}")
    return "; ".join(changes) or "as they were"


def _naming_text(naming: SegmentClassifier) -> str:
    centres = "" if naming.centres is None else ", drawn to class centres"
    if len(naming.names) > 1:
        return f"{average_text(dict(zip(naming.names, naming.weights, strict=True)))}{centres}"
    (name,) = naming.names
    as_before = "" if centres else ", as before"
    return f"{'by text alone' + as_before if name == TEXT else name}{centres}"


def _without_segment(calibration: Calibration) -> list[str]:
    seen = set(calibration.labelled.classes.tolist())
    return [name for i, name in enumerate(calibration.candidates.space.classes) if i and i not in seen]

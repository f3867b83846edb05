"""`segray relabel`: new classes, prompts or threshold from stored embeddings and masks; no image, no SAM.

Only CLIP's text encoder runs. Of a labeller's label set the stored scores are used, and nothing runs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from segray.models.clip.zero_shot import classify_segments
from segray.models.label_map import SegmentClasses
from segray.models.label_space import LabelSpace, label_space
from segray.pipelines.annotation.relabelling import (
    ByEmbedding,
    Relabelling,
    build_stored_clip,
    by_embedding,
    check_places,
    clip_of,
    labeller_of,
    of_pixels,
    require_embeddings,
)
from segray.pipelines.annotation.relabelling_scores import by_scores
from segray.pipelines.annotation.run_summary import LabelSetResult
from segray.pipelines.annotation.stages.classify import TextEmbeddings
from segray.pipelines.config.commands.relabel import RelabelConfig
from segray.pipelines.config.previous import current_provenance
from segray.pipelines.engine.provenance import fingerprint, provenance, stored_section
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.label_set.store import LabelStore
from segray.pipelines.printing import echo
from segray.pipelines.understood import classes_line, show

_DEFAULTS = {
    "label.pool=vote": "label.pool=mean",
    "label.unsegmented=pixels": "label.unsegmented=background",
}


def run(config: RelabelConfig) -> None:
    """Relabel and print a summary.

    Raises:
        UserError: as `execute` raises.
    """
    echo(execute(config))


def execute(config: RelabelConfig) -> LabelSetResult:
    """Write the relabelled set to `out`; run again, it writes only the missing parts.

    Raises:
        UserError: no label set, no embeddings in it, other CLIP weights than its own, names that a labeller
            did not look for, or an `out` that holds something else.
    """
    source = LabelStore(config.labels)
    check_places(config.labels, config.out)
    model = labeller_of(source)
    relabelling = _by_clip(config, source) if model is None else by_scores(config, source, model)
    relabelling.check()
    return relabelling.write()


def _with_stored_templates(config: RelabelConfig, source: LabelStore) -> RelabelConfig:
    """The configuration with the prompt templates of the label set, unless the user names some."""
    if "templates" in config.label.model_fields_set:
        return config
    record = current_provenance(source.provenance)
    stored = stored_section(record, "config", ["label.templates"], config.labels)["label.templates"]
    templates = stored if isinstance(stored, str) else tuple(map(str, stored or ()))
    return config.model_copy(update={"label": config.label.model_copy(update={"templates": templates})})


def _by_clip(config: RelabelConfig, source: LabelStore) -> Relabelling:
    config = _with_stored_templates(config, source)
    old = current_provenance(source.provenance)
    dim = require_embeddings(source)
    _refuse_pixels(config, old)
    try:
        space = label_space(config.classes, config.label.background_names, config.label.aliases)
        text, templates = _embed_names(config, old, space)
    except ValueError as error:
        raise UserError(str(error)) from error
    show([classes_line(space.classes)])
    clip = {**clip_of(old, config.labels), "logit_scale": text.logit_scale}
    record = provenance(config, space, models={"sam": old["sam"], "clip": clip}, templates=templates)
    record["source"] = fingerprint(source.provenance)
    classify = by_embedding(_by_text(text), dim)
    return Relabelling(source, config, config.out, record, space.ignore_index, dim, classify)


def _refuse_pixels(config: RelabelConfig, old: dict[str, Any]) -> None:
    """Refuse what needs the features of pixels; what the user sets counts for what the label set says."""
    wanted = of_pixels({"config": {f"label.{key}": value for key, value in config.label}})
    if wanted:
        raise UserError(
            f"{wanted[0]} needs the features of pixels, which no label set holds; annotate with it"
        )
    left = {key: v for key, v in old["config"].items() if key.removeprefix("label.") not in _set(config)}
    if stored := of_pixels({"config": left}):
        defaults = " ".join(_DEFAULTS[setting] for setting in stored)
        raise UserError(
            f"{storage.display(config.labels)} was made with {' '.join(stored)}, for which the features of "
            f"its pixels would be needed again; {defaults} relabels its segments alone"
        )


def _set(config: RelabelConfig) -> set[str]:
    return config.label.model_fields_set


def _embed_names(
    config: RelabelConfig, old: dict[str, Any], space: LabelSpace
) -> tuple[TextEmbeddings, tuple[str, ...]]:
    """The new names, embedded by the same CLIP as the stored embeddings, and their prompt templates."""
    from segray.models.clip.text import embed_label_space, resolve_templates

    clip = build_stored_clip(old, config.labels, config.clip.weights)
    templates = resolve_templates(config.label.templates)
    classifier = embed_label_space(clip, space, templates)
    return TextEmbeddings.from_classifier(classifier, config.label.threshold), templates


def _by_text(text: TextEmbeddings) -> ByEmbedding:
    classifier = text.to_classifier()

    def classify(pooled: NDArray[np.float16], _: NDArray[np.float64]) -> SegmentClasses:
        return classify_segments(torch.from_numpy(pooled).float(), classifier, text.threshold)

    return classify

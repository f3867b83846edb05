"""Which stages with a model a run has, and that each takes what it is given."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, cast

import pytest

from segray.pipelines.annotation.model_stages import model_stages
from segray.pipelines.annotation.prepared import Prepared
from segray.pipelines.annotation.stages.classify import ClassifySegments
from segray.pipelines.annotation.stages.label import LabelImages
from segray.pipelines.annotation.stages.segment import SegmentImages
from segray.pipelines.annotation.stages.segment_and_classify import SegmentAndClassify
from segray.pipelines.commands.annotate import space_of
from segray.pipelines.config.commands.annotate import AnnotateConfig
from segray.pipelines.config.loading import load
from segray.pipelines.engine.provenance import STAGES


@pytest.mark.parametrize(
    ("words", "shared", "kinds"),
    [
        ((), False, [("sam", SegmentImages), ("clip", ClassifySegments)]),
        ((), True, [("sam", SegmentAndClassify)]),
        (("sam.model=none",), False, [("clip", ClassifySegments)]),
        (("annotator=sam3",), False, [("labeller", LabelImages)]),
    ],
)
def test_each_annotator_has_its_stages(
    tmp_path: Path, words: tuple[str, ...], shared: bool, kinds: list[tuple[str, Any]]
) -> None:
    config = load(AnnotateConfig, None, [f"images={tmp_path}", "out=x", "classes=cat", *words])
    record = {stage: {"sha256": stage * 8} for stage in STAGES}
    run = Prepared(config, space_of(config), cast("Any", "text"), 4, cast("Any", None), record)
    stages = model_stages(run, shared=shared)
    assert [(stage.name, stage.kind) for stage in stages] == kinds
    for stage in stages:
        inspect.signature(stage.kind).bind(plan=None, guard=None, **stage.arguments)
        pinned = [v.sha256 for v in stage.arguments.values() if hasattr(v, "sha256")]
        assert pinned == [name * 8 for name in (("sam", "clip") if shared else (stage.name,))]

"""Annotation on the Ray of the test session, resumed after a part was lost."""

from __future__ import annotations

from pathlib import Path

from segray.pipelines.commands import annotate
from segray.pipelines.commands.verify import verify
from segray.pipelines.config.commands.annotate import AnnotateConfig
from segray.pipelines.label_set.store import LabelStore
from tests.faults.invariant import contents


def label_and_resume(config: AnnotateConfig) -> LabelStore:
    """The label set of a run with segments, which is the same after a part was lost and made again."""
    annotate.run(config)
    store, out = LabelStore(config.out), Path(config.out)
    before = contents(out)
    assert sum(len(segments) for _, segments in before.values()) > 0
    assert verify(config.out).problems == []
    store.discard(store.parts()[0])
    annotate.run(config)
    assert contents(out) == before
    return store

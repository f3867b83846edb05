"""Which label set a task of another tool belongs to."""

from __future__ import annotations

from segray.pipelines.engine.provenance import fingerprint
from segray.pipelines.label_set.store import LabelStore

_LENGTH = 16


def set_id(store: LabelStore) -> str:
    """16 hexadecimal digits of what made a label set: more images do not change it, other classes do.

    Raises:
        UserError: there is no label set.
    """
    return fingerprint(store.provenance)[:_LENGTH]

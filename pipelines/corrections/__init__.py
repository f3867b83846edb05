"""What people correct in a label set: an append-only log beside it, and the labels that follow from both."""

from __future__ import annotations

from segray.pipelines.corrections.apply import CorrectedLabel, StoredLabel, apply_corrections
from segray.pipelines.corrections.correction import KINDS, Correction, Kind, new_key, now
from segray.pipelines.corrections.log import CorrectionLog
from segray.pipelines.corrections.store import CorrectedStore

__all__ = [
    "KINDS",
    "CorrectedLabel",
    "CorrectedStore",
    "Correction",
    "CorrectionLog",
    "Kind",
    "StoredLabel",
    "apply_corrections",
    "new_key",
    "now",
]

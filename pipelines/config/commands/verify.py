"""The configuration of `segray verify`."""

from __future__ import annotations

from segray.pipelines.config.schema import Config, Folder


class VerifyConfig(Config):
    """Check that a label set is complete: every image exactly once, every label readable."""

    out: Folder
    """The label set to check."""
    repair: bool = False
    """Remove damaged parts and label their images again."""

"""The configuration of `segray samples`."""

from __future__ import annotations

from segray.pipelines.config.schema import Config, Folder


class SamplesConfig(Config):
    """Copy a few real photographs that ship with scikit-image."""

    out: Folder
    """Folder of the photographs."""

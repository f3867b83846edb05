"""The configuration of `segray doctor`."""

from __future__ import annotations

from typing import Annotated

from segray.pipelines.config.schema import Config, Folder, RunOnly, Text


class DoctorConfig(Config):
    """Check this machine and its cluster before a run: versions, GPUs, storage, authentication."""

    out: Annotated[Folder | None, RunOnly] = None
    """Folder of future outputs: check that it is writable and that all nodes share it; null: not checked."""
    measure: Annotated[tuple[Text, ...], RunOnly] = ()
    """Names of sam.model or annotator to time here with random weights, a minute or more each."""
    address: Annotated[Text | None, RunOnly] = None
    """A running Ray cluster: auto or ray://HOST:10001; null: RAY_ADDRESS if set, or this machine."""

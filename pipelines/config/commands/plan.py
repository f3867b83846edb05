"""The configuration of `segray plan`: that of `segray annotate`, and what a plan is made for."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from segray.pipelines.config.commands.annotate import AnnotateConfig
from segray.pipelines.config.schema import Folder, RunOnly


class PlanConfig(AnnotateConfig):
    """Estimate a run of `segray annotate` from a few of its images: time, cost, size of the output."""

    out: Annotated[Folder, RunOnly] = "labels"
    """Where the label set will go; nothing is written there."""
    probe: Annotated[int, Field(ge=1, le=100_000), RunOnly] = 32
    """Images to label for the estimate, spread evenly over all."""
    devices: Annotated[int, Field(ge=1, le=1_000_000), RunOnly] = 1
    """GPUs (without GPUs: CPU cores) that the run will have."""
    price: Annotated[float | None, Field(ge=0), RunOnly] = None
    """Price of one of these devices for an hour, in any currency; null: no price is shown."""

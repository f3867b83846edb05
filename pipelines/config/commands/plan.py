"""The configuration of `segray plan`: the keys of `segray annotate`, and those of the estimate."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from segray.pipelines.config.commands.annotate import AnnotateConfig
from segray.pipelines.config.schema import Folder, RunOnly


class PlanConfig(AnnotateConfig):
    """Estimate time, price and output size of `segray annotate` from a few of its images."""

    out: Annotated[Folder, RunOnly] = "labels"
    """Folder of the future label set; nothing is written there."""
    probe: Annotated[int, Field(ge=1, le=100_000), RunOnly] = 32
    """Images to label for the estimate, spread evenly over all images."""
    devices: Annotated[int, Field(ge=1, le=1_000_000), RunOnly] = 1
    """GPUs of the future run; without GPUs: its CPU cores."""
    price: Annotated[float | None, Field(ge=0), RunOnly] = None
    """Price of one device per hour, in any currency; null: no price is shown."""

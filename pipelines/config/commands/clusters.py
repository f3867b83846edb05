"""Configurations of what has to do with clusters: growing one, looking it over, sending it a job."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from segray.pipelines.config.schema import Config, Folder, RunOnly, Shown, Text


class GrowConfig(Config):
    """Ask a cluster that grows on request for machines, and wait for them."""

    gpus: Annotated[int | None, Field(ge=1, le=100_000), RunOnly] = None
    """GPUs to ask the cluster for before the run; null: take what is there."""
    cpus: Annotated[int | None, Field(ge=1, le=1_000_000), RunOnly] = None
    """CPUs to ask the cluster for before the run; null: take what is there."""
    wait: Annotated[int, Field(ge=1, le=86_400), RunOnly] = 900
    """Seconds to wait for them; then the run goes on with what has come, and ends if that is nothing."""


class DoctorConfig(Config):
    """Look this machine and its cluster over before a run: versions, GPUs, storage, authentication."""

    out: Annotated[Folder | None, RunOnly] = None
    """Where outputs will go: can it be written, and do all nodes see the same? null: not checked."""
    address: Annotated[Text | None, RunOnly] = None
    """A running Ray cluster: auto or ray://HOST:10001; null: RAY_ADDRESS if set, or this machine."""


class SubmitConfig(Config):
    """Run a verb on a cluster, as a job there: `segray submit VERB [config.yaml] key=value ...`."""

    address: Annotated[Text | None, RunOnly, Shown("ADDRESS")] = None
    """The cluster: http://HOST:8265, auto or ray://HOST:10001; null: RAY_ADDRESS, or one on this machine."""
    follow: Annotated[bool, RunOnly] = True
    """Show the job's output until it ends, and end with its exit status; false: return at once."""
    id: Annotated[Text | None, RunOnly] = None
    """A job that runs already, to follow or to stop, instead of a verb; null: a new job."""
    stop: Annotated[bool, RunOnly] = False
    """Stop the job of that id."""

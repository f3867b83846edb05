"""The configuration of `segray submit`."""

from __future__ import annotations

from typing import Annotated

from segray.pipelines.config.schema import Config, RunOnly, Shown, Text


class SubmitConfig(Config):
    """Run a command as a job on a cluster: `segray submit COMMAND [config.yaml] key=value ...`."""

    address: Annotated[Text | None, RunOnly, Shown("ADDRESS")] = None
    """The cluster: http://HOST:8265, auto or ray://HOST:10001; null: RAY_ADDRESS, or one on this machine."""
    follow: Annotated[bool, RunOnly] = True
    """Show the output of the job until it ends, and exit with its status; false: return at once."""
    id: Annotated[Text | None, RunOnly] = None
    """A running job to follow or stop, instead of a command; null: submit a new job."""
    stop: Annotated[bool, RunOnly] = False
    """Stop the job with this id."""

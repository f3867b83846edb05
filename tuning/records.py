"""What is known of a search's trials."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

_STRICT = ConfigDict(strict=True, extra="forbid")
"""Of records that are read: a search may have been received, and a seed becomes part of a path."""

Values = dict[str, str]
"""Values by key, in the notation of the command line."""

# What a run can have: other figures would end the page or the next proposal with an error.
Share = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0, le=1e9)]
Count = Annotated[int, Field(ge=0, le=10**9)]

State = Literal["running", "done", "stopped", "diverged", "crashed"]


@dataclass(frozen=True)
class Run:
    """One training of a trial, with one seed.

    Attributes:
        miou: of the last epoch on the validation images.
        best: the maximum over the epochs.
        epoch: last epoch reached, of `epochs`.
        curve: (epoch, mIoU) of each validation.
        labelled: number of images with masks.
        zero_shot: mIoU of the pseudo labels that the run learns from.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    seed: Annotated[int, Field(ge=0, lt=2**33)]
    miou: Share
    best: Share
    epoch: Amount
    epochs: Count
    curve: Annotated[list[tuple[Amount, Share]], Field(min_length=1)]
    labelled: Count
    zero_shot: Share | None = None
    seconds: Amount = 0.0


@dataclass(frozen=True)
class Outcome:
    """How a trial, or a rerun of it, ended; `reason` is empty where it is done."""

    state: State
    reason: str = ""
    runs: list[Run] = field(default_factory=list)


@dataclass
class Trial:
    """One point of the space in one split.

    Attributes:
        split: the value of `data.labelled`.
        number: 0 is the baseline: the configuration without any searched value.
        values: of the searched keys.
        file: its folder under `trials/`.
        runs: one per seed of the search.
        finals: one per further seed, for finalists.
        held_out: one per unseen seed.
        reason: why it stopped, diverged or crashed.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    split: str
    number: int
    values: Values
    file: str
    state: State = "running"
    runs: list[Run] = field(default_factory=list)
    finals: list[Run] = field(default_factory=list)
    held_out: list[Run] = field(default_factory=list)
    reason: str = ""

    @property
    def score(self) -> float | None:
        """Mean mIoU over the search's seeds; of a stopped trial, the mIoU at its last epoch."""
        return mean(run.miou for run in self.runs)

    @property
    def overall(self) -> float | None:
        """Mean mIoU over the search's seeds and the further seeds."""
        return mean(run.miou for run in [*self.runs, *self.finals])

    @property
    def unseen(self) -> float | None:
        """Mean mIoU over the unseen seeds."""
        return mean(run.miou for run in self.held_out)

    @property
    def epochs(self) -> float | None:
        """Mean last epoch over the search's seeds."""
        return mean(run.epoch for run in self.runs)

    @property
    def finished(self) -> bool:
        """Whether its outcome is known. A crash is not an outcome: the next command tries it again."""
        return self.state in ("done", "stopped", "diverged")


def mean(values: Iterable[float]) -> float | None:
    """The mean; None of no values."""
    listed = list(values)
    return sum(listed) / len(listed) if listed else None

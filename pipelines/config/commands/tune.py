"""The configuration of `segray tune`: that of `segray train`, the search space, and how it is searched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from segray.pipelines.config.commands.train import OF_METHOD, LearnConfig, TrainConfig
from segray.pipelines.config.schema import Config, Folder, RunOnly, Shown, Text
from segray.pipelines.config.search_space import (
    SPLIT,
    THRESHOLD,
    Dimension,
    check_dimension,
    parse_dimension,
    parse_space,
)

DEFAULT_SPACE = {
    "pseudo.tau": "uniform(0.4,1)",
    "pseudo.epsilon": "uniform(0,0.3)",
    SPLIT: "grid(1/16,1/8,1/4,1/2)",
}
"""The default search space."""


def _expressions(space: object) -> object:
    """`{train: {lr: ...}}` as `{train.lr: ...}`, and expressions that were split at their commas joined."""
    return dict(_flat(space, "")) if isinstance(space, Mapping) else space


def _flat(space: Mapping[object, object], prefix: str) -> Iterator[tuple[str, object]]:
    for name, value in space.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", _joined(value)


def _joined(value: object) -> object:
    parts = value.split(",") if isinstance(value, str) else value
    return ",".join(str(part).strip() for part in parts) if isinstance(parts, list | tuple) else value


class SearchConfig(Config):
    """How the space is searched."""

    algorithm: Literal["optuna", "random", "grid"] = "optuna"
    """optuna: learns from earlier trials; random; grid: every combination of choice(...) and grid(...)."""
    trials: Annotated[int, Field(ge=1, le=100_000), RunOnly] = 20
    """Trials per split, the first of them the baseline; may be raised. grid: the maximum."""
    seeds: int = Field(default=1, ge=1, le=100)
    """Runs per trial: with seed, seed + 1, ...; its score is their mean."""
    finalists: Annotated[int, Field(ge=0, le=100), RunOnly] = 3
    """Number of best trials per split that are trained, like the baseline, with further seeds."""
    final_seeds: int = Field(default=2, ge=0, le=100)
    """Number of further seeds; the best of many trials with one seed is mostly the luckiest. 0: none."""
    held_out: Annotated[int, Field(ge=0, le=100), RunOnly] = 1
    """Number of unseen seeds on which the best trial of each split is compared with the baseline."""
    scheduler: Literal["asha", "none"] = "asha"
    """asha: stops trials that are behind the others of their split; none: all run to the end."""
    grace: int | None = Field(default=None, ge=1)
    """Epochs before a trial may be stopped; null: a ninth of train.epochs."""
    reduction: float = Field(default=3.0, gt=1)
    """asha compares after grace x reduction, x reduction^2, ... epochs; about one in reduction continues."""
    concurrent: Annotated[int | None, Field(ge=1), RunOnly] = None
    """Maximum number of concurrent trials; null: as many as the cluster has room for."""
    keep_weights: Annotated[bool, RunOnly] = False
    """Keep the checkpoints of all trials; false: only of the best trial of each split."""


class TuneConfig(TrainConfig):
    """Search the keys of `segray train` for the best values, for each number of labelled images."""

    out: Annotated[Folder, RunOnly]
    """Folder of the search. Running the same command again resumes it; finished trials are kept."""
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    """Seed of the search, and of the first run of every trial."""
    space: Annotated[dict[Text, Text | None], BeforeValidator(_expressions), Shown("EXPRESSION")] = Field(
        default={}, validate_default=True
    )
    """The search space: space.train.lr=loguniform(1e-4,1e-2); uniform, choice, grid; null: not searched."""
    search: SearchConfig = SearchConfig()
    """How the space is searched."""

    @field_validator("train")
    @classmethod
    def _trials_are_alike(cls, value: LearnConfig) -> LearnConfig:
        if value.elastic:
            raise ValueError(f"workers ({value.workers}) is a range (allowed: one number for all trials)")
        return value

    @field_validator("space")
    @classmethod
    def _space_fits(cls, value: dict[str, str | None], info: ValidationInfo) -> dict[str, str | None]:
        if not set(TrainConfig.model_fields) <= set(info.data):
            return value
        base = TrainConfig(**{name: info.data[name] for name in TrainConfig.model_fields})
        space = {**_defaults(base), **value}
        dimensions = [
            parse_dimension(TrainConfig, k, written) for k, written in space.items() if written is not None
        ]
        if not dimensions:
            raise ValueError("nothing to search; set space.KEY=EXPRESSION")
        for dimension in dimensions:
            if dimension.key == SPLIT and not dimension.listed:
                raise ValueError(f"{SPLIT}: must be a list of values: grid(1/16,1/8)")
            if dimension.key == THRESHOLD and base.data.labels is None:
                raise ValueError(f"{THRESHOLD}: there is no label set to relabel; set data.labels=DIR")
            if dimension.key == "method" and (several := OF_METHOD.keys() & {base.method, *dimension.ends()}):
                raise ValueError(f"method: {min(several)} sets other keys too; give it a search of its own")
            check_dimension(base, dimension)
        return space


def train_config(config: TuneConfig) -> TrainConfig:
    """The part of it that is the configuration of `segray train`."""
    return TrainConfig(**{name: getattr(config, name) for name in TrainConfig.model_fields})


def of_split(config: TrainConfig, split: str) -> TrainConfig:
    """The same run with another value of `data.labelled`."""
    return config.model_copy(update={"data": config.data.model_copy(update={"labelled": split})})


def splits_of(config: TuneConfig) -> list[str]:
    """The values of `data.labelled`: each has a search of its own."""
    searched = [dimension for dimension in parse_space(TrainConfig, config.space) if dimension.key == SPLIT]
    return list(searched[0].values) if searched else [config.data.labelled]


def dimensions_of(config: TuneConfig) -> list[Dimension]:
    """The keys that are searched within a split."""
    return [dimension for dimension in parse_space(TrainConfig, config.space) if dimension.key != SPLIT]


def _defaults(base: TrainConfig) -> dict[str, str | None]:
    """The default space without keys that the method does not use, and without the split if it is set."""
    from segray.models.semi.methods import METHODS

    pseudo = METHODS[base.method].pseudo
    unused = {"pseudo.tau"} if pseudo == "none" else set()
    unused |= {"pseudo.epsilon"} if pseudo != "enhanced" else set()
    unused |= {SPLIT} if "labelled" in base.data.model_fields_set else set()
    return {key: written for key, written in DEFAULT_SPACE.items() if key not in unused}

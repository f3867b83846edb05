"""The configuration of `segray tune`: that of `segray train`, what is searched in it, and how."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.config.schema import Config, Folder, RunOnly, Shown, Text
from segray.pipelines.config.search_space import SPLIT, THRESHOLD, check_dimension, parse_dimension

DEFAULT_SPACE = {
    "pseudo.tau": "uniform(0.4,1)",
    "pseudo.epsilon": "uniform(0,0.3)",
    SPLIT: "grid(1/16,1/8,1/4,1/2)",
}
"""What is searched where nothing else is said."""


def _expressions(given: Any) -> Any:
    """`{train: {lr: ...}}` as `{train.lr: ...}`, and expressions that were split at their commas whole."""
    return dict(_flat(given, "")) if isinstance(given, Mapping) else given


def _flat(given: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in given.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            parts = value.split(",") if isinstance(value, str) else value
            listed = isinstance(parts, list | tuple)
            yield f"{prefix}{name}", ",".join(str(part).strip() for part in parts) if listed else value


class SearchConfig(Config):
    """How the space is searched."""

    algorithm: Literal["optuna", "random", "grid"] = "optuna"
    """optuna: learns from the trials before; random; grid: every combination of choice(...) and grid(...)."""
    trials: Annotated[int, Field(ge=1, le=100_000), RunOnly] = 20
    """Trials a split, the first of them the configuration as it stands; may be raised. grid: at most."""
    seeds: int = Field(default=1, ge=1, le=100)
    """Runs a trial: with seed, seed + 1, ...; its score is their mean."""
    finalists: Annotated[int, Field(ge=0, le=100), RunOnly] = 3
    """Best trials of each split that get further seeds, and so do the defaults, before one is the best."""
    final_seeds: int = Field(default=2, ge=0, le=100)
    """How many further seeds; of many trials with one seed the best is mostly the luckiest. 0: none."""
    held_out: Annotated[int, Field(ge=0, le=100), RunOnly] = 1
    """Further seeds, unseen in the search, on which each split's best is compared with the defaults."""
    scheduler: Literal["asha", "none"] = "asha"
    """asha: stops a trial that is behind the others of its split; none: all run to the end."""
    grace: int | None = Field(default=None, ge=1)
    """Epochs before a trial may be stopped; null: a ninth of them."""
    reduction: float = Field(default=3.0, gt=1)
    """asha asks again whenever this many times more epochs have passed, and keeps the best of so many."""
    concurrent: Annotated[int | None, Field(ge=1), RunOnly] = None
    """Trials at a time at most; null: as many as the cluster has room for."""
    keep_weights: Annotated[bool, RunOnly] = False
    """Keep the checkpoints of all trials; false: those of each split's best."""


class TuneConfig(TrainConfig):
    """Search the keys of `segray train` for the best values, for each number of labelled images."""

    out: Annotated[Folder, RunOnly]
    """Where the search goes. The same command again goes on; finished trials are not trained again."""
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    """Seed of the search, and of the first run of every trial."""
    space: Annotated[dict[Text, Text | None], BeforeValidator(_expressions), Shown("EXPRESSION")] = Field(
        default={}, validate_default=True
    )
    """What is searched: space.train.lr=loguniform(1e-4,1e-2); choice, uniform, grid; null: not this key."""
    search: SearchConfig = SearchConfig()
    """How the space is searched."""

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
            raise ValueError("nothing to search; give space.KEY=EXPRESSION")
        for dimension in dimensions:
            if dimension.key == SPLIT and not dimension.listed:
                raise ValueError(f"{SPLIT}: its values are listed: grid(1/16,1/8)")
            if dimension.key == THRESHOLD and base.data.labels is None:
                raise ValueError(f"{THRESHOLD}: there is no label set to relabel; give data.labels=DIR")
            check_dimension(base, dimension)
        return space


def train_config(config: TuneConfig) -> TrainConfig:
    """What `segray train` would take of it."""
    return TrainConfig(**{name: getattr(config, name) for name in TrainConfig.model_fields})


def _defaults(base: TrainConfig) -> dict[str, str | None]:
    """The default space, without what the method has no use for, and with the split only if none is given."""
    from segray.models.semi.methods import METHODS

    pseudo = METHODS[base.method].pseudo
    unused = {"pseudo.tau"} if pseudo == "none" else set()
    unused |= {"pseudo.epsilon"} if pseudo != "enhanced" else set()
    unused |= {SPLIT} if "labelled" in base.data.model_fields_set else set()
    return {key: written for key, written in DEFAULT_SPACE.items() if key not in unused}

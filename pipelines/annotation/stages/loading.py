"""How a stage that holds a model loads it in its worker."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn, TypeVar

from segray.pipelines.engine.compiling import CannotCompileError
from segray.pipelines.engine.pools import PoolPlan
from segray.pipelines.errors import UserError

T = TypeVar("T")


def load_or_defer_error(load: Callable[[], T]) -> Callable[[], T]:
    """Load a worker's model now; if that fails, raise the reason when the model is used.

    An error in an actor's constructor reaches the driver as the death of an actor, without its reason; an
    error in a call arrives as it is.

    Returns:
        A function that returns the model, or raises UserError if it could not be loaded or compiled.
    """
    from segray.models.weights import WeightsError

    try:
        model = load()
    except (WeightsError, CannotCompileError) as problem:
        message = str(problem)

        def refuse() -> NoReturn:
            raise UserError(message)

        return refuse
    return lambda: model


def device_of(plan: PoolPlan) -> str:
    """ "cuda" for the workers of a pool with GPUs, otherwise "cpu"."""
    import torch

    return "cuda" if plan.num_gpus > 0 and torch.cuda.is_available() else "cpu"

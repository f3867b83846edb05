"""Start a run from the network of another: its weights, with a new optimiser and schedule."""

from __future__ import annotations

from collections.abc import Sequence

from segray.models.label_space import name_key
from segray.models.segmenters.base import Segmenter
from segray.pipelines.config.commands.train import NetworkConfig
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.training.checkpoints import CheckpointState, load_checkpoint
from segray.pipelines.training.trained import check_network, find_checkpoint, stored_network
from segray.pipelines.understood import name_some

_HEAD = "classifier."
"""In the names of a decoder's tensors that give the classes."""
_SHOWN = 8


def check_start(config: NetworkConfig, classes: Sequence[str]) -> None:
    """Check before Ray starts that the checkpoint fits the run, if there is one.

    Raises:
        UserError: no checkpoint there, or one of another network or of other classes.
    """
    if config.checkpoint is None:
        return
    try:
        state = check_network(config.checkpoint)
    except UserError as error:
        raise UserError(f"network.{error}") from error
    _check_fit(config, state, classes)


def load_start(network: Segmenter, config: NetworkConfig, classes: Sequence[str]) -> None:
    """Load the weights that predict of `network.checkpoint`, if there is one.

    With `new_head`, the layer that gives the classes stays as it is.

    Args:
        network: newly built, for these classes.
        config: of the network.
        classes: the name of each id.

    Raises:
        UserError: as `check_start`.
    """
    if config.checkpoint is None:
        return
    checkpoint = load_checkpoint(find_checkpoint(config.checkpoint))
    _check_fit(config, checkpoint.state, classes)
    weights = checkpoint.weights
    if config.new_head:
        initial = network.state_dict()
        weights = {name: initial[name] if _is_head(name) else value for name, value in weights.items()}
    try:
        network.load_state_dict(weights)
    except (RuntimeError, KeyError) as error:
        raise UserError(f"{_where(config)}: the weights are not those of {config.name}") from error


def _check_fit(config: NetworkConfig, state: CheckpointState, classes: Sequence[str]) -> None:
    name, before = stored_network(state, config.checkpoint or "")
    if name != config.name:
        raise UserError(
            f"{_where(config)} is a {name}, network.name is {config.name}; give network.name={name}"
        )
    if not config.new_head and [*map(name_key, before)] != [*map(name_key, classes)]:
        old, new = (name_some(names, _SHOWN) for names in (before, classes))
        raise UserError(
            f"{_where(config)}: its classes are {old}, the data's are {new}; "
            "network.new_head=true keeps all but the layer that gives the classes"
        )


def _is_head(name: str) -> bool:
    return name.startswith("decoder.") and _HEAD in name


def _where(config: NetworkConfig) -> str:
    return f"network.checkpoint={storage.display(config.checkpoint or '')}"

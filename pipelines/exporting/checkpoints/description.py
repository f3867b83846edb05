"""What a file says about its network: classes, colours, pixels in, logits out, window."""

from __future__ import annotations

import json
from importlib.metadata import version

from segray.models.label_space import LabelSpace
from segray.models.segmenters.portable import MIN_SIDE, PIXELS, PortableNetwork
from segray.pipelines.exporting.checkpoints.formats import INPUT, OUTPUT, CheckpointFormat
from segray.pipelines.io.uris import redacted_tree
from segray.pipelines.training.checkpoints import CheckpointState
from segray.pipelines.training.history import HistoryEntry
from segray.pipelines.training.trained import chosen_window, stored_network, weights_sha256

MADE_BY = "segray export"
_STATE = ("step", "total", "network", "window")
_CROP = "augment.crop"


def describe(portable: PortableNetwork, state: CheckpointState, form: CheckpointFormat, uri: str) -> str:
    """The description as JSON; nothing in it says where anything lies.

    Args:
        portable: the network.
        state: of its checkpoint.
        form: of the file.
        uri: of the checkpoint, for the message.

    Raises:
        UserError: the state names no network or no classes.
    """
    name, classes = stored_network(state, uri)
    space, network = LabelSpace(classes, ()), portable.network
    window, entry = chosen_window(state, None), validation(state)
    document: dict[str, object] = {
        "made_by": MADE_BY,
        "version": version("segray"),
        "network": name,
        "weights_sha256": weights_sha256(state),
        "classes": classes,
        "palette": space.palette()[: len(classes)].tolist(),
        "ignore_index": space.ignore_index,
        "normalisation": {"mean": network.mean, "std": network.std, "inside": form.has_graph},
        "window": {"side": window.side, "whole": window.whole},
        "validation_miou": entry and entry["miou"],
    }
    if form.has_graph:
        document |= {"input": _input(portable), "output": {"name": OUTPUT, "layout": "NCHW"}}
    else:
        # What `load_network` needs besides.
        config = {key: value for key, value in state.get("config", {}).items() if key == _CROP}
        kept = {key: value for key, value in state.items() if key in _STATE}
        document["state"] = {**kept, "classes": classes, "history": [], "config": config}
    return json.dumps(redacted_tree(document), ensure_ascii=False)


def validation(state: CheckpointState) -> HistoryEntry | None:
    """The validation that a checkpoint was saved after."""
    history = state.get("history")
    return history[-1] if history else None


def _input(portable: PortableNetwork) -> dict[str, object]:
    _, most = PIXELS[portable.pixels]
    return {
        "name": INPUT,
        "layout": "NCHW",
        "channels": "RGB",
        "dtype": portable.pixels,
        "range": [0, most],
        "min_side": MIN_SIDE,
    }

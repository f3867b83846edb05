"""Official weight files into a segmenter's encoder: found, checked tensor by tensor, copied."""

from __future__ import annotations

from contextlib import suppress

from torch import Tensor

from segray.models import weights as files
from segray.models.segmenters.base import Segmenter
from segray.models.weights import Checkpoint, UnavailableError, WeightsError

HUB_FILES = ("model.safetensors", "pytorch_model.bin")
"""Names under which encoders are published on the Hugging Face hub, the safe format first."""

# Absent from files converted from frameworks that do not count; with a fixed momentum nothing reads it.
_COUNTER = "num_batches_tracked"


def find(weights: str) -> Checkpoint:
    """The file that `weights` names; a hub repository without a filename is tried for `HUB_FILES`.

    Raises:
        WeightsError: no such file, or no network.
    """
    if not weights.startswith("hf-hub:") or ":" in weights.removeprefix("hf-hub:"):
        return files.resolve(weights)
    first, *others = HUB_FILES
    try:
        return files.resolve(f"{weights}:{first}")
    except UnavailableError as error:
        if error.offline:
            raise
        for name in others:
            with suppress(WeightsError):
                return files.resolve(f"{weights}:{name}")
        raise


def load_encoder(segmenter: Segmenter, checkpoint: Checkpoint, network: str) -> None:
    """Copy an official file's tensors into the encoder of `segmenter`, called `network` in messages.

    Raises:
        WeightsError: the file is damaged, or does not hold exactly this encoder.
    """
    state = segmenter.official_state(files.load_state_dict(checkpoint))
    initial = segmenter.encoder.state_dict()
    wanted = {segmenter.official_key(key): value for key, value in initial.items()}
    matching = {key: value for key, value in state.items() if key in wanted or not segmenter.spare.match(key)}
    # Where all that was found is spare, it is another network's file: then say what is in it.
    problem = _misfit(wanted, matching or state)
    if problem:
        raise WeightsError(f"{checkpoint.path} does not fit the encoder of {network}: {problem}")
    segmenter.encoder.load_state_dict(
        {key: state.get(segmenter.official_key(key), value) for key, value in initial.items()}
    )


def _misfit(wanted: dict[str, Tensor], state: dict[str, Tensor]) -> str | None:
    """The first difference between expected and found tensors, in words."""
    missing = [key for key in wanted if key not in state and not key.endswith(_COUNTER)]
    unexpected = [key for key in state if key not in wanted]
    shapes = [key for key in wanted if key in state and wanted[key].shape != state[key].shape]
    if shapes:
        key = shapes[0]
        return f"{key} is {list(state[key].shape)}, expected {list(wanted[key].shape)} ({len(shapes)} such)"
    problems = [f"expected {missing[0]} ({len(missing)} missing)"] if missing else []
    problems += [f"found {unexpected[0]} ({len(unexpected)} unexpected)"] if unexpected else []
    return ", ".join(problems) or None

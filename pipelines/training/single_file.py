"""A network that `segray export format=safetensors` wrote, read as a checkpoint."""

from __future__ import annotations

import hashlib

from segray.models.weight_checks import check_header
from segray.pipelines.io import storage
from segray.pipelines.io.strict_json import parse_json

SUFFIX = ".safetensors"
KEY = "segray"
"""Of the description, in the metadata of the file."""


def is_single(uri: str) -> bool:
    """Whether a URI names such a file, and not the folder of a checkpoint."""
    return uri.endswith(SUFFIX)


def stored_state(uri: str, weights: str) -> dict[str, object]:
    """The state of the checkpoint that the file was made of, as in its state.json.

    Args:
        uri: of the file.
        weights: the name under which the state lists the checksum of the weights.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has no valid header, or is no such export. So do a KeyError, a TypeError and a
            RecursionError: the file may be anyone's.
    """
    data = storage.read_bytes(uri)
    check_header(data)
    header = parse_json(data[8 : 8 + int.from_bytes(data[:8], "little")])
    state = parse_json(header["__metadata__"][KEY])["state"]
    return {**state, "sha256": {weights: hashlib.sha256(data).hexdigest()}}

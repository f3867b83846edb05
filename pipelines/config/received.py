"""A configuration in a folder that may have been received: what it decides, and what only the user decides.

Whoever sends a label set also writes its config.yaml. What shapes the labels is taken from there, and shown.
Where a run works (`RunOnly`: a Ray cluster, machines, folders) is not; nor which weights are loaded, if they
are a file or an address; nor images, masks, label sets, class files and tables of colours outside of the
folder, which are the user's own: what is read there becomes part of the label set.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TypeVar

from segray.models.label_space import is_class_file
from segray.pipelines.config.loading import identity, load_filtered
from segray.pipelines.config.schema import Config, Key, keys
from segray.pipelines.config.source import Value
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.received import ROOTS_KEY, absolute_roots, check_links, check_received_uri

T = TypeVar("T", bound=Config)

_PLACES = ("images", "labels", "masks", "split")
_TAUGHT = "calibrate."
"""Masks that taught a label set while it was made. They are the user's own."""
_TABLES = ("voc", "cityscapes", "gray")
_SCHEMES = ("file", "s3", "gs")
_TAG = re.compile(r"[A-Za-z0-9_-]+")


def load_received(
    model: type[T], tree: Mapping[str | None, Value], own: Mapping[str, str | None], where: str
) -> T:
    """The configuration that made a folder, without what only the user may decide.

    Args:
        model: the model to fill.
        tree: content of the folder's config.yaml.
        own: the user's values by dotted key; they win. None: the user has set none. `out` is the folder.
        where: the file, for messages.

    Raises:
        UserError: not a configuration, or a key has a value that only the user may give.
    """
    words = {key: value for key, value in own.items() if value is not None}
    refused: list[str] = []
    # What a run reads may end up in a label set that is sent back.
    roots = absolute_roots([words["out"], *filter(None, words.get(ROOTS_KEY, "").split(","))])

    def accept(key: Key, value: Value) -> bool:
        if key.run_only or key.name in words:
            return False
        if not may_be_received(key.name, value, roots):
            name = key.name.removeprefix(_TAUGHT)
            refused.append(f"{name}={value} is in {where}, which may be anyone's; add it to the command")
        return True

    config = load_filtered(model, tree, accept, [f"{key}={value}" for key, value in words.items()])
    if refused:
        raise UserError("\n".join(f"{line} if you trust it" for line in refused))
    return config


def may_be_received(key: str, value: object, roots: Sequence[str] = ()) -> bool:
    """Whether a dotted key may have this value by the word of a received file.

    Weights: none, a built-in model or an open_clip tag. Images, masks, label sets, class files and tables of
    colours: local, s3:// or gs://, without options and keys, and below the roots. Masks that teach: none.

    Args:
        key: of the configuration.
        value: its value there.
        roots: the received folder, and folders of the user, absolute.
    """
    if key.startswith(_TAUGHT) and key.removeprefix(_TAUGHT) in ("masks", "split"):
        return value is None
    key = key.removeprefix(_TAUGHT)
    if key in _PLACES and isinstance(value, (list, tuple)):
        return all(isinstance(part, str) and may_be_received(key, part, roots) for part in value)
    if not isinstance(value, str):
        return True
    if key.endswith("weights"):
        return value.startswith("builtin:") or (key == "clip.weights" and _TAG.fullmatch(value) is not None)
    if key == "classes":
        return not is_class_file(value) or _is_below(value, roots)
    if key == "colors":
        return value in _TABLES or _is_below(value, roots)
    if key in _PLACES:
        places = [part.strip() for part in [value, *value.split(",")]]
        return all(_is_below(place, roots) for place in places)
    return True


def _is_below(place: str, roots: Sequence[str]) -> bool:
    if not _is_bare(place):
        return False
    try:
        (uri,) = absolute_roots([place])
        check_links(check_received_uri(uri, roots), roots)
    except UserError:
        return False
    return True


def _is_bare(place: str) -> bool:
    bare = storage.is_local(place) or (storage.display(place) == place and "?" not in place)
    return bare and storage.scheme(place) in _SCHEMES and "::" not in place


def shown_keys(config: Config) -> list[str]:
    """`key=value` of everything that shapes what a run writes and is not its default."""
    known = keys(type(config))
    return [f"{name}={value}" for name, value in identity(config).items() if value != known[name].default]

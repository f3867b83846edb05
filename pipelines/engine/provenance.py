"""What made a label set: stored with every part, compared on resume."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from segray.models.label_space import LabelSpace
from segray.pipelines.config.loading import config_hash, identity
from segray.pipelines.config.previous import current_provenance
from segray.pipelines.config.schema import Config, keys
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.uris import redacted_tree

_NOT_SETTINGS = ("versions", "config_hash", "source")
STAGES = ("sam", "clip", "labeller")
"""The stages that hold a model, and the sections of a record that name it."""
PLACES = ("images", "labels", "masks", "split", "calibrate.masks", "calibrate.split")
"""Keys that only say where something is: what is there is compared instead."""
_PACKAGES = ("segray", "torch", "ray", "segment-anything", "open_clip_torch", "pyarrow", "numpy", "pillow")


def provenance(
    config: Config,
    space: LabelSpace,
    *,
    models: Mapping[str, Mapping[str, Any]],
    templates: Sequence[str],
) -> dict[str, Any]:
    """The record that goes into the metadata of each part; equal for all runs that may share a label set.

    Args:
        config: of the command.
        space: its label space.
        models: by stage, model name and sha256 of its weights; of "clip" also the features, the source of the
            weights, the vision model beside it, if any, and logit_scale, CLIP's factor on cosines, which
            relabelling needs for the confidence.
        templates: the prompts, with {} for the name; none where a model takes the names themselves.
    """
    unused = tuple(f"{stage}." for stage in STAGES if stage not in models)
    record = {
        "classes": list(space.classes),
        "ignore_index": space.ignore_index,
        "palette": space.palette()[: len(space.classes)].tolist(),
        "prompts": {
            "names": [list(names) for names in space.aliases],
            "templates": list(templates),
        },
        **models,
        "config": {key: value for key, value in identity(config).items() if not key.startswith(unused)},
        "config_hash": config_hash(config),
        "versions": {name: _version(name) for name in _PACKAGES},
    }
    return redacted_tree(record)


def differences(
    old: dict[str, Any], new: dict[str, Any], model: type[Config], places: Collection[str] = ()
) -> list[str]:
    """`key: old -> new` for everything that shapes the labels; package versions may differ.

    Args:
        old: a record of `provenance`, {} for none.
        new: the same.
        model: of the new configuration. A key that a record does not have, of an older segray or of a model
            that does not run, counts as its default.
        places: keys that only say where something is.
    """
    flat_old, flat_new = redacted_tree(_flat(current_provenance(old))), _flat(new)
    if old.get("config"):
        defaults = {f"config.{name}": key.default for name, key in keys(model).items()}
        flat_old = {name: defaults.get(name) for name in flat_new} | flat_old
        flat_new = {name: defaults[name] for name in flat_old.keys() & defaults.keys()} | flat_new
    names = sorted(flat_old.keys() | flat_new.keys())
    return [
        f"{name.removeprefix('config.')}: {flat_old.get(name)!r} -> {flat_new.get(name)!r}"
        for name in names
        if flat_old.get(name) != flat_new.get(name) and name.removeprefix("config.") not in places
    ]


def settings(record: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """What must be equal in all parts of a label set, as text.

    Not versions, names of keys and defaults that an upgrade changes, nor places, from which files were moved.

    Args:
        record: of `provenance`.
        defaults: of the configuration's keys, by dotted name.
    """
    current = current_provenance(dict(record))
    if current.get("config"):
        current["config"] = {**defaults, **current["config"]}
    return json.dumps(_without_places(current), sort_keys=True)


def fingerprint(record: Mapping[str, Any]) -> str:
    """sha256 of what made a label set, 64 hexadecimal digits; another place of its images does not change it.

    Args:
        record: of `provenance`.
    """
    # The record as it is stored: today's names and defaults would change it with an upgrade.
    text = json.dumps(_without_places(record), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _without_places(record: Mapping[str, Any]) -> dict[str, Any]:
    settings = {name: value for name, value in record.items() if name not in _NOT_SETTINGS}
    if config := settings.get("config"):
        settings["config"] = {key: value for key, value in config.items() if key not in PLACES}
    return settings


def stored_section(
    record: Mapping[str, Any], name: str, required: Sequence[str], labels: str
) -> dict[str, Any]:
    """A section of a label set's record, which anyone may have written.

    Args:
        record: of `provenance`.
        name: `sam`, `clip` or `config`.
        required: keys that the section must have.
        labels: the label set, for the message.

    Raises:
        UserError: the section is missing, is no mapping, or lacks a key or has another type there.
    """
    section = record.get(name)
    values = section if isinstance(section, dict) else {}
    # A model and a checksum are text; what a configuration holds is validated where it is used.
    good = [key for key in required if key in values and (name == "config" or _is_text(values[key]))]
    if section is not values or len(good) < len(required):
        bad = next((f"{name}.{key}" for key in required if key not in good), name)
        raise UserError(
            f"{storage.display(labels)}: its record of what made it has no valid {bad}; "
            "a label set that segray wrote is needed"
        )
    return values


def other_configuration(out: str, changed: Sequence[str], advice: str) -> str:
    """The error message that refuses to mix two configurations in one label set."""
    shown = "\n".join(f"  {line}" for line in changed)
    return f"{storage.display(out)} was made with another configuration:\n{shown}\n{advice}"


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    config = {f"config.{key}": value for key, value in record.get("config", {}).items()}
    made_by = {which: record[which] for which in STAGES if which in record}
    models = {f"{which} weights sha256": one.get("sha256") for which, one in made_by.items()}
    models["clip.proxy weights sha256"] = (record.get("clip", {}).get("proxy") or {}).get("sha256")
    prompts = record.get("prompts", {})
    names = {
        "class list": record.get("classes"),
        "prompt names": prompts.get("names"),
        "prompts": prompts.get("templates"),
    }
    calibration = record.get("calibration")
    chosen = calibration if isinstance(calibration, dict) else {}
    masks = {
        text: chosen[key]
        for text, key in (
            ("what the masks and segments chose", "sha256"),
            ("names by", "names"),
            ("clip.refine by masks", "refine"),
        )
        if chosen.get(key) is not None
    }
    return {**config, **models, **names, **masks}


def _is_text(value: object) -> bool:
    return value is None or isinstance(value, str)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None

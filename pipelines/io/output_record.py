"""The record of what made the files of a folder: another run adds to them only if it is the same."""

from __future__ import annotations

import json
from collections.abc import Mapping

from segray.pipelines.errors import UserError
from segray.pipelines.io import storage


def made_with(out: str, record: str, command: str) -> dict[str, object] | None:
    """What a folder's files were made with; None if it is new.

    Args:
        out: the folder.
        record: name of the JSON file in it, with a key `made_with`.
        command: that writes such folders.

    Raises:
        UserError: it holds something else, or cannot be read.
    """
    path = storage.join(out, record)
    try:
        names = storage.list_names(out)
        if record in names:
            return dict(json.loads(storage.read_bytes(path))["made_with"])
    except OSError as error:
        raise UserError(f"out={storage.display(out)} cannot be read: {error}") from error
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{storage.display(path)} is damaged; give another out=DIR") from None
    if foreign := [name for name in names if not name.startswith(".")]:
        raise UserError(
            f"out={storage.display(out)} holds something else ({', '.join(foreign[:3])}); "
            f"allowed: a new or empty folder, or one that {command} wrote"
        )
    return None


def check_same(out: str, before: Mapping[str, object] | None, now: Mapping[str, object], holds: str) -> None:
    """Refuse to mix the files of two different runs in one folder.

    Args:
        out: the folder.
        before: what its files were made with; None if it is new.
        now: what this run would make them with.
        holds: what the files are, in the plural.

    Raises:
        UserError: with the difference, on one line.
    """
    if before is None:
        return
    changed = [f"{k}: {_short(before.get(k))} -> {_short(now[k])}" for k in now if before.get(k) != now[k]]
    if changed:
        shown = "; ".join(changed)
        raise UserError(
            f"out={storage.display(out)} holds {holds} made with other settings ({shown}); "
            "give another out=DIR"
        )


def _short(value: object) -> str:
    text = storage.display(str(value))
    return f"{text[:12]}..." if len(text) == 64 and "/" not in text else text

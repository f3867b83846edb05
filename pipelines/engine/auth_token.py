"""The token of Ray's clusters, in a file that only its owner can read."""

from __future__ import annotations

import logging
import os
import secrets
import stat
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_log = logging.getLogger(__name__)

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True)
class Exposure:
    """Who else can read or replace the token.

    Attributes:
        file: where the token is.
        reason: what is wrong with the file or its folder.
        remedy: how the user repairs it.
    """

    file: Path
    reason: str
    remedy: str


def use_token() -> None:
    """Enable token authentication if there is a token.

    Ray decides at its import whether it sends one. Nothing is done after that: the servers that Ray starts
    would ask this process for a token, and it could start none of its own any more.
    """
    if "ray" in sys.modules:
        return
    file = token_file()
    if file is None or os.environ.get("RAY_AUTH_TOKEN_PATH") or file.is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def token_file() -> Path | None:
    """Where Ray looks for the token; None if it is in the environment."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return None
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    return Path(named) if named else Path.home() / ".ray" / "auth_token"


def keep_private() -> None:
    """Create the token before Ray starts here, which would let every user of the machine read the file.

    A file that exists is kept, and closed to others. Nothing is done if authentication is disabled, or if the
    token is in the environment or in a file that the user names.

    Raises:
        OSError: the file cannot be written.
    """
    file = token_file()
    disabled = os.environ.get("RAY_AUTH_MODE", "token").lower() != "token"
    if file is None or disabled or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _close(file.parent, _OTHERS_WRITE)
    if not file.exists():
        _create(file)
    elif _close(file, _OTHERS):
        _log.warning(
            "%s could be read by other users and is private now; if you do not trust them, delete it when "
            "no cluster of yours runs: the next run creates another one",
            file,
        )


def _create(file: Path) -> None:
    """Complete and private from the first moment; of two processes that create it, the first one wins."""
    draft = file.with_name(f".{file.name}-{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as stream:
            # The umask may have taken the owner's own permissions.
            os.fchmod(descriptor, 0o600)
            stream.write(secrets.token_hex(32))
        with suppress(FileExistsError):
            _publish(draft, file)
    finally:
        draft.unlink(missing_ok=True)


def _publish(draft: Path, file: Path) -> None:
    try:
        file.hardlink_to(draft)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        draft.replace(file)


def _close(path: Path, bits: int) -> bool:
    """Take permissions of others from a path that is ours; whether they had any."""
    status = path.stat()
    if not status.st_mode & bits or status.st_uid != os.getuid():
        return False
    path.chmod(stat.S_IMODE(status.st_mode) & ~bits)
    return True


def exposure() -> Exposure | None:
    """Who else can read or replace the token file, if anyone can; None too if there is no such file."""
    file = token_file()
    if file is None or not file.is_file():
        return None
    status, folder = file.stat(), file.parent.stat()
    for owner in {status.st_uid, folder.st_uid} - {0, os.getuid()}:
        return Exposure(file, f"belongs to user {owner}", "delete it; the next run creates another one")
    if status.st_mode & _OTHERS:
        reason = f"can be read by other users (mode {stat.S_IMODE(status.st_mode):04o})"
        return Exposure(file, reason, f"chmod 600 {file}, and renew the token if you do not trust them")
    if folder.st_mode & _OTHERS_WRITE:
        return Exposure(file, "can be replaced by other users", f"chmod go-w {file.parent}")
    return None

"""Errors that a user can act on."""

from __future__ import annotations

from segray.pipelines.io.uris import redacted


class UserError(Exception):
    """Something that the user can repair: printed as one line, without a traceback or a secret.

    Args:
        message: what is wrong, where, and what is allowed.
        exit_code: status of the command. 2: bad input or configuration, 3: too many bad images,
            4: the output is in use by another run.
    """

    def __init__(self, message: str, *, exit_code: int = 2) -> None:
        super().__init__(redacted(message))
        self.exit_code = exit_code


class NoImageError(UserError):
    """A source of images has none: it may be another folder that is meant."""

"""Parts of messages."""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """The first line of an error's text, without blanks around; the error's type where it has none."""
    text = str(error).strip()
    return text.splitlines()[0].rstrip() if text else type(error).__name__

"""Text that may come from anyone, as it may be printed and shown."""

from __future__ import annotations

from unicodedata import category

import click

from segray.pipelines.io.uris import redacted

_FORMULA = frozenset("=+-@\uff1d\uff0b\uff0d\uff20\u2212")
"""What a formula starts with, in full width too."""


def visible(text: str) -> str:
    """Escape control characters, direction marks and broken bytes."""
    return "".join(c if c.isprintable() or category(c) == "Zs" else ascii(c)[1:-1] for c in text)


def echo(text: object, *, err: bool = False, nl: bool = True) -> None:
    """Print a text, each of its lines as `shown`; what commands print goes through here.

    Args:
        text: of any number of lines.
        err: on stderr.
        nl: end the last line.
    """
    click.echo("\n".join(map(shown, str(text).split("\n"))), err=err, nl=nl)


def shown(line: str) -> str:
    """A line without keys, and without escape sequences of quoted files, which a terminal would obey."""
    return visible(redacted(line))


def csv_text(cell: object) -> object:
    """A cell of a CSV file: spreadsheets run a text that starts like a formula, so it gets a ' in front."""
    if not isinstance(cell, str):
        return cell
    # csv does not quote a lone carriage return, and no reader takes it.
    text = cell.replace("\r", "\\r")
    starts = text.startswith("\t") or _first(text) in _FORMULA
    return f"'{text}" if starts and not _is_number(text) else text


def _first(text: str) -> str:
    """The first character that can be seen: spreadsheets skip what stands before it."""
    return next((c for c in text if not c.isspace() and category(c) not in {"Cc", "Cf"}), "")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

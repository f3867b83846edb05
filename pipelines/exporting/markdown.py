"""Tables of Markdown for the cards of exports; names may be anyone's."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from segray.pipelines.io.uris import redacted


def cell(text: str) -> str:
    """Text that stays text in a table of Markdown, without the secrets of its URIs."""
    shown = html.escape(" ".join(redacted(text).split()))
    return "".join(f"\\{c}" if c in "|`*_[]\\~!" else c for c in shown)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; its cells are escaped, its head is not."""
    lines = [head, ["---"] * len(head), *([cell(text) for text in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

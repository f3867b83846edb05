"""Text that may come from anyone, as it may be printed and shown."""

from __future__ import annotations

from unicodedata import category


def visible(text: str) -> str:
    """Escape control characters, direction marks and broken bytes."""
    return "".join(c if c.isprintable() or category(c) == "Zs" else ascii(c)[1:-1] for c in text)

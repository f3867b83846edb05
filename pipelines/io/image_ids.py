"""image_id: an image's path under its root, safe to print on one line and to make a path of again."""

from __future__ import annotations

import re
import unicodedata

from segray.pipelines.errors import UserError

MAX_LENGTH, MAX_PARTS = 8192, 100
"""Characters and parts of an image_id: what compares paths keeps each of their ends."""
# What `escape_name` writes for a byte; such text in a name must itself be escaped.
_ESCAPED = re.compile(r"%(?=[01][0-9A-F]|25|7F|[89A-F][0-9A-F])")


def escape_name(name: str) -> str:
    """A file's name as part of an image_id: one line of UTF-8, different for different names.

    Control characters, line separators and bytes that are not UTF-8 become %XX. To keep names distinct, a "%"
    that is already followed by such a number becomes %25. All other names stay unchanged.
    """
    if name.isascii() and name.isprintable() and "%" not in name:
        return name
    return "".join(_percent(c) if _breaks_lines(c) else c for c in _ESCAPED.sub("%25", name))


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogateescape"))


def check_image_id(image_id: str, where: str) -> None:
    """Refuse an id that could leave a folder when it becomes a path, or break a line, or that is too long.

    Raises:
        UserError: names `where` the id is, the id and what is allowed.
    """
    length, count = len(image_id), image_id.count("/") + 1
    if length > MAX_LENGTH or count > MAX_PARTS:
        allowed = f"{MAX_LENGTH} characters, {MAX_PARTS} parts"
        raise UserError(
            f"{where}: image_id {image_id[:100]!r}... has {length} characters in {count} parts; "
            f"allowed: at most {allowed}"
        )
    unsafe = any(part in {"", ".", ".."} for part in image_id.split("/"))
    if unsafe or (not image_id.isprintable() and any(map(_breaks_lines, image_id))):
        allowed = "a relative path, / between its parts, without '..', '.', empty parts or control characters"
        raise UserError(f"{where}: image_id {image_id!r} is refused; allowed: {allowed}")


def _breaks_lines(character: str) -> bool:
    """Whether a character is a control character, a line separator, or half of one (undecodable bytes)."""
    return unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"}

"""URIs of images inside a file, such as `FILE#tar=OFFSET+SIZE`: one is opened without reading the others.

An image's own file never has such a name: it ends with an image's extension.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from segray.pipelines.io.uris import display

_MEMBER = re.compile(r"(.+)#(tar|zip|parquet)=([0-9]{1,18}(?:\+[0-9]{1,18})*)", re.DOTALL)
_NUMBERS = {"tar": 2, "zip": 4, "parquet": 3}


class Member(NamedTuple):
    """A part of a file.

    Attributes:
        file: its path or URI.
        kind: tar, zip or parquet.
        numbers: where the image is in it: tar: offset, size; zip: offset of its header, packed size, size,
            CRC-32; parquet: column, row group, row in the group.
    """

    file: str
    kind: str
    numbers: tuple[int, ...]


def member_uri(file: str, kind: str, *numbers: int) -> str:
    """The URI of a part of a file, see `Member`."""
    return f"{file}#{kind}={'+'.join(map(str, numbers))}"


def parse_member(uri: str) -> Member | None:
    """The part of a file that a URI names; None for the URI of a whole file."""
    match = _MEMBER.fullmatch(uri) if "#" in uri else None
    if match is None:
        return None
    numbers = tuple(map(int, match[3].split("+")))
    return Member(match[1], match[2], numbers) if len(numbers) == _NUMBERS[match[2]] else None


def display_part(uri: str, name: str) -> str:
    """A file for messages: its URI; or of a part of a file, its name there and the file."""
    member = parse_member(uri)
    return display(uri) if member is None else f"{display(name)} in {display(member.file)}"


def split_member(uri: str) -> tuple[str, str]:
    """The file that a URI names, and which part of it as text; "" for all of it."""
    member = parse_member(uri)
    return (uri, "") if member is None else (member.file, uri.removeprefix(member.file))

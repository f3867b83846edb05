"""One correction: what it may hold, and how it becomes a row of a table and back."""

from __future__ import annotations

import getpass
import re
import secrets
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, cast, get_args

import pyarrow as pa

from segray.models.rle import MAX_COUNTS, checked_runs
from segray.pipelines.io.label_png import MAX_LABEL_PIXELS
from segray.pipelines.printing import visible

Kind = Literal["name", "erase", "merge", "split", "paint", "good", "undo"]
KINDS: tuple[Kind, ...] = get_args(Kind)

MAX_SEGMENTS = 1 << 16
"""Segments that one correction may name."""
MAX_TEXT = 200
"""Characters of a person's name."""

_KEY = re.compile(r"[0-9]{8}T[0-9]{12}-[0-9a-f]{8}")
_TIME = "%Y%m%dT%H%M%S%f"
_TIME_LENGTH = len("20261127T115703123456")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_WITH_SEGMENTS = {"name", "erase", "merge", "split"}
_WITH_MASK = {"split", "paint"}
_WITH_CLASS = {"name", "merge", "split", "paint"}

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("image_id", pa.string()),
        ("sha256", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("kind", pa.string()),
        ("segments", pa.list_(pa.field("element", pa.int32()))),
        ("class_name", pa.string()),
        ("mask", pa.binary()),
        ("who", pa.string()),
        ("when", pa.timestamp("us", "UTC")),
        ("target", pa.string()),
    ]
)
"""Of a part of the log: one row per correction."""


def now() -> datetime:
    """The time, UTC."""
    return datetime.now(UTC)


def new_key(after: str = "") -> str:
    """A key of now: unique, and above all keys of earlier times.

    Args:
        after: a key that it must be above, whatever the clocks of two machines say; "": none.
    """
    text, suffix = now().strftime(_TIME), secrets.token_hex(4)
    return following_key(after, suffix) if text <= after[:_TIME_LENGTH] else f"{text}-{suffix}"


def following_key(key: str, suffix: str) -> str:
    """The key a microsecond after another one, with eight hexadecimal digits of the caller's."""
    return f"{(key_time(key) + timedelta(microseconds=1)).strftime(_TIME)}-{suffix}"


def key_time(key: str) -> datetime:
    """When a key was made, UTC."""
    return datetime.strptime(key[:_TIME_LENGTH], _TIME).replace(tzinfo=UTC)


def this_user() -> str:
    """The name of who runs this process."""
    try:
        return getpass.getuser()[:MAX_TEXT]
    except (OSError, KeyError, ImportError):  # a user id without a name, as in containers
        return "unknown"


@dataclass(frozen=True, kw_only=True)
class Correction:
    """What one person changed in one image. Corrections take effect in the order of their keys.

    `name` gives segments a class, `merge` makes them one segment of a class, `erase` makes them background.
    `split` takes the part of a segment inside `mask` out of it, with a class of its own. `paint` gives the
    pixels of `mask` a class. `good`: all that the image shows is right. `undo` takes `target` back, also
    another undo.

    Attributes:
        key: as of `new_key`.
        image: its image_id.
        image_digest: SHA-256 of the image that it was made on; None where the label set has none.
        size: (height, width) of that image, in pixels.
        kind: what was done.
        segments: segment_ids: one for `split`, at least one for `name`, `erase` and `merge`.
        class_name: by name, so that it fits a label set with other ids; None: unknown, pixels are ignored.
        mask: COCO's compressed run lengths over the whole image.
        who: the person.
        when: UTC.
        target: key of the correction that `undo` takes back; of the same image, below this one's key.
    """

    key: str = field(default_factory=new_key)
    image: str
    image_digest: str | None = None
    size: tuple[int, int]
    kind: Kind
    segments: tuple[int, ...] = ()
    class_name: str | None = None
    mask: bytes | None = field(default=None, repr=False)
    who: str = field(default_factory=this_user)
    when: datetime = field(default_factory=now)
    target: str | None = None

    def check(self) -> None:
        """Refuse what no command writes.

        Raises:
            ValueError: one line, without the key.
        """
        _check_identity(self)
        _check_content(self)


def _check_identity(one: Correction) -> None:
    if not _is_key(one.key):
        raise ValueError(f"key {_shown(one.key)} is none")
    if not isinstance(one.image, str) or not one.image:
        raise ValueError("no image")
    if one.image_digest is not None and not _DIGEST.fullmatch(one.image_digest):
        raise ValueError(f"sha256 {_shown(one.image_digest)} is none")
    height, width = one.size
    if not (_is_count(height) and _is_count(width)) or height * width > MAX_LABEL_PIXELS:
        raise ValueError(f"an image of {_shown(width)}x{_shown(height)} pixels")
    if not isinstance(one.who, str) or not 0 < len(one.who) <= MAX_TEXT:
        raise ValueError(f"who is no name of at most {MAX_TEXT} characters")
    if not isinstance(one.when, datetime) or one.when.tzinfo is None:
        raise ValueError("when is no time with a zone")


def _check_content(one: Correction) -> None:
    if one.kind not in KINDS:
        raise ValueError(f"kind {_shown(one.kind)} (allowed: {', '.join(KINDS)})")
    for name, there, wanted in (
        ("segments", bool(one.segments), one.kind in _WITH_SEGMENTS),
        ("mask", one.mask is not None, one.kind in _WITH_MASK),
        ("target", one.target is not None, one.kind == "undo"),
    ):
        if there != wanted:
            raise ValueError(f"{one.kind} {'without' if wanted else 'with'} {name}")
    if one.class_name is not None and one.kind not in _WITH_CLASS:
        raise ValueError(f"{one.kind} with a class")
    numbers = one.segments
    if len(numbers) > MAX_SEGMENTS or not all(type(n) is int and 0 <= n < 1 << 31 for n in numbers):
        raise ValueError(f"segments that are not at most {MAX_SEGMENTS} segment_ids")
    if one.kind == "split" and len(numbers) != 1:
        raise ValueError(f"split of {len(numbers)} segments (allowed: 1)")
    if one.mask is not None:
        if len(one.mask) > MAX_COUNTS:
            raise ValueError(f"a mask of {len(one.mask)} bytes (allowed: at most {MAX_COUNTS})")
        checked_runs(one.mask, *one.size)
    if one.target is not None and not (_is_key(one.target) and one.target < one.key):
        raise ValueError(f"undo of {_shown(one.target)}, which is no earlier correction")


def _is_key(value: object) -> bool:
    return isinstance(value, str) and _KEY.fullmatch(value) is not None


def _is_count(value: object) -> bool:
    return type(value) is int and value > 0


def _shown(value: object) -> str:
    return visible(str(value))[:80]


def by_image(corrections: Iterable[Correction]) -> dict[str, list[Correction]]:
    """The corrections of each image, by image_id in order."""
    grouped: dict[str, list[Correction]] = defaultdict(list)
    for one in corrections:
        grouped[one.image].append(one)
    return dict(sorted(grouped.items()))


def undone(corrections: Iterable[Correction]) -> set[str]:
    """Keys of the corrections that are taken back; an undo that is taken back itself takes nothing back."""
    gone: set[str] = set()
    for one in sorted(corrections, key=lambda one: one.key, reverse=True):
        if one.kind == "undo" and one.key not in gone and one.target is not None:
            gone.add(one.target)
    return gone


def effective(corrections: Iterable[Correction]) -> list[Correction]:
    """Those that count, by key: without `undo`, and without what is undone."""
    found = list(corrections)
    gone = undone(found)
    return sorted((c for c in found if c.kind != "undo" and c.key not in gone), key=lambda c: c.key)


def to_table(corrections: Sequence[Correction]) -> pa.Table:
    """A table of `SCHEMA`."""
    rows = []
    for one in corrections:
        row = asdict(one)
        height, width = row.pop("size")
        row |= {
            "image_id": row.pop("image"),
            "sha256": row.pop("image_digest"),
            "height": height,
            "width": width,
        }
        rows.append(row)
    return pa.Table.from_pylist(rows, SCHEMA)


def from_row(row: Mapping[str, Any]) -> Correction:
    """The correction of a row of `SCHEMA`, checked.

    Raises:
        ValueError: as `Correction.check`, with the key.
    """
    one = Correction(
        key=row["key"],
        image=row["image_id"],
        image_digest=row["sha256"],
        size=(row["height"], row["width"]),
        kind=cast("Kind", row["kind"]),
        segments=tuple(row["segments"] or ()),
        class_name=row["class_name"],
        mask=row["mask"],
        who=row["who"],
        when=row["when"],
        target=row["target"],
    )
    try:
        one.check()
    except ValueError as problem:
        raise ValueError(f"correction {_shown(one.key)}: {problem}") from None
    return one

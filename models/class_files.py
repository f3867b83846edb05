"""Class lists as files: plain text, and those of CVAT, labelme, YOLO, COCO and Hugging Face.

Each reader returns lines as a plain text file has them: a name, or `name: prompt, prompt`.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date

from segray.models.plain_yaml import read_plain_yaml

_CVAT_HEADER = re.compile(r"#\s*label\s*:\s*color_rgb", re.IGNORECASE)
_CVAT_LINE = re.compile(r"([^:]+):(?:\s*\d+\s*,\s*\d+\s*,\s*\d+\s*)?:[^:]*:[^:]*")
_COLOUR = re.compile(r"\s*\d{1,3}\s*,\s*\d{1,3}\s*,\s*\d{1,3}\s*")
_NUMBERED = re.compile(r"(\d+)\s*[:,;\t ]\s*(.+)")
_COLOUR_FIRST = re.compile(r"\d+\s+\d+\s+\d+\s+(\D.*)")
_IGNORED = "__ignore__"
"""The first line of labelme's files: pixels without an answer, not a class."""
_MOST_LINES = 1 << 17
_NAME_COLUMNS = ("name", "class", "label", "class_name", "category")
_ID_COLUMNS = ("id", "index", "class_id", "label_id", "value")

READ = "plain text, CVAT's labelmap.txt, labelme's labels.txt, YOLO's data.yaml, CSV and JSON"
ENDINGS = (".txt", ".yaml", ".yml", ".json", ".csv", ".names")


def class_lines(text: str, name: str) -> list[str]:
    """The lines of a class file, in the order of its ids.

    Args:
        text: the content.
        name: the file, whose ending tells YAML, JSON and CSV.

    Raises:
        ValueError: it lists no classes in a form that is known; the message has no file name.
    """
    ending = name.lower().rpartition(".")[2]
    reader: Callable[[str], list[str]] = {
        "yaml": _read_yaml,
        "yml": _read_yaml,
        "json": _read_json,
        "csv": _read_csv,
    }.get(ending, _read_text)
    lines = [line for line in reader(text) if line.strip() and line.strip() != _IGNORED]
    if len(lines) > _MOST_LINES:
        raise ValueError(f"{len(lines)} lines (allowed: at most {_MOST_LINES})")
    odd = next((line for line in lines if line.lstrip()[0] in "<{["), None)
    if odd is not None:
        raise ValueError(f"{odd[:60]!r} is not a class name; read are {READ}")
    return lines


def _read_text(text: str) -> list[str]:
    stripped = [line.strip() for line in text.splitlines() if line.strip()]
    lines = [line for line in stripped if not line.startswith("#")]
    cvat = any(_CVAT_HEADER.match(line) for line in stripped)
    if cvat or (lines and all(_CVAT_LINE.fullmatch(line) for line in lines)):
        return [line.partition(":")[0].strip() for line in lines]
    if len(lines) == 1 and "," in lines[0] and ":" not in lines[0]:
        # As on the command line.
        return [name.strip() for name in lines[0].split(",")]
    if lines and all(match := [_NUMBERED.fullmatch(line) for line in lines]):
        return _numbered(lines, [(int(m[1]), m[2].strip()) for m in match if m])
    return [_without_colour(line) for line in lines]


def _numbered(lines: Sequence[str], pairs: Sequence[tuple[int, str]]) -> list[str]:
    """Names of lines that start with a number: an id, or the first value of a colour."""
    colours = [_COLOUR_FIRST.fullmatch(line) for line in lines]
    if all(colours):
        return [match[1].strip() for match in colours if match]
    return _by_id(pairs)


def _by_id(pairs: Sequence[tuple[int, str]]) -> list[str]:
    """Names in the order of their ids, which must be 0, 1, 2, ... or 1, 2, 3, ...

    Ids from 1 on leave 0 to the background, which the class list adds by itself.
    """
    ids = [class_id for class_id, _ in sorted(pairs)]
    if ids not in (list(range(len(ids))), list(range(1, len(ids) + 1))):
        raise ValueError(f"its ids are {', '.join(map(str, ids[:8]))}; allowed: 0, 1, 2, ... without a gap")
    names = [name for _, name in sorted(pairs)]
    return names if ids[0] == 0 or names[0].strip("_").lower() == "background" else ["background", *names]


def _without_colour(line: str) -> str:
    """`house: 170,30,30` without its colour."""
    name, _, rest = line.partition(":")
    return name.strip() if _COLOUR.fullmatch(rest) else line


def _read_yaml(text: str) -> list[str]:
    return _by_id(list(names_by_id(read_plain_yaml(text)).items()))


def names_by_id(content: object) -> dict[int, str]:
    """Class names by their ids, as in YOLO's data.yaml.

    Args:
        content: of the file, plain values.

    Raises:
        ValueError: it has none.
    """
    names = content.get("names") if isinstance(content, Mapping) else content
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, Mapping) or not names or not all(isinstance(key, int) for key in names):
        raise ValueError("no list of class names; YOLO's data.yaml has one under `names`")
    return {key: _plain(name) for key, name in names.items()}


def _plain(name: object) -> str:
    # Aliases make a list of lists as long as any, in a few lines.
    if not isinstance(name, str | int | float | date | None):
        raise ValueError("a name that is a list or a mapping")
    return str(name)


def _read_json(text: str) -> list[str]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None
    for key in ("categories", "id2label", "names", "labels", "classes"):
        if isinstance(content, Mapping) and key in content:
            content = content[key]
            break
    names = _names_of(content)
    if not names:
        raise ValueError("no list of class names; known: a list of names, COCO's categories, id2label")
    return names


def _names_of(content: object) -> list[str] | None:
    """Names in a list of names, a list of records with a name (and id), or a mapping of ids and names."""
    if isinstance(content, list) and all(isinstance(name, str) for name in content):
        return content
    if isinstance(content, list) and all(isinstance(r, Mapping) and "name" in r for r in content):
        return [str(record["name"]) for record in sorted(content, key=_record_id)]
    if isinstance(content, Mapping) and all(str(key).isdigit() for key in content):
        return _by_id([(int(key), str(name)) for key, name in content.items()])
    if isinstance(content, Mapping) and all(type(class_id) is int for class_id in content.values()):
        return _by_id([(class_id, str(name)) for name, class_id in content.items()])
    return None


def _record_id(record: Mapping[str, object]) -> int:
    # CVAT's records have no ids; sorting is stable.
    class_id = record.get("id", 0)
    return class_id if isinstance(class_id, int) else 0


def _read_csv(text: str) -> list[str]:
    try:
        rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines()) if any(row)]
    except csv.Error as error:
        raise ValueError(f"not CSV ({error})") from None
    if not rows:
        return []
    head = [cell.lower() for cell in rows[0]]
    names = next((head.index(column) for column in _NAME_COLUMNS if column in head), None)
    if names is None and len(head) > 1:
        raise ValueError(f"no column of names; known: {', '.join(_NAME_COLUMNS)}")
    if names is None:
        return [row[0] for row in rows]
    ids = next((head.index(column) for column in _ID_COLUMNS if column in head), None)
    try:
        if ids is None:
            return [row[names] for row in rows[1:]]
        return _by_id([(int(row[ids]), row[names]) for row in rows[1:]])
    except (ValueError, IndexError) as error:
        raise ValueError(f"its columns cannot be read ({error})") from None

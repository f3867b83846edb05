"""Split files: one image a line, and where it has one its mask, as UniMatch writes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.training.data.samples import DataSet, Item, refuse

_SPLIT = "a split file"
_AMOUNT = f"{_SPLIT}, a count such as 92, a share such as 1/16"
_ALLOWED = {
    "data.labelled": f"{_AMOUNT}, all",
    "data.unlabelled": _SPLIT,
    "data.validation": _AMOUNT,
    "data.root": "a list of images",
}


def write_split(path: str, items: Iterable[Item]) -> None:
    """Write `image mask` lines, paths under the data set's root; images without a mask stand alone.

    A tab parts the two where a path holds a space, as `read_split` expects it.

    Args:
        path: local path or URI.

    Raises:
        UserError: it cannot be written.
    """
    lines = [_line(item.image_id, item.mask_id or "") for item in items]
    storage.write_atomic(path, "".join(f"{line}\n" for line in lines).encode())


def _line(image: str, mask: str) -> str:
    return f"{image}\t{mask}" if " " in image + mask else f"{image} {mask}".rstrip()


def read_split(path: str, data: DataSet, key: str) -> tuple[Item, ...]:
    """The images of a split file, in its order.

    An image is named by its path under the root, by the end of it (`0001.png` for `images/train/0001.png`),
    with or without its suffix, so that VOC's ImageSets will do, or by a longer path that ends with it. A mask
    that is named replaces the image's own.

    Args:
        path: local path or URI.
        data: what the images are looked up in.
        key: the configuration key that names the file.

    Raises:
        UserError: no such file, nothing in it, or lines that name no image, several, one twice or no mask.
    """
    text = _read(path, key)
    names = Names(data.items)
    items: dict[str, Item] = {}
    problems = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            item = _item(line, names, data)
            if item.image_id in items:
                raise UserError(f"image {item.image_id} stands twice; each once")
            items[item.image_id] = item
        except UserError as problem:
            problems.append(f"{key}={path}, line {number}: {problem}")
    refuse(problems, "bad lines in a split file")
    if not items:
        raise UserError(f"{key}={path}: no image in it; one a line, and its mask after a space")
    return tuple(items.values())


def _read(path: str, key: str) -> str:
    try:
        return storage.read_bytes(path).decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{key}: no file {storage.display(path)!r} (allowed: {_ALLOWED[key]})") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{key}: cannot read {storage.display(path)!r}: {error}") from None


def _item(line: str, names: Names, data: DataSet) -> Item:
    # A line of UniMatch has one space; what has more holds a name with spaces and no tab: an image alone.
    apart = line.split("\t") if "\t" in line else line.strip().split(" ")
    image, mask = (apart[0], apart[1].strip()) if len(apart) == 2 else (line.strip(), "")
    item = data.items[names.find(image)]
    if not mask:
        return item
    found = data.with_mask(item, mask)
    if found is None:
        raise UserError(f"no mask {mask} in {storage.display(data.root)}")
    return found


class Names:
    """Finds an image by its id, by the end of its id, or by a longer path."""

    def __init__(self, items: Mapping[str, Item]) -> None:
        self._items = items
        self._ends: dict[str, list[str]] | None = None

    def find(self, name: str) -> str:
        """The image_id that is meant.

        Raises:
            UserError: none is, or several are.
        """
        if name in self._items:
            return name
        parts = PurePosixPath(name).parts
        longer = ("/".join(parts[i:]) for i in range(1, len(parts)))
        found = next(([end] for end in longer if end in self._items), None) or self._by_end(name)
        if not found:
            raise UserError(f"no image {name} in the data set")
        if len(found) > 1:
            raise UserError(f"image {name} could be {found[0]} or {found[1]}; write more of its path")
        return found[0]

    def _by_end(self, name: str) -> list[str]:
        if self._ends is None:
            self._ends = {}
            for image_id in self._items:
                for end in _ends(image_id):
                    self._ends.setdefault(end, []).append(image_id)
        return self._ends.get(name, [])


def _ends(image_id: str) -> Iterable[str]:
    """Every end of a path, with and without the suffix; a set, as a name may have no suffix."""
    parts = image_id.split("/")
    ends = {"/".join(parts[i:]) for i in range(len(parts))}
    return ends | {str(PurePosixPath(end).with_suffix("")) for end in ends}

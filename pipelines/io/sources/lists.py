"""Lists of images: a text file with one path or URI per line, or a CSV file with a column of them.

Anyone may have written a list: its rows name files below its own folder or `image.roots`, as a manifest's do.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.image_ids import check_image_id, escape_name
from segray.pipelines.io.listing import file_ref, is_image
from segray.pipelines.io.manifest import ImageRef
from segray.pipelines.io.received import absolute_uri, check_received_uri, root_of
from segray.pipelines.io.sources.tables import BY_NAME, MASK_NAMES
from segray.pipelines.io.uris import local_name, without_scheme

COLUMNS = ("image", "uri", "path", "file", "file_name", "filename", "image_path", "url")
MASK_COLUMNS = ("mask_uri", "mask_path", "mask_file", "mask_filename", "label_path", *MASK_NAMES)
_ID = "image_id"
_MAX_BYTES = 1 << 30
_MAX_TEXT = 8192


class ListSource:
    """The images that a list names; those on object stores and hosts are not looked at.

    An image's id is its path below the folder that allows it, or its `image_id` in a CSV file.

    Args:
        name: path or URI of the list.
        roots: folders and files of the user, see `received.check_received_uri`.
        mask: column of their masks in a CSV file, or `BY_NAME`; None: masks are not looked for. In a text
            file an image's mask follows it after a tab or a space.
    """

    def __init__(self, name: str, roots: Sequence[str], mask: str | None = None) -> None:
        self.name, self._roots, self._mask = name, roots, mask

    def list(self) -> Iterator[ImageRef]:
        """The images, ascending by image_id.

        Raises:
            UserError: the list cannot be read, or a row names another place or has the id of another.
        """
        refs: dict[str, ImageRef] = {}
        for number, uri, image_id, mask in self._rows():
            try:
                ref = self._ref(uri, image_id, mask)
                if ref.image_id in refs:
                    raise UserError(f"image_id {ref.image_id!r} is listed twice; each must be unique")
            except UserError as error:
                where = f"{storage.display(self.name)}, line {number}"
                raise UserError(f"images: {where}: {error}") from None
            refs[ref.image_id] = ref
        return iter(sorted(refs.values(), key=lambda ref: ref.image_id))

    def _ref(self, uri: str, image_id: str | None, mask: str | None) -> ImageRef:
        whole = self._checked(uri)
        chosen = image_id or _id_below(whole, root_of(whole, self._roots) or "")
        check_image_id(chosen, "image_id")
        ref = file_ref(local_name(whole), chosen) if storage.is_local(whole) else ImageRef(chosen, whole)
        return replace(ref, mask_uri=self._checked(mask)) if mask else ref

    def _checked(self, uri: str) -> str:
        return check_received_uri(absolute_uri(uri, self.name), self._roots)

    def _rows(self) -> Iterator[tuple[int, str, str | None, str | None]]:
        """Number, path and, if it has them, id and mask of each row."""
        text = self._text()
        if not storage.split_query(self.name)[0].lower().endswith(".csv"):
            for number, line in enumerate(text.splitlines(), 1):
                if line.strip():
                    yield number, *self._fields(line)
            return
        reader = csv.DictReader(io.StringIO(text, newline=""))
        names = {(name or "").strip().lower(): name for name in reader.fieldnames or ()}
        mask = self._mask_column(names)
        column = next((names[name] for name in COLUMNS if name in names), mask)
        mask = None if mask == column else mask
        if column is None:
            shown = ", ".join(list(names)[:8])
            raise UserError(
                f"images: {storage.display(self.name)} has no column of images (it has {shown}; "
                f"allowed: {', '.join(COLUMNS)})"
            )
        try:
            for row in reader:
                if uri := (row.get(column) or "").strip():
                    cells = (row.get(name or "") for name in (names.get(_ID, _ID), mask))
                    image_id, mask_uri = ((cell or "").strip() or None for cell in cells)
                    yield reader.line_num, uri, image_id, mask_uri
        except csv.Error as error:
            raise UserError(f"images: {storage.display(self.name)}: not CSV ({error})") from error

    def _fields(self, line: str) -> tuple[str, None, str | None]:
        image, mask = split_fields(line.lstrip())
        if self._mask is None or not mask or not is_image(image):
            return line.strip(), None, None
        return image, None, mask

    def _mask_column(self, names: Mapping[str, str]) -> str | None:
        """The column of masks; None without one.

        Raises:
            UserError: there is none of the name that the user gave.
        """
        if self._mask is None:
            return None
        if self._mask != BY_NAME and self._mask.lower() not in names:
            where = f"images: {storage.display(self.name)}"
            raise UserError(f"{where}: mask_column={self._mask} is not there (it has {', '.join(names)})")
        wanted = (self._mask.lower(),) if self._mask != BY_NAME else MASK_COLUMNS
        return next((names[name] for name in wanted if name in names), None)

    def _text(self) -> str:
        where = storage.display(self.name)
        try:
            text = storage.read_bytes(self.name, _MAX_BYTES).decode("utf-8-sig")
        except FileNotFoundError:
            raise UserError(f"images: no such path: {where}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"images: {where} cannot be read as UTF-8 text ({error})") from None
        if any(len(line) > _MAX_TEXT for line in text.splitlines()):
            raise UserError(f"images: {where} is not a list: a line has more than {_MAX_TEXT} characters")
        return text


def split_fields(line: str) -> tuple[str, str]:
    """The image of a line of a list or a split file, and its mask or ""."""
    # A line of UniMatch has one space. With more spaces and no tab, it is one name that contains spaces.
    # A tab at the end says that such a name has no mask.
    fields = line.split("\t") if "\t" in line else line.strip().split(" ")
    return (fields[0], fields[1].strip()) if len(fields) == 2 else (line.strip(), "")


def _id_below(uri: str, root: str) -> str:
    """The path of a file below a folder; the name of a file that is itself a root."""
    if storage.is_local(uri):
        path, folder = local_name(uri), local_name(root)
    else:
        path, folder = (without_scheme(storage.split_query(name)[0]) for name in (uri, root))
    folder = folder.rstrip("/") + "/"
    name = path.removeprefix(folder) if path.startswith(folder) else path.rpartition("/")[2]
    return "/".join(escape_name(part) for part in name.split("/"))

"""Lists of images: a text file with one path or URI per line, or a CSV file with a column of them.

Anyone may have written a list: its rows name files below its own folder or `image.roots`, as a manifest's do.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence

from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.image_ids import check_image_id, escape_name
from segray.pipelines.io.listing import file_ref
from segray.pipelines.io.manifest import ImageRef
from segray.pipelines.io.received import absolute_uri, check_received_uri, root_of
from segray.pipelines.io.uris import local_name, without_scheme

COLUMNS = ("image", "uri", "path", "file", "file_name", "filename", "image_path", "url")
_ID = "image_id"
_MAX_BYTES = 1 << 30
_MAX_TEXT = 8192


class ListSource:
    """The images that a list names; those on object stores and hosts are not looked at.

    An image's id is its path below the folder that allows it, or its `image_id` in a CSV file.

    Args:
        name: path or URI of the list.
        roots: folders and files of the user, see `received.check_received_uri`.
    """

    def __init__(self, name: str, roots: Sequence[str]) -> None:
        self.name, self._roots = name, roots

    def list(self) -> Iterator[ImageRef]:
        """The images, ascending by image_id.

        Raises:
            UserError: the list cannot be read, or a row names another place or has the id of another.
        """
        refs: dict[str, ImageRef] = {}
        for number, uri, image_id in self._rows():
            try:
                ref = self._ref(uri, image_id)
                if ref.image_id in refs:
                    raise UserError(f"image_id {ref.image_id!r} is listed twice; each must be unique")
            except UserError as error:
                where = f"{storage.display(self.name)}, line {number}"
                raise UserError(f"images: {where}: {error}") from None
            refs[ref.image_id] = ref
        return iter(sorted(refs.values(), key=lambda ref: ref.image_id))

    def _ref(self, uri: str, image_id: str | None) -> ImageRef:
        whole = check_received_uri(absolute_uri(uri, self.name), self._roots)
        chosen = image_id or _id_below(whole, root_of(whole, self._roots) or "")
        check_image_id(chosen, "image_id")
        if storage.is_local(whole):
            return file_ref(local_name(whole), chosen)
        return ImageRef(chosen, whole)

    def _rows(self) -> Iterator[tuple[int, str, str | None]]:
        """Number, path and, if it has one, id of each row."""
        text = self._text()
        if not storage.split_query(self.name)[0].lower().endswith(".csv"):
            lines = ((number, line.strip(), None) for number, line in enumerate(text.splitlines(), 1))
            yield from (line for line in lines if line[1])
            return
        reader = csv.DictReader(io.StringIO(text, newline=""))
        names = {(name or "").strip().lower(): name for name in reader.fieldnames or ()}
        column = next((names[name] for name in COLUMNS if name in names), None)
        if column is None:
            shown = ", ".join(list(names)[:8])
            raise UserError(
                f"images: {storage.display(self.name)} has no column of images (it has {shown}; "
                f"allowed: {', '.join(COLUMNS)})"
            )
        try:
            for row in reader:
                if uri := (row.get(column) or "").strip():
                    yield reader.line_num, uri, (row.get(names.get(_ID, _ID)) or "").strip() or None
        except csv.Error as error:
            raise UserError(f"images: {storage.display(self.name)}: not CSV ({error})") from error

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


def _id_below(uri: str, root: str) -> str:
    """The path of a file below a folder; the name of a file that is itself a root."""
    if storage.is_local(uri):
        path, folder = local_name(uri), local_name(root)
    else:
        path, folder = (without_scheme(storage.split_query(name)[0]) for name in (uri, root))
    folder = folder.rstrip("/") + "/"
    name = path.removeprefix(folder) if path.startswith(folder) else path.rpartition("/")[2]
    return "/".join(escape_name(part) for part in name.split("/"))

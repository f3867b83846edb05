"""Parquet files with a column of images, as Hugging Face writes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.image_ids import check_image_id, escape_name
from segray.pipelines.io.manifest import ImageRef
from segray.pipelines.io.members import member_uri
from segray.pipelines.io.parquet_cost import check_pages, check_text, is_text
from segray.pipelines.io.parquet_pages import check_footer
from segray.pipelines.io.received import ROOTS_KEY
from segray.pipelines.io.sources.files import Container
from segray.pipelines.io.sources.parts import leaf_of

_NAMES = ("image", "img", "jpg", "png")
MASK_NAMES = (
    *("mask", "masks", "label", "labels", "annotation", "annotations", "segmentation", "segmentation_mask"),
    *("label_map", "seg", "ground_truth", "gt"),
)
"""Of columns of masks, in the order of precedence."""
BY_NAME = ""
"""In place of the name of a column of masks: the first of `MASK_NAMES` that there is."""
_ID = "image_id"
_MAX_ROWS = 1 << 24


def is_manifest(file: str) -> bool:
    """Whether a Parquet file names images and holds none, or is one that cannot be read."""
    try:
        with storage.open_input(file) as source:
            schema = pq.read_schema(source)
    except (OSError, pa.ArrowException, UnicodeDecodeError):  # the last: a column's name is no text
        return True
    return "uri" in schema.names or not _candidates(schema)


class ImageTable(Container):
    """The images in a column of a Parquet file: bytes, or a struct of bytes and path.

    The ids are those of a text column image_id; else the paths, if each row has one of its own; else the
    file's name and the number of the row. Paths are names and nothing else: no file is opened by them, and a
    column without any bytes is refused.

    Args:
        file: as `find_files` gives it.
        column: of the images; None: found by its name or kind.
        mask: column of their masks, or `BY_NAME`; None: masks are not looked for.
    """

    damaged = (ValueError, OverflowError, KeyError)

    def __init__(self, file: storage.StoredFile, column: str | None = None, mask: str | None = None) -> None:
        super().__init__(file)
        self._column, self._mask = column, mask

    def read(self, file: pa.NativeFile) -> Iterator[ImageRef]:
        """The images, in the order of the rows."""
        table = pq.ParquetFile(file)
        schema = table.schema_arrow
        column = schema.get_field_index(_image_column(schema, self.name, self._column))
        mask = self._mask_column(schema, schema.names[column])
        if table.metadata.num_rows > _MAX_ROWS:
            raise ValueError(f"{table.metadata.num_rows} rows (allowed: at most {_MAX_ROWS})")
        check_footer(file.size(), table.metadata)
        for number in (column, mask):
            if number is not None:
                self._check_bytes(file, table, schema.field(number))
        ids = iter(self._ids(file, table, schema.field(column)))
        for group in range(table.num_row_groups):
            for row in range(table.metadata.row_group(group).num_rows):
                uri = member_uri(self.name, "parquet", column, group, row)
                mask_uri = None if mask is None else member_uri(self.name, "parquet", mask, group, row)
                yield ImageRef(next(ids), uri, mtime=self.mtime, mask_uri=mask_uri)

    def _mask_column(self, schema: pa.Schema, image: str) -> int | None:
        """The number of the column of masks; None if there is none, or none is looked for.

        Raises:
            UserError: there is none of the name that the user gave.
        """
        if self._mask is None:
            return None
        names = [name for name in _candidates(schema) if name != image]
        if self._mask != BY_NAME and self._mask not in names:
            where = f"images: {storage.display(self.name)}"
            has = ", ".join(names) or "none"
            raise UserError(f"{where}: mask_column={self._mask} is no column of masks (it has {has})")
        chosen = next((name for name in (self._mask, *MASK_NAMES) if name in names), None)
        return None if chosen is None else int(schema.get_field_index(chosen))

    def _check_bytes(self, file: pa.NativeFile, table: pq.ParquetFile, field: pa.Field) -> None:
        """Refuse a column that holds names of files alone.

        Raises:
            UserError: with the form that names files.
        """
        if not _names_files(field.type) or not _is_empty(table.metadata, field):
            return
        path = next(filter(None, _texts(file, table, f"{field.name}.path")), None)
        if path is not None:
            where = f"images: {storage.display(self.name)}: column {field.name}"
            raise UserError(
                f"{where} has no bytes, only names of files (such as {storage.display(path)[:200]}), which a "
                "table does not open; a .txt or .csv list of them does, below its own folder and "
                f"{ROOTS_KEY}=FOLDER,..."
            )

    def _ids(self, file: pa.NativeFile, table: pq.ParquetFile, image: pa.Field) -> Sequence[str]:
        names = table.schema_arrow.names
        if _ID in names and is_text(table.schema_arrow.field(_ID).type):
            ids = _texts(file, table, _ID)
        elif pa.types.is_struct(image.type) and image.type.get_field_index("path") >= 0:
            ids = _texts(file, table, f"{image.name}.path")
        else:
            ids = []
        if None in ids or "" in ids or max(Counter(ids).values(), default=2) > 1:
            stem = escape_name(storage.split_query(self.name)[0].rpartition("/")[2].removesuffix(".parquet"))
            return [f"{stem}/{row:06d}" for row in range(table.metadata.num_rows)]
        hint = "" if _ID in names else f"; a text column {_ID} gives other ids"
        return [self._safe(str(name), hint) for name in ids]

    def _safe(self, name: str, hint: str) -> str:
        parts = name.removeprefix("./").split("/")
        image_id = "/".join(escape_name(part) for part in parts)
        try:
            check_image_id(image_id, f"images: {storage.display(self.name)}")
        except UserError as error:
            raise UserError(f"{error}{hint}") from None
        return image_id


def _texts(file: pa.NativeFile, table: pq.ParquetFile, leaf: str) -> list[str | None]:
    check_pages(file, table.metadata, [leaf], leaf)
    texts: list[str | None] = []
    for batch in table.iter_batches(columns=[leaf]):
        column = batch.column(0)
        values = column.flatten()[0] if pa.types.is_struct(column.type) else column
        if not is_text(values.type):
            return [None] * table.metadata.num_rows
        check_text(pa.RecordBatch.from_arrays([values.dictionary_encode()], names=[leaf]))
        texts += values.to_pylist()
    return texts


def _image_column(schema: pa.Schema, file: str, wanted: str | None) -> str:
    """The name of the column with the images.

    Args:
        schema: of the file.
        file: its name.
        wanted: the user's choice.

    Raises:
        UserError: there is none, or there are several.
    """
    names = _candidates(schema)
    where = f"images: {storage.display(file)}"
    if wanted is not None:
        if wanted in names:
            return wanted
        what = "no images: bytes, or a struct of bytes and path" if wanted in schema.names else "not there"
        raise UserError(f"{where}: image.column={wanted} is {what} (it has {', '.join(names[:5]) or 'none'})")
    chosen = next((name for name in _NAMES if name in names), None)
    if chosen is None and len(names) == 1:
        return names[0]
    if chosen is not None:
        return chosen
    what = f"several columns that may be ({', '.join(names[:5])})" if names else "no column of bytes"
    raise UserError(f"{where}: no column named image, and {what}; image.column=NAME chooses one")


def _candidates(schema: pa.Schema) -> list[str]:
    """Names of the columns that may hold images; where only masks do, also of those that name files."""
    holding = [field.name for field in schema if _holds_images(field.type)]
    if not set(holding) <= set(MASK_NAMES):
        return holding
    naming = [field.name for field in schema if _names_files(field.type) and field.name not in holding]
    return [*(name for name in naming if name in _NAMES or not holding), *holding]


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.num_fields > 0 and any(f.name == "bytes" and _is_bytes(f.type) for f in kind)
    return _is_bytes(kind)


def _names_files(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) and any(f.name == "path" and is_text(f.type) for f in kind)


def _is_empty(metadata: pq.FileMetaData, image: pa.Field) -> bool:
    """Whether there are rows and none has bytes, as far as the statistics of the column tell."""
    groups = map(metadata.row_group, range(metadata.num_row_groups))
    chunks = (group.column(n) for group in groups for n in range(group.num_columns))
    mine = (chunk for chunk in chunks if chunk.path_in_schema == leaf_of(image))
    counts = ((chunk.statistics, chunk.num_values) for chunk in mine)
    empty = (known is not None and known.null_count == values for known, values in counts)
    return metadata.num_rows > 0 and (not _holds_images(image.type) or all(empty))


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

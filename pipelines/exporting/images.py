"""The image files of an export: copied, linked or left out; only files that the user or a checksum allows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from segray.pipelines.errors import UserError
from segray.pipelines.io import local_files, storage
from segray.pipelines.io.images import ImageProblem
from segray.pipelines.label_set.store import LabelStore
from segray.pipelines.reporting.label_set.samples import Photos

Mode = Literal["copy", "link", "none"]


class ImageFiles:
    """Reads and writes the images of an export.

    Args:
        photos: where they are.
        mode: as `ExportConfig.images`.
        out: folder or URI of the export.
    """

    def __init__(self, photos: Photos, mode: Mode, out: str) -> None:
        self._photos, self._mode, self._out = photos, mode, out

    @property
    def uris(self) -> Mapping[str, str]:
        """Where the images are, by image_id, as far as the label set knows."""
        return self._photos.uris

    def at(self, uris: Mapping[str, str]) -> ImageFiles:
        """The same for images at these locations."""
        return ImageFiles(replace(self._photos, uris=uris), self._mode, self._out)

    def are_in(self, store: LabelStore) -> bool:
        """Whether `read` has the bytes from the label set's rows, as told by its first labelled one."""
        if self._mode != "copy":
            return False
        rows = store.rows(["status", "image.path"])
        return next((row["image"] is not None for row in rows if row["status"] == "ok"), False)

    @property
    def columns(self) -> list[str]:
        """Columns of the labels table that `read` needs."""
        return {"copy": ["image", "sha256"], "link": ["sha256"], "none": []}[self._mode]

    def read(self, row: Mapping[str, Any]) -> bytes | None:
        """The bytes of a row's image; None without images.

        Raises:
            ImageProblem: why they cannot be had.
        """
        if self._mode == "none":
            return None
        return self._photos.read({"image": None, **row})

    def write(self, row: Mapping[str, Any], data: bytes, path: str) -> None:
        """Write or link a file that `read` has read, and so checked.

        Raises:
            ImageProblem: it is no file of this machine, and cannot be linked.
            UserError: it cannot be written.
        """
        uri = storage.join(self._out, *path.split("/"))
        if self._mode == "copy":
            storage.write_atomic(uri, data)
            return
        source = self._photos.uris[row["image_id"]]
        if not storage.is_local(source):
            raise ImageProblem("error", "not a file of this machine: images=copy")
        try:
            local_files.link_atomic(storage.local_path(uri), storage.local_path(source))
        except OSError as error:
            raise storage.write_error(uri, error) from error


def check_mode(mode: Mode, out: str, *, in_shards: bool) -> None:
    """Refuse links where there can be none.

    Raises:
        UserError: names the key and what is allowed.
    """
    if mode != "link":
        return
    if in_shards:
        raise UserError("images: this format holds images in its own files (allowed: copy, none)")
    if not storage.is_local(out):
        raise UserError("images: an object store has no links (allowed: copy, none)")

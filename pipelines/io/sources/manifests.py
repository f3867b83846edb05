"""Manifests: small Parquet files that name images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.manifest import ImageRef, read_received


class ManifestSource:
    """The images that a manifest names, which are below some folders.

    Args:
        name: path or URI of the manifest.
        roots: folders and files of the user, see `received.check_received_uri`.
    """

    def __init__(self, name: str, roots: Sequence[str]) -> None:
        self.name, self._roots = name, roots

    def list(self) -> Iterator[ImageRef]:
        """The images, ascending by image_id; a manifest that is so already is never held in memory.

        Raises:
            UserError: it cannot be read, gives an id twice, or a row names a file anywhere else.
        """
        ids = (ref.image_id for ref in read_received(self.name, self._roots))
        if all(before < after for before, after in pairwise(ids)):
            return read_received(self.name, self._roots)
        refs = sorted(read_received(self.name, self._roots), key=lambda ref: ref.image_id)
        if twice := [a.image_id for a, b in pairwise(refs) if a.image_id == b.image_id]:
            where = f"images: {storage.display(self.name)}"
            raise UserError(f"{where}: image_id {twice[0]!r} is in it twice; each must be unique")
        return iter(refs)

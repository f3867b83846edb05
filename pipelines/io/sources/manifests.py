"""Manifests: small Parquet files that name images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

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
            UserError: it cannot be read, or a row names a file anywhere else.
        """
        ids = (ref.image_id for ref in read_received(self.name, self._roots))
        if all(before <= after for before, after in pairwise(ids)):
            return read_received(self.name, self._roots)
        return iter(sorted(read_received(self.name, self._roots), key=lambda ref: ref.image_id))

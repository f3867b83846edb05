"""What all kinds of image sources have in common."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from segray.pipelines.io.manifest import ImageRef


class Source(Protocol):
    """A place with images: it lists them with their ids. `reading.read_allowed` opens one by its uri.

    Attributes:
        name: of the folder or the file, for messages.
    """

    name: str

    def list(self) -> Iterator[ImageRef]:
        """The images, ascending by image_id, without reading them.

        Raises:
            UserError: at once, where there is nothing, or it cannot be read.
        """
        ...

"""Images to label, and how tests of stages read them."""

from __future__ import annotations

from pathlib import Path

from segray.pipelines.annotation.stages.read import ReadImages
from segray.pipelines.engine.guard import Guard
from segray.pipelines.engine.ledger import Ledger
from segray.pipelines.io.images import ImageOptions
from tests.pipelines.plain_runs import draw_scenes

GUARD = Guard(Ledger(), max_tries=3)


def scenes_and_bad_files(folder: Path) -> Path:
    """Three scenes of different sizes, a broken image and a link out of the folder."""
    draw_scenes(folder, 3)
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "link.png").symlink_to(folder.parent)
    return folder


def reading(options: ImageOptions | None = None, *, embed_images: bool = False) -> ReadImages:
    return ReadImages(options or ImageOptions(), embed_images, GUARD)

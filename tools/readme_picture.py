"""Draw the README's picture from a label set: image | zero-shot label | truth, a few scenes side by side.

python -m tools.readme_picture demo/labels demo/picture-book/masks docs/picture-book.png
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segray.models.label_space import label_space
from segray.pipelines.io.images import ImageOptions, decode
from segray.pipelines.io.label_png import decode_gray_png
from segray.pipelines.io.manifest import read_manifest
from segray.pipelines.io.sources import read_image
from segray.pipelines.label_set.store import LabelStore
from segray.pipelines.masks.folder import MaskFolder

GAP = 6


@click.command(help=__doc__)
@click.argument("labels")
@click.argument("masks")
@click.argument("out", type=Path)
@click.option("--scenes", default=6, show_default=True)
def main(labels: str, masks: str, out: Path, scenes: int) -> None:
    """Write the picture: every (total / scenes)-th scene by id, so that nobody chose them."""
    palette = label_space("picture_book").palette()
    uris = {ref.image_id: ref.uri for ref in read_manifest(f"{labels}/manifest.parquet")}
    rows = sorted(LabelStore(labels).rows(["image_id", "label"]), key=lambda row: row["image_id"])
    truth = MaskFolder(masks)
    chosen = rows[:: max(1, len(rows) // scenes)][:scenes]
    matches = truth.match(row["image_id"] for row in chosen)
    columns = []
    for row in chosen:
        image_id = row["image_id"]
        image = decode(read_image(uris[image_id]), ImageOptions())
        label = decode_gray_png(row["label"]["bytes"])
        mask = decode_gray_png(read_image(f"{masks}/{matches[image_id]}"))
        columns.append(_stack([image, palette[label], palette[mask]], axis=0))
    Image.fromarray(_stack(columns, axis=1)).save(out, optimize=True)


def _stack(tiles: list[NDArray[np.uint8]], axis: int) -> NDArray[np.uint8]:
    """Tiles of one shape in a row or column, with white gaps."""
    shape = list(tiles[0].shape)
    shape[axis] = GAP
    gap = np.full(shape, 255, np.uint8)
    return np.concatenate([part for tile in tiles for part in (tile, gap)][:-1], axis)


if __name__ == "__main__":
    main()

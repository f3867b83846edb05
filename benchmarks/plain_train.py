"""The plain way to train: a script of one step on the images of a folder, and a checkpoint.

    python -m benchmarks.plain_train BOOK OUT

Its start-up is measured, too: it imports nothing but what it needs.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from segray.models.segmenters.registry import build_segmenter

CROP, CLASSES = 128, 10


def read(book: Path, part: str) -> tuple[Tensor, Tensor]:
    """Crops of all images of a part, float32 [B, 3, CROP, CROP], and their masks, int64 [B, CROP, CROP]."""
    paths = sorted((book / "images" / part).iterdir())
    images = np.stack([np.array(Image.open(path).convert("RGB"))[:CROP, :CROP] for path in paths])
    masks = np.stack(
        [np.array(Image.open(book / "masks" / part / path.name))[:CROP, :CROP] for path in paths]
    )
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255, torch.from_numpy(masks).long()


def main(book: str, out: str) -> None:
    """Train one step on the part `train`, predict the part `val`, write the weights."""
    network = build_segmenter("builtin", CLASSES)
    optimiser = torch.optim.AdamW(network.parameters(), lr=5e-4)
    images, masks = read(Path(book), "train")
    F.cross_entropy(network(images), masks).backward()
    optimiser.step()
    network.eval()
    with torch.no_grad():
        images, masks = read(Path(book), "val")
        print(f"accuracy {float((network(images).argmax(1) == masks).float().mean()):.3f}")
    Path(out).mkdir()
    torch.save({"model": network.state_dict(), "optimiser": optimiser.state_dict()}, Path(out) / "last.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])

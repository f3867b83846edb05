"""Models of the size that users run, without a download: the networks are real, what they know is drawn.

SAM ViT-B and CLIP ViT-B-16 get random weights, written once to files that every way loads by the ordinary
options. Random SAM finds nothing of use, so that its decoder computes all and `benchmarks.masks.DrawnOutputs`
come in its outputs' place, the same for each image. Random CLIP gives features and words that differ from
segment to segment, as far as chance has it; each segment gets its best name (`label.threshold=-1`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from segment_anything import build_sam_vit_b
from torch import nn

from benchmarks.masks import DrawnOutputs
from segray.pipelines.annotation import model_stages
from segray.pipelines.annotation.stages.segment import SegmentImages
from segray.pipelines.config.commands.annotate import SamModel
from segray.pipelines.engine.guard import Guard
from segray.pipelines.engine.pools import PoolPlan
from segray.pipelines.scenes.picture_book import draw_scene

WIDTH, HEIGHT = 500, 375
SEED = "SEGRAY_DRAWN_SEED"


def random_models(folder: Path, seed: int) -> list[str]:
    """Write both models' weights; the overrides that make `segray annotate` take them."""
    from open_clip import get_model_config
    from open_clip.model import CLIP

    torch.manual_seed(seed)
    overrides = ["label.threshold=-1"]
    networks = {
        "sam": ("vit_b", build_sam_vit_b()),
        "clip": ("ViT-B-16", CLIP(**get_model_config("ViT-B-16"))),
    }
    for kind, (name, network) in networks.items():
        path = folder / f"{kind}.safetensors"
        _save(network, path)
        overrides += [f"{kind}.model={name}", f"{kind}.weights={path}"]
    return overrides


def _save(network: nn.Module, path: Path) -> None:
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, path)


def draw_pictures(folder: Path, n: int, seed: int) -> list[Path]:
    """The upper parts of the first `n` scenes of a picture book, 500 x 375, as PNG files."""
    folder.mkdir(parents=True)
    paths = [folder / f"scene-{index:06d}.png" for index in range(n)]
    for index, path in enumerate(paths):
        pixels = np.ascontiguousarray(draw_scene(seed, index, WIDTH).image[:HEIGHT])
        Image.fromarray(pixels).save(path)
    return paths


class SegmentDrawn(SegmentImages):
    """`SegmentImages` whose decoder computes all and then gets the drawn outputs of the seed in `SEED`.

    It loads a model of its own, which the hooks stay on, and takes images whole: drawn outputs fit no tiles.
    """

    def __init__(self, config: SamModel, plan: PoolPlan, guard: Guard, **_: object) -> None:
        super().__init__(config, plan, guard)
        drawn: Any = DrawnOutputs(int(os.environ[SEED]))
        # Open for as long as the worker lives.
        self.drawn = ExitStack()
        generator: Any = self.model()
        self.drawn.enter_context(drawn.instead_of(generator.sam))


@contextmanager
def drawn_outputs(seed: int) -> Iterator[None]:
    """`segray annotate` gets the drawn outputs of a seed; Ray's workers are started with this environment."""
    with (
        mock.patch.dict(os.environ, {SEED: str(seed)}),
        mock.patch.object(model_stages, "SegmentImages", SegmentDrawn),
    ):
        yield

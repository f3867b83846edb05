"""`segray annotate` and `segray train` through Ray on one GPU: parts of `benchmarks.gpu`.

The models are of their real sizes with random weights. SAM computes everything and is given the drawn outputs
of `benchmarks.masks`, in the workers as in the bare generator, so that there are masks to classify and to
encode.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from PIL import Image

from benchmarks.masks import DrawnOutputs
from segray.models.annotators.sam import SamModel
from segray.pipelines.annotation.stages.segment import mask_options
from segray.pipelines.annotation.stages.segment_and_classify import SegmentAndClassify
from segray.pipelines.config.commands.annotate import AnnotateConfig
from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.config.loading import load
from segray.pipelines.io.label_png import encode_gray_png
from segray.pipelines.scenes.picture_book import draw_scene

SHAPE = 375, 500
_SCENES, _CLIP, _SEED = 16, "ViT-B-16-quickgelu", 11


class DrawnSegmentAndClassify(SegmentAndClassify):
    """The worker of a GPU, whose SAM is given drawn outputs after it has computed its own."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        generator: Any = self._segment.model()
        sam = generator.sam
        self._drawn = DrawnOutputs(_SEED, "cuda").instead_of(sam)
        self._drawn.__enter__()
        # A generator takes the drawn outputs when it is made.
        drawing = SamModel(sam).source("cuda", mask_options(arguments["sam"], "cuda"))
        self._segment._source = lambda: drawing


def annotate(sam: Callable[[], Any], images: int, clip: str = _CLIP) -> dict[str, Any]:
    """Images per second of `segray annotate`, from SAM's first image to the last part.

    Args:
        sam: builds a ViT-B whose weights the run gets.
        images: how many.
        clip: the name of the CLIP model.
    """
    import open_clip

    from benchmarks.throughput import pipeline
    from segray.pipelines.annotation import model_stages

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.save(sam().state_dict(), folder / "sam.pth")
        network = open_clip.create_model(clip, pretrained=None, pretrained_image=False)
        torch.save(network.state_dict(), folder / "clip.pt")
        _write_scenes(folder / "images", images)
        overrides = [f"images={folder}/images", "out=none", "classes=picture_book", f"clip.model={clip}"]
        overrides += ["sam.model=vit_b", f"sam.weights={folder}/sam.pth", f"clip.weights={folder}/clip.pt"]
        with mock.patch.object(model_stages, "SegmentAndClassify", DrawnSegmentAndClassify):
            timing = pipeline(load(AnnotateConfig, None, overrides))
    return {
        "images": timing.images,
        "segments_per_image": timing.segments / timing.images,
        "images_per_second": timing.rate,
        "images_per_second_wall": timing.wall_rate,
        "this_run": timing.this_run,
    }


def train(network: str, crop: int, images: int, epochs: int) -> dict[str, Any]:
    """Seconds per step of `segray train` with a worker that reads JPEG files, and how long it waited.

    `seconds_per_step` is the last epoch's: the first one has what happens once.
    """
    from segray.pipelines.commands import train as command

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_scenes(folder / "data" / "images", images)
        _write_masks(folder / "data" / "masks", images)
        overrides = [
            f"out={folder}/run",
            f"data.root={folder}/data",
            "data.classes=picture_book",
            "trackers=",
        ]
        overrides += ["method=unimatch", f"network.name={network}", "network.pretrained=false"]
        overrides += [f"augment.crop={crop}", f"train.epochs={epochs}"]
        overrides += [f"data.labelled={images // 4}", "data.validation=8"]
        command.execute(load(TrainConfig, None, overrides))
        history = json.loads((folder / "run" / "history.json").read_text(encoding="utf-8"))
    keys = ("steps", "seconds", "waiting", "loss")
    last = history[-1]
    return {
        "seconds_per_step": last["seconds"] / last["steps"],
        "waiting": last["waiting"],
        "epochs": [{key: entry[key] for key in keys} for entry in history],
    }


def _write_scenes(folder: Path, images: int) -> None:
    """JPEG files of 500 x 375 pixels; there are a few scenes, each under many names."""
    files = []
    for number in range(_SCENES):
        data = io.BytesIO()
        Image.fromarray(draw_scene(_SEED, number, SHAPE[1]).image[: SHAPE[0]]).save(data, "jpeg", quality=90)
        files.append(data.getvalue())
    _write(folder, images, files, "jpg")


def _write_masks(folder: Path, images: int) -> None:
    masks = [draw_scene(_SEED, number, SHAPE[1]).mask[: SHAPE[0]] for number in range(_SCENES)]
    _write(folder, images, [encode_gray_png(mask) for mask in masks], "png")


def _write(folder: Path, images: int, files: list[bytes], kind: str) -> None:
    folder.mkdir(parents=True)
    for number in range(images):
        (folder / f"{number:06d}.{kind}").write_bytes(files[number % len(files)])

"""Time of a training step, compared with a plain PyTorch loop of the same method in the same run.

    python -m benchmarks.train --steps 12
    python -m benchmarks.train --device cuda --network segformer_b4 --crop 321 --loaders 8

The peer works like public code: a DataLoader that augments image by image on the CPU with torchvision and
PIL, the published network and the same losses in fp32, one process. `ratio` is the peer's time per step over
segray's; above 1, segray is faster. The two alternate, so that other load on the machine affects both. On a
GPU segray takes `--steps` steps in each `--precision` (default: all; `ratio` is that of `auto`), one after
the other, and the clock stops when the GPU is through; `plain_bf16` is the peer with autocast. `--profile`
lists the operations that take the GPU's time.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from benchmarks.common import (
    DEVICES,
    RESULTS,
    Benchmark,
    a_device,
    available_cores,
    circumstances,
    table,
    write_result,
)
from segray.models.segmenters.base import resample
from segray.models.segmenters.registry import Segmenter, build_segmenter
from segray.models.segmenters.segformer import SegFormer
from segray.models.semi.student import Logits, Student
from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.config.loading import load
from segray.pipelines.scenes.picture_book import draw_scene
from segray.pipelines.training.auto_precision import on_device
from segray.pipelines.training.build import build_network, build_student, make_optimiser
from segray.pipelines.training.data.sampler import StepBatch, StepDataset, read_ahead, step_batches
from segray.pipelines.training.step import Objective

CLASSES, EPSILON, TAU, WARM_UP = 10, 0.1, 0.7, 3
PRECISIONS = ("auto", "bf16", "tf32", "fp32")

Loop = Callable[[], object]
"""One step of training; what it returns does not matter."""


class Scenes(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Scenes in memory, as the readers return them: image, mask, confidence."""

    def __init__(self, count: int, size: int) -> None:
        drawn = [draw_scene(7, i, size) for i in range(count)]
        self.items = [(torch.from_numpy(s.image).permute(2, 0, 1), torch.from_numpy(s.mask)) for s in drawn]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        image, mask = self.items[index]
        return image, mask, torch.full_like(mask, 200)


class PlainViews(Dataset[tuple[Tensor, ...]]):
    """One image at a time by PIL and torchvision: weak view, label, two strong views, two CutMix boxes."""

    def __init__(self, scenes: Scenes, crop: int) -> None:
        self.scenes, self.crop = scenes, crop
        jitter = v2.RandomApply([v2.ColorJitter(0.5, 0.5, 0.5, 0.25)], 0.8)
        blur = v2.RandomApply([v2.GaussianBlur(13, (0.1, 2.0))], 0.5)
        self.strong = v2.Compose([jitter, v2.RandomGrayscale(0.2), blur])
        self.to_tensor = v2.Compose([v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)])

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        image, mask, _ = self.scenes[index]
        rgb = Image.fromarray(image.permute(1, 2, 0).numpy())
        weak, label = self._weak(rgb, Image.fromarray(mask.numpy()))
        views = [self._normal(self.to_tensor(v)) for v in (weak, self.strong(weak), self.strong(weak))]
        target = torch.from_numpy(np.array(label)).long()
        return (*views, target, self._box(), self._box())

    def _weak(self, image: Image.Image, mask: Image.Image) -> tuple[Image.Image, Image.Image]:
        side = round(max(image.size) * float(torch.empty(1).uniform_(0.5, 2)))
        image, mask = image.resize((side, side), Image.Resampling.BILINEAR), mask.resize((side, side), 0)
        pad = max(0, self.crop - side)
        image, mask = (
            v2.functional.pad(image, [0, 0, pad, pad]),
            v2.functional.pad(mask, [0, 0, pad, pad], 255),
        )
        top, left = (int(torch.randint(length - self.crop + 1, ())) for length in reversed(image.size))
        image, mask = (v2.functional.crop(p, top, left, self.crop, self.crop) for p in (image, mask))
        if torch.rand(()) < 0.5:
            image, mask = v2.functional.hflip(image), v2.functional.hflip(mask)
        return image, mask

    def _normal(self, image: Tensor) -> Tensor:
        mean, std = (0.4815, 0.4578, 0.4082), (0.2686, 0.2613, 0.2758)
        return v2.functional.normalize(image, mean, std)

    def _box(self) -> Tensor:
        box = torch.zeros(self.crop, self.crop, dtype=torch.bool)
        if torch.rand(()) < 0.5:
            area = float(torch.empty(1).uniform_(0.02, 0.4)) * self.crop**2
            ratio = float(torch.empty(1).uniform_(0.3, 1 / 0.3))
            h, w = (min(self.crop, int(v)) for v in ((area * ratio) ** 0.5, (area / ratio) ** 0.5))
            y, x = (int(torch.randint(self.crop - v + 1, ())) for v in (h, w))
            box[y : y + h, x : x + w] = True
        return box


def published(network: Segmenter) -> Callable[[tuple[Tensor, ...], tuple[int, int]], Tensor]:
    """`network.decode` as the network's authors compute it: segray's SegFormer has another order of sums."""
    if isinstance(network, SegFormer):
        return lambda maps, size: resample(network.decoder(maps), size)
    return network.decode


class PlainLoop:
    """A straightforward loop of the paper's method: three forward passes, as in public code."""

    def __init__(
        self, scenes: Scenes, network: Segmenter, config: TrainConfig, device: str, autocast: bool = False
    ) -> None:
        self.network, self.device, self.autocast = network.train(), device, autocast
        loaders = config.train.loaders
        self.optimiser = make_optimiser(network, config.train)
        views = PlainViews(scenes, config.augment.crop)
        self.labelled, self.unlabelled = (
            _forever(
                DataLoader(
                    views,
                    config.train.batch,
                    shuffle=True,
                    drop_last=True,
                    num_workers=loaders,
                    persistent_workers=loaders > 0,
                    pin_memory=device != "cpu",
                )
            )
            for _ in range(2)
        )

    def __call__(self) -> float:
        """One step; the loss."""
        image, _, _, mask, _, _ = self._on_device(next(self.labelled))
        weak, first, second, zero_shot, *boxes = self._on_device(next(self.unlabelled))
        with torch.autocast(self.device, torch.bfloat16, enabled=self.autocast):
            loss = self._total(image, mask, weak, (first, second), zero_shot, boxes)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return float(loss.detach())

    def _on_device(self, batch: Sequence[Tensor]) -> list[Tensor]:
        return [part.to(self.device, non_blocking=True) for part in batch]

    def _total(
        self,
        image: Tensor,
        mask: Tensor,
        weak: Tensor,
        views: tuple[Tensor, Tensor],
        zero_shot: Tensor,
        boxes: list[Tensor],
    ) -> Tensor:
        maps = self.network.encode(torch.cat([image, weak]))
        weak_maps = tuple(m[len(image) :] for m in maps)
        dropped = tuple(F.dropout2d(m, 0.5) for m in weak_maps)
        joined = tuple(torch.cat([m, d]) for m, d in zip(maps, dropped, strict=True))
        size = (image.shape[-2], image.shape[-1])
        logits = published(self.network)(joined, size)
        labelled, weak_logits, feature = logits.split([len(image), len(weak), len(weak)])
        strong = [torch.where(b[:, None], v.flip(0), v) for v, b in zip(views, boxes, strict=True)]
        predicted = published(self.network)(self.network.encode(torch.cat(strong)), size).chunk(2)
        confidence, predicted_class = weak_logits.detach().softmax(1).max(1)
        label = torch.where((confidence >= TAU) & (zero_shot != 255), predicted_class, zero_shot)
        terms = [0.5 * self._loss(feature, label)]
        for view, box in zip(predicted, boxes, strict=True):
            terms.append(0.25 * self._loss(view, torch.where(box, label.flip(0), label)))
        return (F.cross_entropy(labelled, mask, ignore_index=255) + torch.stack(terms).sum()) / 2

    def _loss(self, logits: Tensor, label: Tensor) -> Tensor:
        smoothing = EPSILON * CLASSES / (CLASSES - 1)
        return F.cross_entropy(logits, label, ignore_index=255, label_smoothing=smoothing)


class SegrayLoop:
    """Steps of `segray train`."""

    def __init__(self, scenes: Scenes, config: TrainConfig, device: str, count: int) -> None:
        on = torch.device(device)
        network = build_network(config, CLASSES, on, workers=1).train()
        self.objective = Objective(config, network, CLASSES, on)
        self.student: Callable[..., Logits] = build_student(network, config.train, workers=1)
        self.optimiser = make_optimiser(network, config.train)
        data = StepDataset(scenes, scenes, seed=0, batch=config.train.batch, rank=0, workers=1)
        batches = step_batches(data, 0, count, config.train.loaders)
        self.batches = read_ahead(map(StepBatch.pin_memory, batches)) if on.type == "cuda" else batches

    def __call__(self) -> Tensor:
        """One step; the loss, for which a GPU is not waited for: the trainer looks at it now and then."""
        metrics = self.objective(self.student, next(self.batches))
        self.optimiser.zero_grad(set_to_none=True)
        metrics.loss.backward()
        self.optimiser.step()
        return metrics.loss.detach()


def _forever(loader: DataLoader[tuple[Tensor, ...]]) -> Iterator[tuple[Tensor, ...]]:
    while True:
        yield from loader


@dataclass(frozen=True)
class Run:
    """What is measured: see the options."""

    network: str
    crop: int
    batch: int
    loaders: int
    device: str
    steps: int

    def config(self, precision: str, *overrides: str) -> TrainConfig:
        """A training run; `auto` becomes what it is on this device."""
        words = [f"network.name={self.network}", "network.pretrained=false", f"augment.crop={self.crop}"]
        words += [f"train.batch={self.batch}", f"train.loaders={self.loaders}", "pseudo.tau=0.7"]
        words += [f"train.precision={precision}", "out=none", "data.root=none", *overrides]
        return on_device(load(TrainConfig, None, words), torch.device(self.device))

    def segray(
        self, precision: str, *overrides: str, graphed: bool = True, readers: int | None = None
    ) -> SegrayLoop:
        """Steps of `segray train`; on a GPU as CUDA graphs or not, and perhaps with other `loaders`."""
        overrides = (*overrides, f"train.loaders={self.loaders if readers is None else readers}")
        loop = SegrayLoop(
            self.scenes, self.config(precision, *overrides), self.device, 2 * self.steps + WARM_UP
        )
        if not graphed:
            loop.student = Student(loop.objective.network)
        return loop

    @cached_property
    def scenes(self) -> Scenes:
        """The images."""
        return Scenes(4 * self.batch, 256)

    def plain(self, *, autocast: bool = False) -> PlainLoop:
        """Steps of the peer, with PyTorch's own choice of what is rounded to TF32: convolutions alone."""
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = False, True
        network = build_segmenter(self.network, CLASSES, pretrained=False).to(self.device)
        return PlainLoop(self.scenes, network, self.config("fp32"), self.device, autocast=autocast)


def on_cpu(run: Run) -> dict[str, float]:
    """Median seconds per step; the two alternate."""
    ours, plain = run.segray("auto"), run.plain()
    for _ in range(WARM_UP):
        ours()
        plain()
    pairs = [(_seconds(ours, 1), _seconds(plain, 1)) for _ in range(run.steps)]
    ours_s, plain_s = (statistics.median(column) for column in zip(*pairs, strict=True))
    return {"segray": ours_s, "plain": plain_s}


def on_gpu(run: Run, ways: Mapping[str, Callable[[], Loop]]) -> dict[str, Any]:
    """Seconds per step of the peer in fp32 and with autocast, and of segray.

    Args:
        run: what is measured.
        ways: build segray's loops.
    """
    seconds = {"plain": _pace(run.plain, run), "plain_bf16": _pace(partial(run.plain, autocast=True), run)}
    seconds |= {name: _pace(build, run) for name, build in ways.items()}
    return {"seconds": seconds, "ratios": {name: seconds["plain"] / seconds[name] for name in ways}}


def _pace(build: Callable[[], Loop], run: Run) -> float:
    """Seconds per step of the better of two rounds, each of which ends when the GPU is through."""
    loop = build()
    for _ in range(WARM_UP):
        loop()
    best = min(_seconds(loop, run.steps) for _ in range(2))
    del loop
    torch.cuda.empty_cache()
    return best


def _seconds(loop: Loop, steps: int) -> float:
    _finish()
    began = time.perf_counter()
    for _ in range(steps):
        loop()
    _finish()
    return (time.perf_counter() - began) / steps


def _finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def profile(loop: Loop, rows: int = 25) -> str:
    """A table of the operations that take the GPU's time in three steps."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    for _ in range(WARM_UP):
        loop()
    with torch.profiler.profile(activities=activities) as profiler:
        for _ in range(3):
            loop()
        _finish()
    return profiler.key_averages().table(
        sort_by="self_cuda_time_total", row_limit=rows, max_name_column_width=60
    )


@click.command(cls=Benchmark, name="train", help=__doc__)
@click.option("--steps", "count", default=12, show_default=True)
@click.option("--crop", default=160, show_default=True, help="Side of a crop in pixels.")
@click.option("--batch", default=8, show_default=True)
@click.option("--loaders", default=0, show_default=True, help="Reader processes of each loop.")
@click.option("--network", default="builtin", show_default=True)
@click.option("--device", default="cpu", show_default=True, type=DEVICES, callback=a_device)
@click.option("--precision", multiple=True, type=click.Choice(PRECISIONS), help="On a GPU; default: all.")
@click.option("--profile", "profiled", is_flag=True, help="On a GPU, list its operations instead.")
@click.option("--threads", default=None, type=int, help="Default: all cores.")
@click.option("--out", type=click.Path(path_type=Path), help="JSON file.")
def main(
    count: int,
    crop: int,
    batch: int,
    loaders: int,
    network: str,
    device: str,
    precision: tuple[str, ...],
    profiled: bool,
    threads: int | None,
    out: Path | None,
) -> None:
    """Time both and print the ratio."""
    torch.set_num_threads(threads or available_cores())
    torch.manual_seed(0)
    run = Run(network, crop, batch, loaders, device, count)
    if profiled and device == "cuda":
        click.echo(profile(run.segray(precision[0] if precision else "auto")))
        return
    record = {**circumstances([0]), "crop": crop, "batch": batch, "network": network, "loaders": loaders}
    record |= {"on": device, "threads": torch.get_num_threads()}
    if device == "cuda":
        record |= on_gpu(run, {name: partial(run.segray, name) for name in precision or PRECISIONS})
        record["ratio"] = record["ratios"].get("auto")
    else:
        seconds = on_cpu(run)
        record |= {"seconds": seconds, "ratio": seconds["plain"] / seconds["segray"]}
    rows = [
        [name, f"{value:.3f}", f"{_ratio(record, name):.2f}"] for name, value in record["seconds"].items()
    ]
    click.echo(table(["loop", "s per step", "ratio"], rows))
    click.echo(f"wrote {write_result(out or _default(device), record)}")


def _ratio(record: dict[str, Any], name: str) -> float:
    seconds: dict[str, float] = record["seconds"]
    return seconds["plain"] / seconds[name]


def _default(device: str) -> Path | None:
    return None if device == "cpu" else RESULTS / "train-gpu.json"


if __name__ == "__main__":
    main()

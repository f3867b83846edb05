"""Time of a training step, compared with a plain PyTorch loop of the same method in the same run.

    python -m benchmarks.train --steps 12

The peer works like public code: a DataLoader that augments image by image on the CPU with torchvision and
PIL, the same network and losses in fp32, one process. `ratio` is the peer's time per step over segray's;
above 1, segray is faster. The two alternate, so that other load on the machine affects both.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from benchmarks.common import Benchmark, available_cores, circumstances, table, write_result
from segray.models.segmenters.registry import Segmenter, build_segmenter
from segray.models.semi.student import Student
from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.config.loading import load
from segray.pipelines.scenes.picture_book import draw_scene
from segray.pipelines.training.build import make_optimiser
from segray.pipelines.training.data.sampler import StepDataset, step_batches
from segray.pipelines.training.step import Objective

CLASSES, EPSILON, TAU = 10, 0.1, 0.7


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


class PlainLoop:
    """A straightforward loop of the paper's method: three forward passes, as in public code."""

    def __init__(self, scenes: Scenes, network: Segmenter, config: TrainConfig, loaders: int) -> None:
        self.network = network.train()
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
                )
            )
            for _ in range(2)
        )

    def __call__(self) -> float:
        """One step; the loss."""
        image, _, _, mask, _, _ = next(self.labelled)
        weak, first, second, zero_shot, *boxes = next(self.unlabelled)
        maps = self.network.encode(torch.cat([image, weak]))
        weak_maps = tuple(m[len(image) :] for m in maps)
        dropped = tuple(F.dropout2d(m, 0.5) for m in weak_maps)
        joined = tuple(torch.cat([m, d]) for m, d in zip(maps, dropped, strict=True))
        logits = self.network.decode(joined, (image.shape[-2], image.shape[-1]))
        labelled, weak_logits, feature = logits.split([len(image), len(weak), len(weak)])
        strong = [torch.where(b[:, None], v.flip(0), v) for v, b in zip((first, second), boxes, strict=True)]
        predicted = self.network(torch.cat(strong)).chunk(2)
        confidence, predicted_class = weak_logits.detach().softmax(1).max(1)
        label = torch.where((confidence >= TAU) & (zero_shot != 255), predicted_class, zero_shot)
        terms = [0.5 * self._loss(feature, label)]
        for view, box in zip(predicted, boxes, strict=True):
            terms.append(0.25 * self._loss(view, torch.where(box, label.flip(0), label)))
        loss = (F.cross_entropy(labelled, mask, ignore_index=255) + torch.stack(terms).sum()) / 2
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return float(loss.detach())

    def _loss(self, logits: Tensor, label: Tensor) -> Tensor:
        smoothing = EPSILON * CLASSES / (CLASSES - 1)
        return F.cross_entropy(logits, label, ignore_index=255, label_smoothing=smoothing)


class SegrayLoop:
    """Steps of `segray train`."""

    def __init__(self, scenes: Scenes, network: Segmenter, config: TrainConfig, count: int) -> None:
        self.objective = Objective(config, network, CLASSES, torch.device("cpu"))
        self.student = Student(network).train()
        self.optimiser = make_optimiser(network, config.train)
        data = StepDataset(scenes, scenes, seed=0, batch=config.train.batch, rank=0, workers=1)
        self.batches = step_batches(data, 0, count, config.train.loaders)

    def __call__(self) -> float:
        """One step; the loss."""
        metrics = self.objective(self.student, next(self.batches))
        self.optimiser.zero_grad(set_to_none=True)
        metrics.loss.backward()
        self.optimiser.step()
        return float(metrics.loss.detach())


def _forever(loader: DataLoader[tuple[Tensor, ...]]) -> Iterator[tuple[Tensor, ...]]:
    while True:
        yield from loader


def _seconds(step: Callable[[], float]) -> float:
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


@click.command(cls=Benchmark, name="train", help=__doc__)
@click.option("--steps", "count", default=12, show_default=True)
@click.option("--crop", default=160, show_default=True, help="Side of a crop in pixels.")
@click.option("--batch", default=8, show_default=True)
@click.option("--loaders", default=0, show_default=True, help="Reader processes of each loop.")
@click.option("--network", default="builtin", show_default=True)
@click.option("--threads", default=None, type=int, help="Default: all cores.")
@click.option("--out", type=click.Path(path_type=Path), help="JSON file.")
def main(
    count: int, crop: int, batch: int, loaders: int, network: str, threads: int | None, out: Path | None
) -> None:
    """Time both and print the ratio."""
    torch.set_num_threads(threads or available_cores())
    torch.manual_seed(0)
    overrides = [f"network.name={network}", f"augment.crop={crop}", "pseudo.tau=0.7"]
    overrides += [f"train.batch={batch}", f"train.loaders={loaders}"]
    with tempfile.TemporaryDirectory() as folder:
        config = load(TrainConfig, None, [f"out={folder}", "data.root=x", *overrides])
    scenes = Scenes(4 * batch, 256)
    built = [build_segmenter(network, CLASSES, pretrained=False) for _ in range(2)]
    ours = SegrayLoop(scenes, built[0], config, count + 2)
    plain = PlainLoop(scenes, built[1], config, loaders)
    for _ in range(2):
        ours()
        plain()
    pairs = [(_seconds(ours), _seconds(plain)) for _ in range(count)]
    ours_s, peer_s = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = peer_s / ours_s
    rows = [["segray", f"{ours_s:.2f}"], ["plain PyTorch loop", f"{peer_s:.2f}"], ["ratio", f"{ratio:.2f}"]]
    click.echo(table(["loop", "s per step"], rows))
    record = {**circumstances([0]), "crop": crop, "batch": batch, "network": network, "loaders": loaders}
    record |= {
        "threads": torch.get_num_threads(),
        "seconds": {"segray": ours_s, "plain": peer_s},
        "ratio": ratio,
    }
    click.echo(f"wrote {write_result(out, record)}")


if __name__ == "__main__":
    main()

"""The way of a GPU, taken on the CPU; `test_sam.py` holds its masks to upstream's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from segment_anything.modeling import Sam
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._python_dispatch import TorchDispatchMode

from segray.models.builtin.arch import SAM_ARCH, build_builtin_sam
from segray.models.masks import Segment
from segray.models.sam import device_masks, statistics
from segray.models.sam.decoder import MaskDecoder
from segray.models.sam.device_masks import DeviceMasks, KeptMasks, MaskCrops, Measured, View, filter_masks
from segray.models.sam.generator import MaskGenerator
from segray.models.sam.geometry import Rgb, frame, normalised, point_grid, resized, rows_needed, upsample
from segray.models.sam.postprocess import Thresholds
from segray.models.sam.prefetch import embeddings
from segray.models.sam.prompted import PromptedSam
from segray.models.sam.statistics import measure
from tests.models.scenes import scene

pytestmark = pytest.mark.usefixtures("no_gradients")

OPTIONS: dict[str, Any] = {"points_per_side": 6, "pred_iou_thresh": 0.5, "stability_score_thresh": 0.8}
LIMITS = Thresholds(0.0, 1.0, 0.8, 0.7, 0.5)


def view(sam: Sam, height: int, width: int, points: int) -> View:
    """Of noise: an embedding that no image has, but of which the decoder makes masks."""
    f = frame(height, width, sam.image_encoder.img_size)
    embedding = torch.randn(64, 24, 24, generator=torch.Generator().manual_seed(height))
    return View(embedding, f, (0, 0, width, height), (height, width), point_grid(points) * [[width, height]])


# Statistics


@pytest.mark.parametrize(("height", "width"), [(256, 256), (60, 90), (33, 400), (700, 500), (5, 9)])
def test_statistics_are_those_of_full_size(height: int, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few masks at a time, without the rows below the image; nothing of those that are left out."""
    f, generator = frame(height, width, 192), torch.Generator().manual_seed(height)
    coarse = torch.randn(20, 1, 5, 5, generator=generator) * 3
    coarse[3] = -5
    logits = torch.nn.functional.interpolate(coarse, (48, 48), mode="bicubic")[:, 0]
    monkeypatch.setattr(statistics, "_PIXELS_AT_ONCE", 3 * height * width)
    keep = torch.arange(20) % 7 != 5
    seen = logits[:, : 4 * rows_needed(f, 12)]
    statistics_ = measure(seen, keep, f, 48, 0.25, 0.5)
    for row, full, kept in zip(statistics_.tolist(), upsample(logits, f), keep.tolist(), strict=True):
        if not kept:
            assert row == [-1] * 6
            continue
        y, x = np.nonzero((full > 0.25).numpy())
        box = [x.min(), y.min(), x.max(), y.max()] if len(x) else [-1] * 4
        assert row[2:] == box
        # Sums in another order may move a pixel's logit across a threshold.
        assert row[:2] == pytest.approx([int((full > 0.75).sum()), int((full > -0.25).sum())], abs=1)
    assert statistics_[3].tolist() == [0, 0, -1, -1, -1, -1]


# Without waiting


class NoWait(TorchDispatchMode):
    """Refuses what would make the CPU wait for a GPU: an operation whose shape or result hangs on values."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tags = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(func.tags)
        if tags:
            raise AssertionError(f"{func} waits for the device")
        return func(*args, **(kwargs or {}))


def test_decoding_and_measuring_wait_for_nothing(sam: Sam) -> None:
    masks = DeviceMasks(MaskDecoder(sam), LIMITS, 16)
    with NoWait():
        (chunk,) = masks.measured(view(sam, 150, 200, 5))
    assert chunk.table.wait().shape == (75, 7)
    with pytest.raises(AssertionError, match="waits for the device"), NoWait():
        MaskGenerator(sam, **OPTIONS).generate([scene(64, 64)])


def test_cutting_out_waits_for_nothing(sam: Sam) -> None:
    limits = Thresholds(0.0, 1.0, 0.0, 0.9)
    (chunk,) = DeviceMasks(MaskDecoder(sam), limits, 16).measured(view(sam, 150, 200, 4))
    kept = filter_masks(chunk, limits).best(0.9)
    assert len(kept.boxes) > 2
    with NoWait():
        cut = MaskCrops(kept, chunk.view, 96, 0.0)
    assert len(cut.segments()) == len(kept.boxes)


def test_the_next_image_is_at_work_when_one_is_decided(sam: Sam, monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []

    def telling(word: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def tell(*args: Any) -> Any:
            log.append(word)
            return work(*args)

        return tell

    decoder = MaskDecoder(sam)
    monkeypatch.setattr(device_masks, "filter_masks", telling("decide", filter_masks))
    monkeypatch.setattr(MaskCrops, "segments", telling("take", MaskCrops.segments))
    masks = DeviceMasks(decoder, LIMITS, 16, telling("decode", decoder.all_masks))
    segments = list(masks.segments(view(sam, 80, 90 + k, 4) for k in range(4)))
    assert len(segments) == 4
    begin, resume = ["decode", "decode", "decide"], ["decode", "decide", "take"]
    assert log == [*begin, *resume, *resume, "decide", "take", "take"]


# The same masks however they are taken


def shapes(images: list[list[Segment]]) -> list[list[Any]]:
    return [[(s.box, s.area, s.point, s.crop_box) for s in segments] for segments in images]


def test_portions_of_a_grid_that_fill_no_chunk(sam: Sam, monkeypatch: pytest.MonkeyPatch) -> None:
    images = [scene(200, 256), scene(256, 120, 4)]
    whole = MaskGenerator(sam, **OPTIONS, pipelined=True, points_per_batch=36).generate(images)
    assert min(map(len, whole)) > 2
    taken = []

    def counted(chunk: Measured, limits: Thresholds) -> KeptMasks:
        taken.append(len(chunk.points))
        return filter_masks(chunk, limits)

    monkeypatch.setattr(device_masks, "filter_masks", counted)
    monkeypatch.setattr(device_masks, "_LOGITS_AT_ONCE", 1)
    parts = MaskGenerator(sam, **OPTIONS, pipelined=True, points_per_batch=16).generate(images)
    assert taken == [16, 16, 4] * 2
    assert shapes(parts) == shapes(whole)


def test_rows_below_the_image_change_nothing(sam: Sam) -> None:
    limits, decoder = Thresholds(0.0, 1.0, 0.0, 0.9), MaskDecoder(sam)
    views = [view(sam, 60, 200, 4)]
    few, all_ = (
        list(DeviceMasks(decoder, limits, 16, all_rows=rows).segments(views)) for rows in (False, True)
    )
    assert len(few[0]) > 2
    assert shapes(few) == shapes(all_)


# Compiled


def test_compiled_once_for_images_of_all_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches that are not full and chunks of prompts that are not, crops included; and the same masks."""
    # Inductor takes minutes; this traces as much.
    counter = CompileCounterWithBackend("eager")

    def traced(function: Any, *, dynamic: bool, **_: Any) -> Any:
        return compile_(function, dynamic=dynamic, backend=counter, fullgraph=True)

    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", traced)
    torch.manual_seed(0)
    sam = build_builtin_sam(SAM_ARCH | {"img_size": 64, "width": 32, "depth": 2, "window": 4}).eval()
    options: dict[str, Any] = {"points_per_side": 5, "points_per_batch": 16, "crop_n_layers": 1}
    options |= {"pred_iou_thresh": 0, "stability_score_thresh": 0, "box_nms_thresh": 1, "crop_nms_thresh": 1}
    images = [scene(64, 64), scene(40, 90, 4), scene(120, 30, 5)]
    compiled = MaskGenerator(sam, **options, compiled=True)
    segments = compiled.generate(images[:1])
    assert counter.frame_count == 2
    segments += compiled.generate(images[1:])
    assert counter.frame_count == 2
    plain = MaskGenerator(sam, **options, pipelined=True).generate(images)
    assert min(map(len, plain)) > 50
    assert shapes(segments) == shapes(plain)


# Feeding


def test_images_are_resized_ahead_but_not_all_at_once(sam: Sam) -> None:
    asked: list[int] = []

    def crops() -> Iterator[tuple[Rgb, tuple[int, int]]]:
        for k in range(9):
            asked.append(k)
            yield scene(30, 40 + k), (30, 40 + k)

    inputs: list[Tensor] = []

    def encode(images: Tensor) -> Tensor:
        inputs.append(images)
        return images[:, :1]

    encoded = embeddings(PromptedSam(sam), crops(), encode, 2, threads=3, fill_batch=True)
    first = next(encoded)
    assert asked == list(range(6))
    rest = list(encoded)
    assert [len(batch) for batch in inputs] == [2] * 5
    assert not inputs[-1][1].any()
    expected = [normalised(sam, [resized(scene(30, 40 + k), (30, 40 + k), 192)])[0, :1] for k in range(9)]
    assert torch.equal(torch.stack([first, *rest]), torch.stack(expected))

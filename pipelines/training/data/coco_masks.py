"""COCO's segmentations: checked in the driver, as pycocotools trusts them, then rendered by the workers."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TypedDict, cast

import numpy as np
from pycocotools import mask as coco_mask

from segray.models.label_map import LabelMap
from segray.models.rle import checked_runs
from segray.pipelines.training.data.row_masks import RowMask, checked_rows, is_row_mask, row_mask_pixels

MAX_ANNOTATIONS = 10_000
"""Annotations of one image."""
MAX_POLYGONS = 1_000
"""Polygons of one annotation."""
MAX_OUTLINE = 2_000_000
"""Pixels along the polygons of one annotation: pycocotools takes about 80 bytes for each."""
MAX_OUTLINES = 20_000_000
"""The same of one image."""
MAX_PAINTED = 20_000_000_000
"""Pixels that drawing all annotations of an image may visit."""

_MARGIN = 16
_MERGED_AT_ONCE = 32


class Rle(TypedDict):
    """A mask as run lengths in the JSON file; `counts` is a list, or COCO's compressed text."""

    size: list[int]
    counts: list[int] | str


Segmentation = list[list[float]] | Rle | RowMask
"""Polygons of x, y, x, y, ... in pixels, or run lengths."""


def check_segmentations(shapes: Sequence[tuple[int, object]], height: int, width: int) -> None:
    """Check all annotations of an image: pycocotools crashes, or takes any memory, for what this refuses.

    Points outside of the image are common and are clipped, if they are less than the image's own size away.

    Args:
        shapes: id and segmentation of each annotation, as they are in the JSON file.
        height: of the image in pixels.
        width: of the image in pixels.

    Raises:
        ValueError: `: what is wrong`, or `, annotation ID: what is wrong`, to follow the mask's name.
    """
    check_count(len(shapes), height, width)
    outlines = 0.0
    for number, segmentation in shapes:
        try:
            outlines += _outline(segmentation, height, width)
        except ValueError as problem:
            raise ValueError(f", annotation {number}: {problem}") from None
    if outlines > MAX_OUTLINES:
        raise ValueError(
            f": {len(shapes)} annotations with outlines of {outlines:.0f} px are too many for one image"
        )


def check_count(count: int, height: int, width: int) -> None:
    """Check how many annotations an image has, before any of them is unpacked.

    Raises:
        ValueError: see `check_segmentations`.
    """
    if count > MAX_ANNOTATIONS:
        raise ValueError(f": {count} annotations (allowed: at most {MAX_ANNOTATIONS} per image)")
    if count * height * width > MAX_PAINTED:
        raise ValueError(f": {count} annotations of {width}x{height} pixels are too many for one image")


def _outline(segmentation: object, height: int, width: int) -> float:
    """Pixels along the polygons of a valid segmentation; 0 for run lengths."""
    if isinstance(segmentation, list):
        if len(segmentation) > MAX_POLYGONS:
            raise ValueError(f"{len(segmentation)} polygons (allowed: at most {MAX_POLYGONS})")
        outline = sum(_polygon_outline(polygon, height, width) for polygon in segmentation)
        if outline > MAX_OUTLINE:
            raise ValueError(f"an outline of {outline:.0f} px (allowed: at most {MAX_OUTLINE})")
        return outline
    if is_row_mask(segmentation):
        checked_rows(cast("Mapping[str, object]", segmentation), height, width)
        return 0.0
    counts = segmentation.get("counts") if isinstance(segmentation, dict) else None
    if not isinstance(segmentation, dict) or not isinstance(counts, str | list):
        raise _no_mask(height, width)
    if segmentation.get("size") != [height, width]:
        raise _no_mask(height, width)
    checked_runs(counts, height, width)
    return 0.0


def _polygon_outline(polygon: object, height: int, width: int) -> float:
    if not isinstance(polygon, list) or len(polygon) % 2 or any(type(v) not in (int, float) for v in polygon):
        raise _no_mask(height, width)
    if not polygon:
        return 0.0
    try:
        points = np.array(polygon, np.float64).reshape(-1, 2)
    except OverflowError:
        raise ValueError("a coordinate that is not a number of pixels") from None
    margin = max(height, width, _MARGIN)
    bad = ~((points >= -margin) & (points <= np.array([width, height]) + margin))
    if bad.any():
        raise ValueError(f"a coordinate of {points[bad][0]:g} px, the image is {width}x{height}")
    steps = np.abs(points - np.roll(points, 1, axis=0)).max(axis=1)
    return float(steps.sum()) + len(points)


def _no_mask(height: int, width: int) -> ValueError:
    return ValueError(f"not a mask of its image (allowed: polygons, or RLE of size [{height}, {width}])")


def render_label_map(shapes: bytes) -> LabelMap:
    """`draw_shapes` of annotations that `AnnotatedImages.ready` has packed after `check_segmentations`."""
    packed = json.loads(zlib.decompress(shapes))
    ordered, wide = bool(packed.get("ordered")), bool(packed.get("wide"))
    return draw_shapes(packed["shapes"], packed["size"], ordered=ordered, wide=wide)


def draw_shapes(
    shapes: Iterable[tuple[int, int, Segmentation]], size: Sequence[int], *, ordered: bool, wide: bool
) -> LabelMap:
    """The mask of one image, [H, W]: 0 without an annotation, else the class.

    Larger annotations are drawn first, of equal areas the later id first: the smaller one is on top, as in a
    label set. Crowds are drawn like all others.

    Args:
        shapes: id, class id (below 0: ignored) and segmentation, after `check_segmentations`.
        size: height and width of the image in pixels.
        ordered: annotations are drawn as they come.
        wide: ids have 16 bits.
    """
    height, width = size
    mask: LabelMap = np.zeros((height, width), np.uint16 if wide else np.uint8)
    layers = []
    for number, class_id, segmentation in shapes:
        rle = _rle(segmentation, height, width)
        if rle is not None:
            layers.append((-int(coco_mask.area(rle)), -number, class_id, rle))
    ignored = np.iinfo(mask.dtype).max
    for _, _, class_id, rle in layers if ordered else sorted(layers, key=lambda layer: layer[:2]):
        mask[coco_mask.decode(rle).astype(bool)] = ignored if class_id < 0 else class_id
    return mask


def _rle(segmentation: Segmentation, height: int, width: int) -> dict[str, object] | None:
    """pycocotools' RLE of polygons or of run lengths; None if they cover nothing."""
    if isinstance(segmentation, list):
        # Fewer than three corners cover nothing, and pycocotools would read four numbers as a box.
        polygons = [polygon for polygon in segmentation if len(polygon) >= 6]
        return _union(coco_mask.frPyObjects(polygons, height, width)) if polygons else None
    if is_row_mask(segmentation):
        return coco_mask.encode(row_mask_pixels(segmentation, height, width))
    counts = cast("Rle", segmentation)["counts"]
    if isinstance(counts, list):
        return coco_mask.frPyObjects(segmentation, height, width)
    return {"size": [height, width], "counts": counts.encode()}


def _union(rles: list[dict[str, object]]) -> dict[str, object]:
    """Merged a few at a time: one after the other, many polygons take quadratic time."""
    while len(rles) > 1:
        starts = range(0, len(rles), _MERGED_AT_ONCE)
        rles = [coco_mask.merge(rles[start : start + _MERGED_AT_ONCE]) for start in starts]
    return rles[0]

"""Label Studio's JSON export: brushes, polygons, rectangles and ellipses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse

from segray.models.label_map import LabelMap
from segray.models.label_space import LabelSpace
from segray.models.masks import encode_rle, segment_from_mask
from segray.pipelines.exporting.brush import decode_brush
from segray.pipelines.exporting.label_studio import IMAGE, SET
from segray.pipelines.importing.base import ImageMask, drawn_outlines
from segray.pipelines.training.data.coco_masks import Segmentation, check_count
from segray.pipelines.training.data.labelled_outlines import Outline, ellipse

_TYPES = {"brushlabels", "polygonlabels", "rectanglelabels", "ellipselabels"}


def is_label_studio(content: object) -> bool:
    """Whether the content of a JSON file is a list of tasks."""
    return isinstance(content, list) and all(isinstance(task, dict) and "data" in task for task in content)


def read_label_studio(content: Sequence[Mapping[str, Any]]) -> Iterator[ImageMask]:
    """The tasks that a person submitted; predictions are nobody's work, and the last annotation counts.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: not tasks of images, or shapes that are no masks.
    """
    for number, task in enumerate(content):
        submitted = [one for one in task.get("annotations") or () if not one.get("was_cancelled")]
        if submitted:
            yield _mask(task, submitted[-1], f"task {task.get('id', number)}")


def _mask(task: Mapping[str, Any], annotation: Mapping[str, Any], where: str) -> ImageMask:
    data = task["data"]
    results = [one for one in annotation["result"] if one.get("type") != "choices"]
    sizes = {(int(one["original_height"]), int(one["original_width"])) for one in results}
    if len(sizes) > 1:
        raise ValueError(f"{where} has shapes of images of different sizes")
    name = str(data[IMAGE]) if IMAGE in data else _file_of(str(data["image"]))
    set_id = str(data.get(SET, ""))
    size = next(iter(sizes), None)
    return ImageMask(name, where, partial(_draw, results, size, where), set_id)


def _draw(
    results: Sequence[Mapping[str, Any]],
    size: tuple[int, int] | None,
    where: str,
    space: LabelSpace,
    wanted: tuple[int, int],
) -> LabelMap:
    """`ImageMask.draw`; brushes are unpacked only if they say that they have the size of the image."""
    if size is not None and size != wanted:
        return drawn_outlines((), size, ordered=True)(space, wanted)
    try:
        check_count(len(results), *wanted)
    except ValueError as problem:
        raise ValueError(f"is not drawn{problem}") from None
    try:
        outlines = tuple(o for one in results if (o := _outline(one, wanted, where)) is not None)
    except (KeyError, TypeError, AttributeError, IndexError, OverflowError) as problem:
        raise ValueError(f"is not Label Studio's: {problem}") from None
    return drawn_outlines(outlines, wanted, ordered=True)(space, wanted)


def _file_of(address: str) -> str:
    """The file that an address of Label Studio means: of its local files, or of an upload."""
    parsed = urlparse(address)
    local = parse_qs(parsed.query).get("d")
    path = local[0] if local else unquote(parsed.path)
    name = path.rpartition("/")[2]
    # An upload gets eight digits and a hyphen in front.
    return name[9:] if "/upload/" in path and name[8:9] == "-" else path


def _outline(one: Mapping[str, Any], size: tuple[int, int], where: str) -> Outline | None:
    kind, value = one["type"], one["value"]
    if kind not in _TYPES:
        raise ValueError(
            f"{where} has {str(kind)[:40]}, which is no mask (allowed: {', '.join(sorted(_TYPES))})"
        )
    if one.get("image_rotation") or value.get("rotation"):
        raise ValueError(f"{where} has something rotated; draw it as a polygon")
    segmentation = _segmentation(kind, value, size)
    return None if segmentation is None else Outline(str(value[kind][0]), segmentation)


def _segmentation(kind: str, value: Mapping[str, Any], size: tuple[int, int]) -> Segmentation | None:
    """Where a shape is; None for an empty brush. Coordinates are in per cent of the image."""
    height, width = size
    across, down = width / 100, height / 100
    if kind == "brushlabels":
        if not isinstance(value["rle"], list):
            raise ValueError("has brush run lengths that are no list")
        mask = decode_brush(bytes(value["rle"]), height, width)
        if not mask.any():
            return None
        _, counts = encode_rle(segment_from_mask(mask), height, width)
        return {"size": [height, width], "counts": counts.decode()}
    if kind == "polygonlabels":
        return [[float(v) for x, y in value["points"] for v in (x * across, y * down)]]
    x, y = float(value["x"]) * across, float(value["y"]) * down
    if kind == "ellipselabels":
        return ellipse(x, y, float(value["radiusX"]) * across, float(value["radiusY"]) * down)
    x1, y1 = x + float(value["width"]) * across, y + float(value["height"]) * down
    return [[x, y, x1, y, x1, y1, x, y1]]

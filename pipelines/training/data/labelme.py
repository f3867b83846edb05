"""LabelMe's files: one JSON file per image, with its outlines."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from segray.pipelines.config.commands.train import DataConfig
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.images import ImageProblem
from segray.pipelines.io.members import display_part
from segray.pipelines.io.names import Names
from segray.pipelines.io.sources import read_file
from segray.pipelines.io.sources.trees import Tree
from segray.pipelines.io.strict_json import parse_json
from segray.pipelines.training.data.annotated import Annotations, Drawing
from segray.pipelines.training.data.coco_masks import Segmentation, check_count
from segray.pipelines.training.data.labelled_outlines import AnnotatedImage, Outline, ellipse, outlined_images
from segray.pipelines.training.data.mask_checks import image_shape
from segray.pipelines.training.data.places import data_tree, list_samples
from segray.pipelines.training.data.samples import READ, DataSet

_READERS = 8
_BAD = (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError)
_MAX_BYTES = 1 << 28
_NO_IMAGE = "JSON files are of images that are not there"
_NO_AREA = "shapes have no area (points and lines): they are left out"


def open_labelme(config: DataConfig) -> DataSet:
    """All images below a folder and the LabelMe files beside them, or elsewhere below it.

    Raises:
        UserError: no image, no LabelMe file, or one that is something else.
    """
    tree = data_tree(config)
    samples = list_samples(config, "", tree)
    images = Names(samples)
    annotations = Annotations()
    listed = tree.files("", follow=config.image.follow_links).uris
    files = {name: uri for name, uri in listed.items() if name.lower().endswith(".json")}
    with ThreadPoolExecutor(_READERS) as pool:
        contents = list(pool.map(_read, files.values(), files))
    annotated = []
    for (name, where), content in zip(files.items(), contents, strict=True):
        if content is None:
            continue
        image_id = _image_of(name, content, images)
        if image_id is None:
            annotations.leave_out(_NO_IMAGE, name)
            continue
        annotated.append(_annotated(where, name, content, image_id, samples[image_id].image, annotations))
    if not annotated:
        there = f"{len(files)} JSON files, none of LabelMe with its image" if files else "no JSON file"
        raise UserError(f"data.root={storage.display(config.root)}: {there}")
    return outlined_images(config, samples, annotated, annotations)


def is_labelme(root: Tree) -> bool:
    """Whether one of the first JSON files below a folder is LabelMe's.

    Raises:
        UserError: it is not JSON.
    """
    files = ((name, uri) for name, uri in root.files("").uris.items() if name.lower().endswith(".json"))
    return any(_read(uri, name) is not None for name, uri in islice(files, 3))


def _read(uri: str, name: str) -> Mapping[str, Any] | None:
    """A LabelMe file; None for other JSON."""
    try:
        content = parse_json(read_file(uri, _MAX_BYTES))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{display_part(uri, name)} is not JSON: {str(error)[:200]}") from None
    return content if isinstance(content, Mapping) and "shapes" in content else None


def _image_of(name: str, content: Mapping[str, Any], images: Names) -> str | None:
    """The image that a file names, compared with those that are there; else the one of the same name."""
    folder = name.rpartition("/")[0]
    path = str(content.get("imagePath") or "").replace("\\", "/").removeprefix("./")
    match = images.find_path(f"{folder}/{path}" if folder else path) if path else None
    if match is not None:
        return match
    stem = name[: -len(".json")]
    same = [image for image in images if image.rpartition(".")[0] == stem]
    return same[0] if len(same) == 1 else None


def _annotated(
    where: str, name: str, content: Mapping[str, Any], image_id: str, image: str, annotations: Annotations
) -> AnnotatedImage:
    try:
        size = _size(content, image)
        outlines = []
        for shape in content["shapes"]:
            segmentation = _segmentation(shape, *size)
            if segmentation is None:
                annotations.leave_out(_NO_AREA, f"{shape['label']!r} in {name}")
            else:
                outlines.append(Outline(str(shape["label"]), segmentation))
    except ImageProblem as problem:
        raise UserError(f"image {image}: {problem.reason}") from None
    except _BAD as error:
        why = f"no {error}" if isinstance(error, KeyError) else str(error)[:200]
        raise UserError(f"{display_part(where, name)} is not a LabelMe file: {why}") from None
    return AnnotatedImage(image_id, Drawing(where, name, *size), tuple(outlines))


def _size(content: Mapping[str, Any], image: str) -> tuple[int, int]:
    """(height, width) of the image. Masks are unpacked: for them the file's word is not enough."""
    sides = [content.get(key) for key in ("imageHeight", "imageWidth")]
    stated = None if None in sides else (int(sides[0] or 0), int(sides[1] or 0))
    masks = sum(shape.get("shape_type") == "mask" for shape in content["shapes"])
    if stated is not None and not masks:
        return stated
    size = image_shape(image)
    if stated not in (None, size):
        raise ValueError(f"{sides[1]}x{sides[0]} pixels, its image has {size[1]}x{size[0]}")
    check_count(masks, *size)
    return size


def _segmentation(shape: Mapping[str, Any], height: int, width: int) -> Segmentation | None:
    """Where a shape is; None for points and lines."""
    kind = shape.get("shape_type") or "polygon"
    points = [[x, y] for x, y in shape["points"]]
    if kind == "polygon":
        return [[v for point in points for v in point]] if len(points) > 2 else None
    if kind == "rectangle":
        (x0, y0), (x1, y1) = points[0], points[2 if len(points) == 4 else 1]
        return [[x0, y0, x1, y0, x1, y1, x0, y1]]
    if kind == "circle":
        (x, y), (edge_x, edge_y) = points
        radius = float(np.hypot(edge_x - x, edge_y - y))
        return ellipse(x, y, radius, radius)
    if kind == "mask":
        return _mask(shape["mask"], points, height, width)
    if kind in {"point", "line", "linestrip", "points"}:
        return None
    raise ValueError(f"a shape of the type {str(kind)[:40]!r}")


def _mask(text: str, points: list[list[float]], height: int, width: int) -> Segmentation:
    """A PNG in base64, whose first point is its upper left corner."""
    if height * width > READ.max_pixels:
        raise ValueError(f"{width}x{height} pixels")
    try:
        with Image.open(io.BytesIO(base64.b64decode(text)), formats=["PNG"]) as image:
            if image.width > width or image.height > height:
                raise ValueError(
                    f"a mask of {image.width}x{image.height} in an image of {width}x{height} pixels"
                )
            pixels = np.asarray(image) > 0
    except (OSError, binascii.Error, SyntaxError) as error:
        raise ValueError(f"a mask that is no PNG ({str(error)[:80]})") from None
    x, y = int(points[0][0]), int(points[0][1])
    whole = np.zeros((height, width), np.uint8, order="F")
    if x < 0 or y < 0 or pixels.ndim != 2:
        raise ValueError("a mask outside of its image")
    inside = pixels[: max(0, height - y), : max(0, width - x)]
    whole[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
    rle = coco_mask.encode(whole)
    return {"size": [height, width], "counts": rle["counts"].decode()}

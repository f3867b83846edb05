"""COCO's instances, as pycocotools reads them and most tools write them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from segray.pipelines.importing.base import ImageMask, drawn_outlines
from segray.pipelines.training.data.labelled_outlines import Outline


def is_coco(content: object) -> bool:
    """Whether the content of a JSON file is COCO's."""
    return isinstance(content, dict) and {"images", "annotations", "categories"} <= content.keys()


def read_coco(content: Mapping[str, Any]) -> Iterator[ImageMask]:
    """The images that have an annotation; COCO does not say of others whether anyone looked at them.

    Smaller annotations lie on top, as in a label set.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: not COCO's, or an annotation without an outline.
    """
    categories = {category["id"]: str(category["name"]) for category in content["categories"]}
    outlines: dict[object, list[Outline]] = defaultdict(list)
    for number, annotation in enumerate(content["annotations"]):
        segmentation = annotation.get("segmentation")
        if not segmentation:
            raise ValueError(f"annotation {annotation.get('id', number)} has a box and no outline")
        outlines[annotation["image_id"]].append(Outline(categories[annotation["category_id"]], segmentation))
    images = {image["id"]: image for image in content["images"]}
    if unlisted := outlines.keys() - images.keys():
        raise ValueError(f"annotations of image {min(map(str, unlisted))}, which it does not list")
    set_id = str((content.get("info") or {}).get("segray_set", ""))
    for number, image in images.items():
        if outlines[number]:
            size = (int(image["height"]), int(image["width"]))
            draw = drawn_outlines(tuple(outlines[number]), size, ordered=False)
            yield ImageMask(str(image["file_name"]), f"image {number}", draw, set_id)

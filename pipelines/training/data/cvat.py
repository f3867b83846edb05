"""CVAT's own XML ("CVAT for images"): all images and outlines in one file."""

from __future__ import annotations

from collections.abc import Mapping
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from segray.pipelines.config.commands.train import DataConfig
from segray.pipelines.errors import UserError
from segray.pipelines.io.members import display_part
from segray.pipelines.io.names import Names
from segray.pipelines.io.sources import read_file
from segray.pipelines.training.data.annotated import Annotations, Drawing
from segray.pipelines.training.data.coco_layout import named_file
from segray.pipelines.training.data.coco_masks import Segmentation
from segray.pipelines.training.data.labelled_outlines import (
    VALIDATION,
    AnnotatedImage,
    Outline,
    ellipse,
    outlined_images,
)
from segray.pipelines.training.data.places import data_tree, list_samples, place_of
from segray.pipelines.training.data.samples import DataSet

FILE = "annotations.xml"
MAX_BYTES = 1 << 30
MAX_TAGS = 8_000_000
"""Of a file; each element has one or two, and takes a hundred bytes of memory or more."""
_NO_AREA = "shapes have no area (points, lines, tags): they are left out"
_ABSENT = "images of the file are not there"
_UNANNOTATED = "images of the file have no annotation: they count as background alone"


def open_cvat(config: DataConfig) -> DataSet:
    """Images with a file of CVAT: `annotations.xml`, or `data.annotations`.

    Raises:
        UserError: no such file, another file, one that is made to harm, or none of its images.
    """
    tree = data_tree(config)
    where = named_file(tree, config.annotations or FILE, "data.annotations")
    file = (config.annotations or FILE).rpartition("/")[2]
    shown = display_part(where, file)
    root = parse_cvat(shown, _read(where, shown))
    images_tree, folder = place_of(config, tree, "images", "")
    samples = list_samples(config, folder, images_tree)
    listed, annotations = Names(samples), Annotations()
    images = []
    try:
        for element in root.findall("image"):
            name = _required(element, "name").replace("\\", "/")
            image_id = listed.find_path(f"{folder}/{name}" if folder else name)
            if image_id is None:
                annotations.leave_out(_ABSENT, name)
                continue
            images.append(cvat_image(element, image_id, where, file, annotations))
    except (ValueError, OverflowError) as error:
        raise UserError(f"{shown} is not a file of CVAT: {str(error)[:200]}") from None
    names = [label.text.strip() for label in root.iterfind(".//meta//label/name") if label.text]
    return outlined_images(config, samples, images, annotations, list(dict.fromkeys(names)))


def _read(where: str, shown: str) -> bytes:
    try:
        return read_file(where, MAX_BYTES)
    except OSError as error:
        raise UserError(f"cannot read {shown}: {error}") from None


def parse_cvat(shown: str, data: bytes) -> Element:
    """The root of CVAT's XML.

    Args:
        shown: the file, for messages.
        data: its bytes.

    Raises:
        UserError: another file, one that is made to harm, or tracks of a video.
    """
    if (tags := data.count(b"<")) > MAX_TAGS:
        raise UserError(f"{shown} has {tags} tags (allowed: at most {MAX_TAGS}); export it in parts")
    try:
        root: Element = fromstring(data, forbid_dtd=True)
    except DefusedXmlException:
        raise UserError(f"{shown} is refused: it declares entities or a document type") from None
    except (ParseError, ValueError) as error:
        raise UserError(f"{shown} is not XML: {str(error)[:200]}") from None
    if root.tag != "annotations":
        raise UserError(f"{shown} is not a file of CVAT: its root is <{root.tag[:40]}>")
    if root.find("track") is not None:
        raise UserError(f"{shown} holds tracks of a video; export it as 'CVAT for images'")
    return root


def cvat_image(
    element: Element, image_id: str, where: str, file: str, annotations: Annotations
) -> AnnotatedImage:
    """An image and its outlines, the lowest first.

    Args:
        element: <image>.
        image_id: of the image.
        where: URI of the file.
        file: its name.
        annotations: counts what is left out.

    Raises:
        ValueError: not an image of CVAT.
    """
    height, width = int(_required(element, "height")), int(_required(element, "width"))
    shapes = sorted(element, key=lambda shape: int(shape.get("z_order") or 0))
    outlines = []
    for shape in shapes:
        segmentation = _segmentation(shape, height, width)
        if segmentation is None:
            annotations.leave_out(_NO_AREA, f"<{shape.tag}> in {element.get('name')}")
        else:
            outlines.append(Outline(_required(shape, "label"), segmentation))
    if not outlines:
        annotations.leave_out(_UNANNOTATED, image_id)
    mask_id = f"{file}#{element.get('id', '')}"
    validation = (element.get("subset") or "").lower() in VALIDATION
    return AnnotatedImage(image_id, Drawing(where, mask_id, height, width), tuple(outlines), validation)


def _segmentation(shape: Element, height: int, width: int) -> Segmentation | None:
    """Where a shape is; None for points, lines and tags."""
    if shape.tag == "polygon":
        points = [pair.split(",") for pair in _required(shape, "points").split(";")]
        return [[float(v) for x, y in points for v in (x, y)]]
    if shape.tag == "box":
        if float(shape.get("rotation") or 0):
            raise ValueError("a rotated box; draw it as a polygon")
        x0, y0, x1, y1 = (float(_required(shape, key)) for key in ("xtl", "ytl", "xbr", "ybr"))
        return [[x0, y0, x1, y0, x1, y1, x0, y1]]
    if shape.tag == "ellipse":
        return ellipse(*(float(_required(shape, key)) for key in ("cx", "cy", "rx", "ry")))
    if shape.tag == "mask":
        return _mask(shape.attrib, height, width)
    return None


def _mask(shape: Mapping[str, str], height: int, width: int) -> Segmentation:
    """Run lengths inside a box; how large the image really is, is not known here."""
    box = [int(shape[key]) for key in ("left", "top", "width", "height")]
    return {"size": [height, width], "box": box, "rows": shape["rle"]}


def _required(element: Element, key: str) -> str:
    value = element.get(key)
    if value is None:
        raise ValueError(f"<{element.tag[:40]}> without {key}")
    return value

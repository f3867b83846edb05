"""CVAT's own XML ("CVAT for images"): all images and outlines in one file."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from functools import lru_cache
from xml.etree.ElementTree import Element, ParseError, TreeBuilder

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from segray.pipelines.config.commands.train import DataConfig
from segray.pipelines.errors import UserError
from segray.pipelines.io.members import display_part
from segray.pipelines.io.names import Names
from segray.pipelines.io.sources import read_file
from segray.pipelines.training.data.annotated import Annotations, Drawing
from segray.pipelines.training.data.coco_layout import named_file
from segray.pipelines.training.data.coco_masks import MAX_OUTLINE, Segmentation
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
MAX_BYTES = 1 << 28
MAX_TAGS = 3_000_000
"""Of a file; each element has one or two. A shape takes 100 to 400 bytes of memory, 16 to 64 per point."""
MAX_TAG = 1 << 24
"""Bytes from one tag to the next: expat reads an unfinished one again with each piece. As newer versions let
it wait for as many bytes again, half of this is a tag that is always read."""
MAX_NAMES = 1000
"""Of elements, attributes and prefixes: expat keeps each one, in 27 bytes per byte. CVAT has about 60."""
TOO_LARGE = f"has more than {MAX_BYTES >> 20} MB; export it in parts"
_PIECE = 1 << 20
"""Python gives expat no more at a time, either."""
_USUAL_DIGITS = 16
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
    data = _read(where, shown)
    images_tree, folder = place_of(config, tree, "images", "")
    samples = list_samples(config, folder, images_tree)
    listed, annotations = Names(samples), Annotations()
    images: list[AnnotatedImage] = []
    names: list[str] = []

    def take(element: Element) -> None:
        if element.tag == "meta":
            names.extend(label.text.strip() for label in element.iterfind(".//label/name") if label.text)
        if element.tag != "image":
            return
        name = _required(element, "name").replace("\\", "/")
        image_id = listed.find_path(f"{folder}/{name}" if folder else name)
        if image_id is None:
            annotations.leave_out(_ABSENT, name)
        else:
            images.append(cvat_image(element, image_id, where, file, annotations))

    read_elements(shown, data, take)
    return outlined_images(config, samples, images, annotations, list(dict.fromkeys(names)))


def _read(where: str, shown: str) -> bytes:
    try:
        return read_file(where, MAX_BYTES)
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise UserError(f"{shown} {TOO_LARGE}") from None
        raise UserError(f"cannot read {shown}: {error}") from None


def read_elements(shown: str, data: bytes, take: Callable[[Element], None]) -> None:
    """Take the elements below the root of CVAT's XML one at a time, so that there is never a tree of all.

    Args:
        shown: the file, for messages.
        data: its bytes.
        take: called with each element; raises a ValueError, KeyError or OverflowError for what is not CVAT's.

    Raises:
        UserError: another file, one that is made to harm, or tracks of a video.
    """
    if (tags := data.count(b"<")) > MAX_TAGS:
        raise UserError(f"{shown} has {tags} tags (allowed: at most {MAX_TAGS}); export it in parts")
    children = _Children(shown, take)
    parser = DefusedXMLParser(target=children, forbid_dtd=True)
    try:
        for start in range(0, len(data), _PIECE):
            piece = data[start : start + _PIECE]
            children.expect(len(piece))
            parser.feed(piece)
        parser.close()
    except DefusedXmlException:
        raise UserError(f"{shown} is refused: it declares entities or a document type") from None
    except (ParseError, ValueError, LookupError) as error:  # the last for an encoding that nobody knows
        raise UserError(f"{shown} is not XML: {str(error)[:200]}") from None


class _Children:
    """A parser's target that hands on each child of the root, and forgets it."""

    def __init__(self, shown: str, take: Callable[[Element], None]) -> None:
        self._shown, self._take = shown, take
        self._level, self._builder = 0, TreeBuilder()
        self._names: set[str] = set()
        self._since_tag = 0

    def expect(self, size: int) -> None:
        """More bytes are about to be parsed.

        Raises:
            UserError: there were too many since the last tag.
        """
        self._since_tag += size
        if self._since_tag > MAX_TAG:
            raise UserError(
                f"{self._shown} has a piece without a tag of more than {MAX_TAG} bytes, the most allowed"
            )

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """An element begins."""
        self._since_tag = 0
        self._know(tag, *attributes)
        if self._level == 0 and tag != "annotations":
            raise UserError(f"{self._shown} is not a file of CVAT: its root is <{tag[:40]}>")
        if self._level == 1 and tag == "track":
            raise UserError(f"{self._shown} holds tracks of a video; export it as 'CVAT for images'")
        if self._level:
            self._builder.start(tag, attributes)
        self._level += 1

    def end(self, tag: str) -> None:
        """An element ends."""
        self._since_tag = 0
        self._level -= 1
        if not self._level:
            return
        element = self._builder.end(tag)
        if self._level > 1:
            return
        self._builder = TreeBuilder()
        try:
            self._take(element)
        except (ValueError, KeyError, OverflowError) as error:
            raise UserError(f"{self._shown} is not a file of CVAT: {str(error)[:200]}") from None

    def start_ns(self, prefix: str, uri: str) -> None:  # noqa: ARG002  the parser's signature
        """A prefix is declared, which is not among the attributes."""
        self._know(prefix)

    def _know(self, *names: str) -> None:
        self._names.update(names)
        if len(self._names) > MAX_NAMES:
            raise UserError(
                f"{self._shown} has more than {MAX_NAMES} names of elements and attributes; "
                "it is not a file of CVAT"
            )

    def data(self, text: str) -> None:
        """Text in an element."""
        if self._level > 1:
            self._builder.data(text)

    def close(self) -> None:
        """The file ends."""


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
        points = _required(shape, "points")
        if (count := 1 + points.count(";")) > MAX_OUTLINE:
            raise ValueError(f"a polygon of {count} points (allowed: at most {MAX_OUTLINE})")
        pairs = (pair.split(",") for pair in points.split(";"))
        return [[_coordinate(v) for x, y in pairs for v in (x, y)]]
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


def _coordinate(text: str) -> float:
    """One object for all that are equal: lists of them are most of what a file takes."""
    return _known_float(text) if len(text) <= _USUAL_DIGITS else float(text)


_known_float = lru_cache(1 << 16)(float)


def _mask(shape: Mapping[str, str], height: int, width: int) -> Segmentation:
    """Run lengths inside a box; how large the image really is, is not known here."""
    box = [int(shape[key]) for key in ("left", "top", "width", "height")]
    return {"size": [height, width], "box": box, "rows": shape["rle"]}


def _required(element: Element, key: str) -> str:
    value = element.get(key)
    if value is None:
        raise ValueError(f"<{element.tag[:40]}> without {key}")
    return value

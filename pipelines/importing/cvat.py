"""CVAT: "CVAT for images", as XML or as the zip archive that holds it."""

from __future__ import annotations

import io
import zipfile
from xml.etree.ElementTree import Element

from segray.pipelines.errors import UserError
from segray.pipelines.exporting.cvat import TASK
from segray.pipelines.importing.base import ImageMask, drawn_outlines
from segray.pipelines.io import storage
from segray.pipelines.training.data.annotated import Annotations
from segray.pipelines.training.data.cvat import FILE, MAX_BYTES, TOO_LARGE, cvat_image, read_elements
from segray.pipelines.training.data.labelled_outlines import AnnotatedImage

_RATIO, _SLACK = 50, 1 << 24
"""Bytes that may be unpacked for each byte of an archive, and for any archive; shapes take 5 to 20."""


def read_cvat(where: str, data: bytes) -> list[ImageMask]:
    """The images of the file that have a shape; CVAT does not say of others whether anyone looked at them.

    Raises:
        UserError: not a file of CVAT, or shapes that have no area.
    """
    shown = storage.display(where)
    data = unzipped(where, data) if data[:2] == b"PK" else data
    if len(data) > MAX_BYTES:
        raise UserError(f"{shown} {TOO_LARGE}")
    left_out, file = Annotations(), where.rpartition("/")[2]
    images: list[AnnotatedImage] = []
    tasks: list[str] = []

    def take(element: Element) -> None:
        if element.tag == "meta":
            names = (name.text or "" for name in element.iterfind(".//name"))
            tasks.extend(name for name in names if name.startswith(TASK))
        elif element.tag == "image":
            image = cvat_image(element, element.get("name") or "", where, file, left_out)
            images.extend([image] if image.outlines else [])

    read_elements(shown, data, take)
    task = tasks[0].removeprefix(TASK) if tasks else ""
    return [_mask(image, task) for image in images]


def _mask(image: AnnotatedImage, task: str) -> ImageMask:
    size = (image.drawing.height, image.drawing.width)
    draw = drawn_outlines(image.outlines, size, ordered=True)
    return ImageMask(image.image_id, image.drawing.mask_id, draw, task)


def unzipped(where: str, data: bytes) -> bytes:
    """annotations.xml of an archive.

    Raises:
        UserError: there is none, or it cannot be unpacked.
    """
    shown = storage.display(where)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = [name for name in archive.namelist() if name.rpartition("/")[2] == FILE]
            if len(names) != 1:
                raise UserError(f"{shown} has no {FILE}; export the task as 'CVAT for images'")
            most = min(MAX_BYTES, _RATIO * len(data) + _SLACK)
            if archive.getinfo(names[0]).file_size > most:
                raise UserError(f"{shown}: {FILE} unpacks to more than {most} bytes")
            with archive.open(names[0]) as file:
                return file.read(most)
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError, NotImplementedError, EOFError) as error:
        raise UserError(f"{shown} is not a readable zip archive: {str(error)[:200]}") from None

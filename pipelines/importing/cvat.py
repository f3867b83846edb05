"""CVAT: "CVAT for images", as XML or as the zip archive that holds it."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator

from segray.pipelines.errors import UserError
from segray.pipelines.exporting.cvat import TASK
from segray.pipelines.importing.base import ImageMask, drawn_outlines
from segray.pipelines.io import storage
from segray.pipelines.training.data.annotated import Annotations
from segray.pipelines.training.data.cvat import FILE, MAX_BYTES, cvat_image, parse_cvat

_RATIO, _SLACK = 50, 1 << 24
"""Bytes that may be unpacked for each byte of an archive, and for any archive; shapes take 5 to 20."""


def read_cvat(where: str, data: bytes) -> Iterator[ImageMask]:
    """The images of the file that have a shape; CVAT does not say of others whether anyone looked at them.

    Raises:
        UserError: not a file of CVAT, or shapes that have no area.
    """
    shown = storage.display(where)
    root = parse_cvat(shown, unzipped(where, data) if data[:2] == b"PK" else data)
    task = (
        next((n.text for n in root.iterfind("./meta//name") if (n.text or "").startswith(TASK)), None) or ""
    )
    left_out, file = Annotations(), where.rpartition("/")[2]
    try:
        for element in root.findall("image"):
            image = cvat_image(element, element.get("name") or "", where, file, left_out)
            if image.outlines:
                size = (image.drawing.height, image.drawing.width)
                draw = drawn_outlines(image.outlines, size, ordered=True)
                yield ImageMask(image.image_id, image.drawing.mask_id, draw, task.removeprefix(TASK))
    except (ValueError, KeyError, OverflowError) as error:
        raise UserError(f"{shown} is not a file of CVAT: {str(error)[:200]}") from None


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

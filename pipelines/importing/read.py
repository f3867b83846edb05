"""Find out what a file is, and read it."""

from __future__ import annotations

from collections.abc import Sequence

from segray.models.label_space import LabelSpace
from segray.pipelines.errors import UserError
from segray.pipelines.importing.base import ImageMask
from segray.pipelines.importing.coco import is_coco, read_coco
from segray.pipelines.importing.cvat import read_cvat
from segray.pipelines.importing.folder import read_folder
from segray.pipelines.importing.label_studio import is_label_studio, read_label_studio
from segray.pipelines.io import storage
from segray.pipelines.io.strict_json import parse_json
from segray.pipelines.masks.options import MaskOptions

_MAX_BYTES = 1 << 29
_NAMES = {"cvat": "CVAT for images", "coco": "COCO instances", "labelstudio": "Label Studio's tasks"}
_BAD = (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError)


def read_masks(
    source: str, form: str, options: MaskOptions, space: LabelSpace, image_ids: Sequence[str]
) -> list[ImageMask]:
    """What a file or folder of another tool says about images, all of it.

    Args:
        source: file or folder.
        form: auto, png, cvat, coco or labelstudio.
        options: how mask files are read.
        space: the classes of the label set.
        image_ids: its labelled images.

    Raises:
        UserError: none of these formats, or another one than `form`.
    """
    shown = f"from={storage.display(source)}"
    try:
        if storage.stat(source) is None:
            return _folder(source, form, options, space, image_ids)
        data = storage.read_bytes(source, _MAX_BYTES)
    except OSError as error:
        raise UserError(f"{shown}: cannot be read: {error.strerror or error}") from None
    found, masks = _file(source, data, shown)
    if form not in ("auto", found):
        raise UserError(f"{shown} is {_NAMES[found]}, not format={form}")
    return masks


def _folder(
    source: str, form: str, options: MaskOptions, space: LabelSpace, image_ids: Sequence[str]
) -> list[ImageMask]:
    if form not in ("auto", "png"):
        raise UserError(f"from={storage.display(source)} is a folder; format={form} is a file")
    return list(read_folder(source, options, space, image_ids))


def _file(source: str, data: bytes, shown: str) -> tuple[str, list[ImageMask]]:
    start = data[:64].lstrip(b"\xef\xbb\xbf \t\r\n")
    if data[:2] == b"PK" or start[:1] == b"<":
        return "cvat", read_cvat(source, data)
    found = "JSON"
    try:
        content = parse_json(data)
        if is_coco(content):
            found = _NAMES["coco"]
            return "coco", list(read_coco(content))
        if is_label_studio(content):
            found = _NAMES["labelstudio"]
            return "labelstudio", list(read_label_studio(content))
    except _BAD as error:
        why = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{shown} is not {found}: {' '.join(why.split())[:300]}") from None
    raise UserError(
        f"{shown} is none of the formats (allowed: a folder of masks, CVAT for images as XML or zip, COCO "
        "instances, Label Studio's JSON)"
    )

"""Find out what a file is, and read it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from segray.models.label_space import LabelSpace
from segray.pipelines.errors import UserError
from segray.pipelines.importing.base import ImageMask
from segray.pipelines.importing.coco import is_coco, read_coco
from segray.pipelines.importing.cvat import read_cvat
from segray.pipelines.importing.folder import read_folder
from segray.pipelines.importing.label_studio import is_label_studio, read_label_studio
from segray.pipelines.importing.yolo import is_label_file, read_yolo
from segray.pipelines.io import storage
from segray.pipelines.io.sources import ImageRef, list_members, read_file
from segray.pipelines.io.sources.trees import open_tree, source_text
from segray.pipelines.io.strict_json import parse_json
from segray.pipelines.io.uris import parent
from segray.pipelines.masks.options import MaskOptions
from segray.pipelines.masks.raster import ENDINGS
from segray.pipelines.training.data.cvat import FILE
from segray.pipelines.training.data.yolo_labels import description_of
from segray.pipelines.understood import name_some

_MAX_BYTES = 1 << 29
_NAMES = {"cvat": "CVAT for images", "coco": "COCO instances", "labelstudio": "Label Studio's tasks"}
_ARCHIVES = (".zip", ".tar")
_YAML = (".yaml", ".yml")
_TRIED = 20
"""JSON files of an archive that are read in search of annotations."""
_BAD = (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError)


def read_masks(
    source: str, form: str, options: MaskOptions, space: LabelSpace, image_ids: Sequence[str]
) -> list[ImageMask]:
    """What a file or folder of another tool says about images, all of it.

    Args:
        source: file or folder, or an archive with either.
        form: auto, png, cvat, coco, labelstudio or yolo.
        options: how mask files are read.
        space: the classes of the label set.
        image_ids: its labelled images.

    Raises:
        UserError: none of these formats, or another one than `form`.
    """
    shown = f"from={storage.display(source)}"
    yolo = _yolo(source, form, options, image_ids) if form in ("auto", "yolo") else None
    if yolo is not None:
        return yolo
    try:
        packed = storage.split_query(source)[0].lower().endswith(_ARCHIVES)
        file = _annotations_in(source, shown) if packed else source
        if file is None or storage.stat(source) is None:
            return _folder(source, form, options, space, image_ids)
        data = read_file(file, _MAX_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{shown}: no such file or folder") from None
    except OSError as error:
        raise UserError(f"{shown}: cannot be read: {error.strerror or error}") from None
    found, masks = _file(source, data, shown)
    if form not in ("auto", found):
        raise UserError(f"{shown} is {_NAMES[found]}, not format={form}")
    return masks


def _yolo(source: str, form: str, options: MaskOptions, image_ids: Sequence[str]) -> list[ImageMask] | None:
    """The masks of a folder or an archive of YOLO, or of its data.yaml; None for anything else."""
    named = source.rpartition("/")[2] if source.endswith(_YAML) else None
    try:
        tree = open_tree(source if named is None else parent(source))
        description = named or description_of(tree)
        files = tree.files("", follow=options.follow_links).uris if description else {}
    except (OSError, UserError):
        # What reads the other formats says what is wrong.
        return None
    if description is None or (form == "auto" and not named and _has_masks_alone(files)):
        return None
    return read_yolo(tree, files, description, image_ids)


def _has_masks_alone(files: Iterable[str]) -> bool:
    """Whether mask files lie beside class names, and no label files: the names are those of the masks."""
    return any(name.lower().endswith(ENDINGS) for name in files) and not any(map(is_label_file, files))


def _folder(
    source: str, form: str, options: MaskOptions, space: LabelSpace, image_ids: Sequence[str]
) -> list[ImageMask]:
    if form == "yolo":
        raise UserError(
            f"from={storage.display(source)}: no data.yaml, and no classes.txt beside labels/; "
            "from=FILE.yaml names another description"
        )
    if form not in ("auto", "png"):
        raise UserError(f"from={storage.display(source)} has masks, and no file of format={form}")
    return list(read_folder(source, options, space, image_ids))


def _annotations_in(archive: str, shown: str) -> str | None:
    """The file of annotations in an archive; None if it has masks.

    Raises:
        UserError: it cannot be read, or has several such files.
    """
    try:
        members = list_members(archive)
    except UserError as error:
        raise UserError(f"{shown}: {source_text(error, archive)}") from None
    named = [(member.image_id.rpartition("/")[2], member) for member in members]
    found = [member for name, member in named if name == FILE]
    found = found or _json_files([member for name, member in named if name.lower().endswith(".json")], named)
    if len(found) > 1:
        some = name_some([member.image_id for member in found], 3)
        raise UserError(
            f"{shown}: {len(found)} files of annotations ({some}); unpack it and give one of them"
        )
    if found and found[0].problem:
        raise UserError(f"{shown}: {found[0].image_id}: {found[0].problem}")
    return found[0].uri if found else None


def _json_files(files: list[ImageRef], members: Iterable[tuple[str, ImageRef]]) -> list[ImageRef]:
    """The JSON files that may be annotations: others lie beside masks, and beside annotations."""
    masks = any(name.lower().endswith(ENDINGS) for name, _ in members)
    if not masks and len(files) < 2:
        return files
    annotations = [file for file in files[:_TRIED] if _has_annotations(file)]
    return annotations if annotations or masks else files


def _has_annotations(file: ImageRef) -> bool:
    """Whether a JSON file is of a format that is read, or cannot be opened; a damaged one is not."""
    try:
        content = parse_json(read_file(file.uri, _MAX_BYTES))
    except _BAD:
        return False
    except OSError:
        return True
    return is_coco(content) or (bool(content) and is_label_studio(content))


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
        f"{shown} is none of the formats (allowed: a folder of masks, CVAT for images, COCO instances, Label "
        "Studio's JSON, YOLO, or a zip or tar of them)"
    )

"""`segray masks`: convert masks of any kind to PNG files of class ids, and show them on a page."""

from __future__ import annotations

import io
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segray.models.label_map import LabelMap
from segray.models.label_space import LabelSpace, no_class_name
from segray.pipelines.config.commands.masks import MasksConfig
from segray.pipelines.config.commands.train import DataConfig
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.images import FORMATS, ImageProblem, decode
from segray.pipelines.io.label_png import encode_gray_png
from segray.pipelines.io.listing import is_image
from segray.pipelines.io.sources import read_allowed
from segray.pipelines.io.sources.trees import Tree
from segray.pipelines.label_set.schema import class_pixels
from segray.pipelines.masks.binary import FROM_1, no_zero_text
from segray.pipelines.printing import echo
from segray.pipelines.reporting import thumbnails
from segray.pipelines.reporting.masks import MaskFigures, MaskSample, page
from segray.pipelines.training.data.class_names import FILE
from segray.pipelines.training.data.coco_layout import is_coco
from segray.pipelines.training.data.cvat import FILE as CVAT_FILE
from segray.pipelines.training.data.datasets import read_mask
from segray.pipelines.training.data.labelme import is_labelme
from segray.pipelines.training.data.places import data_tree
from segray.pipelines.training.data.samples import READ, DataSet, Sample, grouped
from segray.pipelines.training.data.training_data import READERS, check_keys, plain_ids
from segray.pipelines.training.data.voc import IMAGES as VOC_IMAGES
from segray.pipelines.training.data.voc import MASKS as VOC_MASKS
from segray.pipelines.training.data.yolo_labels import description_of
from segray.pipelines.understood import PixelCounts, classes_line, line, name_some, show

_WORKERS = 4
_ENDINGS = {"JPEG2000": "jp2", "MPO": "jpeg"}
"""Formats whose name is no ending of an image; the others have one that is."""
_ANNOTATIONS = {"xml": "cvat", "yaml": "yolo", "yml": "yolo", "txt": "yolo", "names": "yolo"}
"""Kinds by the ending of `annotations`."""
_KEYS = re.compile(rf"\bdata\.({'|'.join(DataConfig.model_fields)})\b")


@dataclass(frozen=True)
class _Written:
    """A mask that was written.

    Attributes:
        name: of the image under images/.
        mask: [H, W].
        image: the image's bytes.
    """

    name: str
    mask: LabelMap
    image: bytes


def run(config: MasksConfig) -> None:
    """Convert, print what was found and what was left out, and write masks.html.

    Raises:
        UserError: `out` is not empty, nothing can be converted, or the keys do not fit the masks.
    """
    try:
        _run(config)
    except UserError as error:
        # The readers are those of train, whose keys have a section.
        raise UserError(_own_keys(str(error)), exit_code=error.exit_code) from None


def _own_keys(text: str) -> str:
    """A message with the keys of this command."""
    return _KEYS.sub(lambda key: "in" if key[1] == "root" else key[1], text)


def _run(config: MasksConfig) -> None:
    if storage.list_names(config.out):
        raise UserError(f"out={storage.display(config.out)} is not an empty folder; give a new one")
    data_config = _data_config(config)
    check_keys(data_config)
    data = READERS[data_config.kind](data_config)
    masked = [sample for sample in data.samples.values() if sample.mask]
    problems = data.problems(masked)
    good = [sample for sample in masked if sample.image_id not in problems]
    data.check(good or masked)
    show([classes_line(data.space.classes), line("images", _images_text(data, good, masked))])
    show(_ids_line(data_config, data.space, data.pixels(good), problems.values()) if good else [])
    figures = _convert(config, data, good)
    bad = [(sample, problems[sample.image_id]) for sample in masked if sample.image_id in problems]
    left_out = [_own_keys(text) for text in (*grouped(bad), *data.left_out)]
    show(line("left out", text) for text in left_out[:20])
    show([line("left out", f"{len(left_out) - 20} more")] if len(left_out) > 20 else [])
    _write_names(config.out, data.space)
    html = page(storage.display(config.source), figures, left_out)
    storage.write_atomic(storage.join(config.out, "masks.html"), html.encode())
    echo(_table(figures))
    where = storage.display(config.out)
    echo(f"wrote {where}: images/, masks/, {FILE}, masks.html; train on it with data.root={where}")


def _data_config(config: MasksConfig) -> DataConfig:
    # Whether a key was set counts for some.
    same = config.model_dump(exclude={"in", "out", "kind", "n"}, exclude_unset=True)
    data = DataConfig.model_validate({**same, "root": config.source})
    kind = _kind(config, data_tree(data)) if config.kind == "auto" else config.kind
    return data.model_copy(update={"kind": kind})


def _kind(config: MasksConfig, root: Tree) -> str:
    """The layout of a data set, by the files that are there."""
    if config.annotations is not None:
        return _ANNOTATIONS.get(config.annotations.lower().rpartition(".")[2], "coco")
    if config.masks is not None:
        return "folder"
    names = set(root.names(""))
    if CVAT_FILE in names:
        return "cvat"
    if {VOC_IMAGES, *VOC_MASKS} & names:
        return "voc"
    if "masks" in names:
        return "folder"
    if is_coco(root):
        return "coco"
    if is_labelme(root):
        return "labelme"
    if description_of(root):
        return "yolo"
    return "coco" if any(name.endswith(".json") for name in names) else "folder"


def _images_text(data: DataSet, good: Sequence[Sample], masked: Sequence[Sample]) -> str:
    without = len(data.samples) - len(masked)
    bad = len(masked) - len(good)
    parts = [f"{len(good)} with a mask"]
    parts += [f"{without} without a mask are not copied"] if without else []
    parts += [f"{bad} with a bad mask"] if bad else []
    return ", ".join(parts)


def _ids_line(
    config: DataConfig, space: LabelSpace, pixels: PixelCounts, problems: Iterable[str]
) -> list[str]:
    """What may be wrong with masks none of which has id 0.

    Raises:
        UserError: another mask has an id too many: all of their ids are one higher.
    """
    if not plain_ids(config) or 0 not in pixels.absent or not any(pixels.pixels):
        return []
    shifted = next((problem for problem in problems if FROM_1 in problem), None)
    if shifted is not None:
        raise UserError(shifted)
    return [line("ids", _own_keys(no_zero_text(space.classes[0], "data.colors")))]


def _convert(config: MasksConfig, data: DataSet, samples: Sequence[Sample]) -> MaskFigures:
    """Write images and masks; the figures of all, and what the page shows of some."""
    names = _names(data, samples)
    stems = Counter(posixpath.splitext(name)[0] for name in names)
    shown = {i * len(samples) // config.n for i in range(config.n)} if len(samples) > config.n else None
    palette = LabelSpace(data.space.classes, ()).palette()
    counts: list[NDArray[np.int64]] = []
    sheet: list[MaskSample] = []
    with ThreadPoolExecutor(_WORKERS) as pool:
        written_masks = pool.map(lambda n, s: _write(config.out, n, s, stems), names, data.ready(samples))
        for place, written in enumerate(written_masks):
            counts.append(class_pixels(written.mask, len(data.space.classes)))
            if shown is None or place in shown:
                sheet.append(_shown(written, data.space, palette))
    pixels = PixelCounts.of(counts, len(data.space.classes), len(data.space.classes))
    images = tuple(int(n) for n in np.count_nonzero(np.stack(counts), axis=0)[: len(data.space.classes)])
    return MaskFigures(data.space.classes, palette, pixels, images, tuple(sheet))


def _write(out: str, name: str, sample: Sample, stems: Counter[str]) -> _Written:
    mask, image = read_mask(sample), _image(sample)
    name = name if is_image(name) else f"{name}{_ending(image)}"
    stem = posixpath.splitext(name)[0]
    mask_name = f"{stem if stems[stem] == 1 else name}.png"
    storage.write_atomic(storage.join(out, "images", *name.split("/")), image)
    storage.write_atomic(storage.join(out, "masks", *mask_name.split("/")), encode_gray_png(mask))
    return _Written(name, mask, image)


def _image(sample: Sample) -> bytes:
    try:
        return read_allowed(sample.image, sample.read.roots, follow=sample.read.follow_links)
    except ImageProblem as problem:
        raise UserError(f"image {sample.image}: {problem.reason}") from None


def _ending(image: bytes) -> str:
    """The ending of an image without a name of its own, as those in tables are."""
    try:
        with Image.open(io.BytesIO(image), formats=FORMATS) as opened:
            name = opened.format or "PNG"
            return f".{_ENDINGS.get(name, name.lower())}"
    except Exception:  # noqa: BLE001 (damaged bytes raise anything)
        return ".png"


def _names(data: DataSet, samples: Sequence[Sample]) -> list[str]:
    """The paths of the images under images/: in train/ and val/ if there is a validation part."""
    val = set(data.val or ())
    parts = {"train": [s.image_id for s in samples if s.image_id not in val], "val": list(val)}
    starts = {
        part: posixpath.commonpath([posixpath.dirname(i) or "." for i in ids]) if ids else ""
        for part, ids in parts.items()
    }
    names = []
    for sample in samples:
        part = "val" if sample.image_id in val else "train"
        inner = posixpath.relpath(sample.image_id, starts[part] or ".")
        names.append(f"{part}/{inner}" if data.val else inner)
    return names


def _shown(written: _Written, space: LabelSpace, palette: NDArray[np.uint8]) -> MaskSample:
    height, width = written.mask.shape
    shares = class_pixels(written.mask, len(space.classes))[:-1] / written.mask.size
    try:
        photo, problem = thumbnails.photo(decode(written.image, READ)), ""
    except ImageProblem as error:
        photo, problem = "", error.reason
    # The overlay leaves 0 transparent: where id 0 is a class, all ids are raised by one.
    first = int(no_class_name(space.classes[0]) is None)
    ignored_pixels = written.mask == space.ignore_index
    raised = np.where(ignored_pixels, 0, written.mask + first).astype(written.mask.dtype)
    label = thumbnails.label_overlay(raised, np.roll(palette, first, axis=0), opaque=not photo)
    classes = [
        (space.classes[i], "#" + bytes(palette[i]).hex(), float(shares[i]))
        for i in np.flatnonzero(shares).tolist()
        if i or first
    ]
    ignored = float(ignored_pixels.mean())
    return MaskSample(
        written.name, f"{width} x {height}", width / height, photo, problem, label, classes, ignored
    )


def _write_names(out: str, space: LabelSpace) -> None:
    storage.write_atomic(storage.join(out, FILE), ("\n".join(space.classes) + "\n").encode())


def _table(figures: MaskFigures) -> str:
    """Pixels and images of each class."""
    width = max(5, *(len(name) for name in figures.classes))
    lines = [f" id  {'class':<{width}}  pixels %  masks"]
    total = max(1, sum(figures.pixels.pixels))
    for i, name in enumerate(figures.classes):
        share = 100 * figures.pixels.pixels[i] / total
        lines.append(f"{i:3}  {name:<{width}}  {share:8.2f}  {figures.images[i]:5}")
    ignored = 0.0 if figures.pixels.masks == 0 else 100 * figures.pixels.ignored_share
    lines += ["", f"masks           {figures.pixels.masks}", f"ignored         {ignored:.1f} % of the pixels"]
    absent = figures.pixels.absent_names(figures.classes)
    return "\n".join([*lines, *([f"not in masks    {name_some(absent)}"] if absent else [])])

"""Split files: an image per line and, if it has one, its mask, as UniMatch writes them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import PurePosixPath

from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.image_ids import MAX_LENGTH, MAX_PARTS
from segray.pipelines.io.names import nfc
from segray.pipelines.io.received import absolute_roots, below
from segray.pipelines.io.sources import read_file
from segray.pipelines.io.sources.kinds import is_wild, kind_of, sources_of
from segray.pipelines.io.sources.lists import split_fields
from segray.pipelines.io.uris import has_scheme
from segray.pipelines.training.data.samples import DataSet, Sample, refuse

_SPLIT = "a split file"
_AMOUNT = f"{_SPLIT}, a count such as 92, a share such as 1/16"
_ALLOWED = {
    "data.labelled": f"{_AMOUNT}, all, none",
    "data.unlabelled": f"{_SPLIT}, a folder, or another source as in annotate",
    "data.validation": f"{_AMOUNT}, none",
    "data.root": "a list of images",
    "val": "a share such as 0.1 or 1/10, or a file",
    "split": _SPLIT,
    "calibrate.split": _SPLIT,
}


def write_split(path: str, samples: Iterable[Sample]) -> None:
    """Write `image mask` lines, paths under the data set's root; an image without a mask has its line alone.

    An image outside of the data set has its whole path or URI.

    A tab separates the two if a path contains a space, as `read_split` expects it.

    Args:
        path: local path or URI.
        samples: in the order of the lines.

    Raises:
        UserError: it cannot be written.
    """
    lines = [
        _line(sample.image if sample.outside else sample.image_id, sample.mask_id or "") for sample in samples
    ]
    storage.write_atomic(path, "".join(f"{line}\n" for line in lines).encode())


def is_split(text: str, root: str) -> bool:
    """Whether the text of `data.unlabelled` names a split file, or nothing, and not a source of images.

    A text file is a split file, unless its first line is a whole path or a URI outside the data set.

    Args:
        text: the value.
        root: the data set's folder or URI.
    """
    try:
        if len(sources_of(text)) > 1 or is_wild(text) or kind_of(text) in {"tar", "zip", "parquet"}:
            return False
        file = storage.stat(text.rstrip("/"))
    except OSError:
        return True
    except UserError:
        return False
    return file is not None and not _is_list(text, root)


def _is_list(text: str, root: str) -> bool:
    base = storage.split_query(text)[0].lower()
    if base.endswith(".csv"):
        return True
    try:
        lines = storage.read_bytes(text).decode("utf-8-sig").splitlines() if base.endswith(".txt") else []
    except (OSError, UnicodeDecodeError):
        return False
    first = next((line.strip() for line in lines if line.strip()), "")
    return (first.startswith("/") or has_scheme(first)) and not below(first, absolute_roots([root]))


def _line(image: str, mask: str) -> str:
    return f"{image}\t{mask}" if " " in image + mask else f"{image} {mask}".rstrip()


def read_split(path: str, data: DataSet, key: str) -> tuple[Sample, ...]:
    """The images of a split file, in its order.

    A line has an image's path under the root, the end of it (`0001.png` for `images/train/0001.png`) with or
    without its suffix, as in VOC's ImageSets, or a longer path that ends with it. A mask in the line replaces
    the image's own.

    Args:
        path: local path or URI.
        data: has the images.
        key: the configuration key that names the file.

    Raises:
        UserError: no such file, an empty one, or lines whose image or mask does not exist, is ambiguous or is
            listed twice.
    """
    text, where = read_text(path, key), storage.display(path)
    names = SampleFinder(data.samples)
    samples: dict[str, Sample] = {}
    problems = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            sample = _sample(line, names, data)
            if sample.image_id in samples:
                raise UserError(f"image {sample.image_id} is listed twice")
            samples[sample.image_id] = sample
        except UserError as problem:
            problems.append(f"{key}={where}, line {number}: {problem}")
    refuse(problems, "bad lines in a split file")
    if not samples:
        raise UserError(f"{key}={where}: no image in it; allowed: one per line, with its mask after a space")
    return tuple(samples.values())


def read_names(path: str, key: str, ids: Collection[str]) -> list[str]:
    """The images of a list or a split file, in its order; masks in its lines are left aside.

    Args:
        path: local path or URI.
        key: the configuration key that names the file.
        ids: all image_ids.

    Raises:
        UserError: no such file, an empty one, or a line whose image does not exist or is ambiguous.
    """
    finder, names = SampleFinder(ids), dict[str, None]()
    for number, line in enumerate(read_text(path, key).splitlines(), start=1):
        if line.strip():
            try:
                names[finder.find(split_fields(line)[0])] = None
            except UserError as problem:
                raise UserError(f"{key}={storage.display(path)}, line {number}: {problem}") from None
    if not names:
        raise UserError(f"{key}={storage.display(path)}: no image in it; allowed: one image_id per line")
    return list(names)


def read_text(path: str, key: str) -> str:
    """The text of a list or a split file.

    Raises:
        UserError: it cannot be read; with what else the key may be.
    """
    try:
        return read_file(path).decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{key}: no file {storage.display(path)!r} (allowed: {_ALLOWED[key]})") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{key}: cannot read {storage.display(path)!r}: {error}") from None


def _sample(line: str, names: SampleFinder, data: DataSet) -> Sample:
    image, mask = split_fields(line)
    sample = data.samples[names.find(image)]
    if not mask:
        return sample
    masked = data.with_mask(sample, mask)
    if masked is None:
        raise UserError(f"no mask {mask} in {storage.display(data.root)}")
    return masked


class SampleFinder:
    """Finds an image by its id, by the end of its id, or by a longer path.

    Args:
        samples: all image_ids, or what has them as its keys.
    """

    def __init__(self, samples: Collection[str]) -> None:
        self._samples = samples
        self._composed = {nfc(image_id): image_id for image_id in samples}
        self._ends: dict[str, list[str]] | None = None

    def find(self, name: str) -> str:
        """The image_id that a name refers to.

        Raises:
            UserError: to none, or to several.
        """
        if name in self._samples:
            return name
        # Each end of it is looked for.
        length, count = len(name), name.count("/") + 1
        if length > MAX_LENGTH or count > MAX_PARTS:
            raise UserError(
                f"a name of {length} characters in {count} parts (allowed: at most {MAX_LENGTH}, {MAX_PARTS})"
            )
        name = nfc(name).removeprefix("./")
        if name in self._composed:
            return self._composed[name]
        parts = PurePosixPath(name).parts
        longer = ("/".join(parts[i:]) for i in range(1, len(parts)))
        ids = next(([self._composed[end]] for end in longer if end in self._composed), None) or self._by_end(
            name
        )
        if not ids:
            raise UserError(f"no image {name} in the data set")
        if len(ids) > 1:
            raise UserError(f"image {name} could be {ids[0]} or {ids[1]}; write more of its path")
        return ids[0]

    def _by_end(self, name: str) -> list[str]:
        if self._ends is None:
            self._ends = {}
            for image_id in self._samples:
                for end in _ends(nfc(image_id)):
                    self._ends.setdefault(end, []).append(image_id)
        return self._ends.get(name, [])


def _ends(image_id: str) -> Iterable[str]:
    """Every end of a path, with and without the suffix; a set, as a name may have no suffix."""
    parts = image_id.split("/")
    ends = {"/".join(parts[i:]) for i in range(len(parts))}
    return ends | {str(PurePosixPath(end).with_suffix("")) for end in ends}

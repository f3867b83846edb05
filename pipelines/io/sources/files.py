"""Files that hold images or name them: found by a path or a glob, opened, and refused in one line."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import pyarrow as pa

from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.image_ids import check_image_id, escape_name
from segray.pipelines.io.images import one_line
from segray.pipelines.io.listing import LeftOut, is_image, matches, reason, split_glob
from segray.pipelines.io.manifest import ImageRef

_LEAVES = re.compile(r"^[A-Za-z]:[\\/]|^\\|(^|[\\/])\.\.([\\/]|$)")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
MAX_FILES = 100_000
"""That `{000..999}` may stand for."""


def find_files(spec: str, follow: bool = True) -> list[storage.StoredFile]:
    """The files that a path, a glob or a range such as `shard-{000..011}.tar` names; their names are whole.

    Args:
        spec: local path or URI.
        follow: which links of local folders are followed, see `FolderLinks`.

    Raises:
        UserError: no such file.
    """
    base, options = storage.split_query(str(storage.local_path(spec)) if storage.is_local(spec) else spec)
    found = [file for name in expand_range(base) for file in _find(name, options, follow)]
    if not found:
        raise UserError(f"images: no file matches {storage.display(spec)}")
    return found


def expand_range(name: str) -> list[str]:
    """The names that a range stands for, with as many digits as it has.

    Raises:
        UserError: too many.
    """
    match = _RANGE.search(name)
    if match is None:
        return [name]
    first, last = int(match[1]), int(match[2])
    if not 0 <= last - first < MAX_FILES:
        raise UserError(f"images: {storage.display(name)}: a range of 1 to {MAX_FILES} files is allowed")
    numbers = (f"{number:0{len(match[1])}d}" for number in range(first, last + 1))
    return [name[: match.start()] + number + name[match.end() :] for number in numbers]


def _find(base: str, options: str, follow: bool) -> list[storage.StoredFile]:
    wildcards = "*?[" if storage.is_local(base) else "*["
    try:
        if not any(c in base for c in wildcards) or (storage.is_local(base) and storage.exists(base)):
            file = storage.stat(base + options)
            if file is None:
                raise UserError(f"images: {storage.display(base)} is not a file")
            return [storage.StoredFile(base + options, file.size, file.mtime)]
        root, patterns = split_glob(base, wildcards)
        files = storage.list_files(root + options, follow=follow)
    except FileNotFoundError as error:
        raise UserError(f"images: no such path: {storage.display(base)}") from error
    except OSError as error:
        raise UserError(f"images: {storage.display(base)} {reason(error)}") from error
    chosen = sorted((f for f in files if matches(f.name.split("/"), patterns)), key=lambda f: f.name)
    return [storage.StoredFile(storage.join(root + options, f.name), f.size, f.mtime) for f in chosen]


class Container(ABC):
    """One file with many images.

    Args:
        file: as `find_files` gives it.
        wanted: the members that count, by their names without folders.

    Attributes:
        name: its path or URI.
        mtime: of the file, in seconds since 1970: all its images have it, and are made anew when it changes.
        left_out: members of other extensions.
    """

    damaged: tuple[type[Exception], ...] = (ValueError, OverflowError)
    """What a file of a stranger raises."""

    def __init__(self, file: storage.StoredFile, wanted: Callable[[str], bool] = is_image) -> None:
        self._wanted = wanted
        self.name, self.mtime, self.left_out = file.name, file.mtime, LeftOut()

    def list(self) -> Iterator[ImageRef]:
        """The images, ascending by image_id.

        Raises:
            UserError: the file cannot be read, is damaged, or gives an id twice.
        """
        where = f"images: {storage.display(self.name)}"
        try:
            refs = storage.with_retries(self._read, self.name)
        except UserError:
            raise
        except FileNotFoundError:
            raise UserError(f"images: no such path: {storage.display(self.name)}") from None
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{where} {reason(error)}") from error
        except self.damaged as error:
            raise UserError(f"{where}: damaged, or another kind of file ({one_line(error)})") from error
        ids = Counter(ref.image_id for ref in refs)
        if twice := [image_id for image_id, count in ids.items() if count > 1]:
            raise UserError(f"{where}: image_id {min(twice)!r} is in it twice; each must be unique")
        return iter(sorted(refs, key=lambda ref: ref.image_id))

    def _read(self) -> Sequence[ImageRef]:
        with storage.open_input(self.name) as file:
            return list(self.read(file))

    @abstractmethod
    def read(self, file: pa.NativeFile) -> Iterator[ImageRef]:
        """The images, in any order."""

    def member_id(self, name: str) -> str | None:
        """The image_id of a member; None if it is hidden, or not wanted.

        Raises:
            UserError: the name is absolute or leads out of the archive.
        """
        parts = name.removeprefix("./").split("/")
        where = f"images: {storage.display(self.name)}"
        wanted = self._wanted(parts[-1])
        if wanted and _LEAVES.search(name):
            raise UserError(f"{where}: the member {name[:100]!r} leads out of the archive")
        if any((part.startswith(".") and part.strip(".")) or part == "__MACOSX" for part in parts):
            return None
        if not wanted:
            self.left_out.add(parts[-1])
            return None
        image_id = "/".join(escape_name(part) for part in parts)
        check_image_id(image_id, where)
        return image_id

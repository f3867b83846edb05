"""What holds images and more: a folder, archives, or a table of images and masks, behind one protocol.

Data sets and masks are read through it, by paths below its root, whichever of these it is.
"""

from __future__ import annotations

import posixpath
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import takewhile
from typing import Protocol

from segray.pipelines.errors import NoImageError, UserError
from segray.pipelines.io import storage
from segray.pipelines.io.listing import LeftOut, is_image
from segray.pipelines.io.manifest import ImageRef
from segray.pipelines.io.members import display_part
from segray.pipelines.io.sources import (
    BY_NAME,
    follows_links,
    image_roots,
    list_images,
    list_members,
    sources_of,
)
from segray.pipelines.io.sources.files import find_files
from segray.pipelines.io.sources.kinds import kind_of, names_files

PARTS = frozenset({"train", "training", "val", "valid", "validation", "test"})
"""Names of folders of the parts of a data set."""

_LAYOUT = PARTS | {
    *("images", "image", "masks", "mask", "labels", "annotations", "imagesets"),
    *("jpegimages", "segmentationclass", "segmentationclassaug"),
}
"""Names of folders that mean something in a data set, and are not just the folder that was packed."""


@dataclass(frozen=True)
class Files:
    """Files by their paths.

    Attributes:
        where: the folder or file that they are in, for messages.
        uris: of the files.
        of_images: whether the paths are the ids of the images that the files are masks of.
        roots: what the files must be below, as another person may have named them; None: the user's own.
        follow: whether links below `roots` may lead out of them.
    """

    where: str
    uris: Mapping[str, str]
    of_images: bool = False
    roots: tuple[str, ...] | None = None
    follow: bool = True


class Tree(Protocol):
    """Files by their paths below a root.

    Attributes:
        root: as the user named it.
        packed: whether it is no folder, but one or several files.
        place: where the paths count from: the root, or the folder in it that was packed.
    """

    root: str
    packed: bool
    place: str

    def exists(self, name: str) -> bool:
        """Whether there is a file or folder of that name."""
        ...

    def names(self, folder: str) -> list[str]:
        """Sorted names of what is directly in a folder; [] if it is missing."""
        ...

    def uri(self, name: str) -> str:
        """The URI of a file, for `read_file`.

        Raises:
            FileNotFoundError: there may be none.
        """
        ...

    def files(self, folder: str, *, follow: bool = True) -> Files:
        """All files below a folder; "" is the root.

        Args:
            folder: its path.
            follow: which links of a local folder are followed, see `FolderLinks`.

        Raises:
            OSError: they cannot be listed.
            UserError: one of them cannot be read.
        """
        ...

    def images(self, folder: str, *, follow: bool = True, left_out: LeftOut) -> Iterator[ImageRef]:
        """The images below a folder, ascending by their ids, which count from it; see `list_images`.

        Raises:
            UserError: there is none.
        """
        ...


def open_tree(
    root: str, also: Sequence[str] = (), *, column: str | None = None, mask_column: str | None = None
) -> Tree:
    """A folder, or one or several archives, or a list, manifest or Parquet files of images and masks.

    Args:
        root: path or URI, or several with commas.
        also: as in `list_images`.
        column: of images in Parquet files, as in `list_images`.
        mask_column: of masks in Parquet and CSV files; None: found by its name.

    Raises:
        UserError: it is of a kind that is not read, or cannot be read.
    """
    kinds = {kind_of(source) for source in sources_of(root)}
    if kinds <= {"folder"} and len(sources_of(root)) == 1:
        return FolderTree(root)
    if kinds <= {"tar", "zip"}:
        return _archives(root, _state(root))
    return RowsTree(root, also, column, mask_column or BY_NAME)


def source_text(error: UserError, root: str) -> str:
    """What is wrong with a source, to follow a configuration key and its value."""
    text, name = str(error).removeprefix("images: "), storage.display(root)
    return text.removeprefix(f"{name}: ").removeprefix(f"{name} ")


def _state(root: str) -> tuple[storage.StoredFile, ...]:
    return tuple(file for source in sources_of(root) for file in find_files(source))


@lru_cache(maxsize=8)
def _archives(root: str, state: tuple[storage.StoredFile, ...]) -> ArchiveTree:  # noqa: ARG001 (part of the key)
    return ArchiveTree(root)


class FolderTree:
    """A folder on this machine or on an object store."""

    packed = False

    def __init__(self, root: str) -> None:
        self.root = self.place = root

    def exists(self, name: str) -> bool:
        """See `Tree`."""
        return storage.exists(self.uri(name))

    def names(self, folder: str) -> list[str]:
        """See `Tree`."""
        return storage.list_names(self.uri(folder))

    def uri(self, name: str) -> str:
        """See `Tree`."""
        return storage.join(self.root, name) if name else self.root

    def files(self, folder: str, *, follow: bool = True) -> Files:
        """See `Tree`."""
        where = self.uri(folder)
        names = (file.name for file in storage.list_files(where, follow=follow))
        return Files(where, {name: storage.join(where, name) for name in names})

    def images(self, folder: str, *, follow: bool = True, left_out: LeftOut) -> Iterator[ImageRef]:
        """See `Tree`."""
        return list_images(self.uri(folder), follow=follow, left_out=left_out)


class ArchiveTree:
    """Tar and zip archives, whose members are files; paths count below the one folder that was packed.

    Args:
        root: one or several archives, as `list_members` takes them.

    Raises:
        UserError: as `list_members`.
    """

    packed = True

    def __init__(self, root: str) -> None:
        self.root = root
        members = list_members(root)
        base = common_folder((ref.image_id for ref in members), _LAYOUT)
        self.place = storage.join(root, base.rstrip("/")) if base else root
        self._refs = {ref.image_id.removeprefix(base): ref for ref in members}
        self._names = sorted(self._refs)

    def exists(self, name: str) -> bool:
        """See `Tree`."""
        start = f"{name}/" if name else ""
        near = self._names[bisect_left(self._names, start) :][:1]
        return name in self._refs or any(first.startswith(start) for first in near)

    def names(self, folder: str) -> list[str]:
        """See `Tree`."""
        start = f"{folder}/" if folder else ""
        return sorted({n.removeprefix(start).partition("/")[0] for n in self._refs if n.startswith(start)})

    def uri(self, name: str) -> str:
        """See `Tree`."""
        if name not in self._refs:
            raise FileNotFoundError(f"no {name} in {storage.display(self.root)}")
        return self._refs[name].uri

    def files(self, folder: str, *, follow: bool = True) -> Files:  # noqa: ARG002 (no links in an archive)
        """See `Tree`."""
        refs = self._below(folder)
        bad = next((ref for ref in refs.values() if ref.problem), None)
        if bad is not None:
            raise UserError(f"{display_part(bad.uri, bad.image_id)}: {bad.problem}")
        return Files(self._where(folder), {name: ref.uri for name, ref in refs.items()})

    def images(self, folder: str, *, follow: bool = True, left_out: LeftOut) -> Iterator[ImageRef]:  # noqa: ARG002
        """See `Tree`."""
        refs = self._below(folder)
        for name in refs:
            if not is_image(name):
                left_out.add(name)
        images = [replace(ref, image_id=name) for name, ref in refs.items() if is_image(name)]
        if not images:
            others = f" ({left_out})" if left_out else ""
            raise NoImageError(f"images: no image in {self._where(folder)}{others}")
        return iter(sorted(images, key=lambda ref: ref.image_id))

    def _where(self, folder: str) -> str:
        return f"{folder} in {storage.display(self.root)}" if folder else storage.display(self.root)

    def _below(self, folder: str) -> dict[str, ImageRef]:
        start = f"{folder}/" if folder else ""
        return {name.removeprefix(start): ref for name, ref in self._refs.items() if name.startswith(start)}


class RowsTree:
    """A list, a manifest or Parquet files: each row has an image, and may have its mask.

    Where no row has an image and a mask, what the rows have may be either: who asks knows.

    Args:
        root: one or several, as in `list_images`.
        also: as in `list_images`.
        column: of images.
        mask_column: of masks, or `BY_NAME`.
    """

    packed = True

    def __init__(self, root: str, also: Sequence[str], column: str | None, mask_column: str) -> None:
        self.root = self.place = root
        self._also, self._column, self._mask_column = also, column, mask_column

    def exists(self, name: str) -> bool:
        """No row has a name of a file below the root."""
        return not name

    def names(self, folder: str) -> list[str]:  # noqa: ARG002 (of the protocol)
        """None."""
        return []

    def uri(self, name: str) -> str:
        """There is none.

        Raises:
            FileNotFoundError: always.
        """
        raise FileNotFoundError(f"no {name} in {storage.display(self.root)}")

    def files(self, folder: str, *, follow: bool = True) -> Files:
        """The masks of the rows; else what the rows have."""
        refs = list(self.images(folder, follow=follow, left_out=LeftOut()))
        masks = {ref.image_id: ref.mask_uri for ref in refs if ref.mask_uri}
        uris = masks or {ref.image_id: ref.uri for ref in refs}
        of_images = bool(masks) or not all(posixpath.splitext(name)[1] for name in uris)
        received = any(map(names_files, sources_of(self.root)))
        roots = image_roots(self.root, self._also) if received else None
        follows = follows_links(self.root, follow)
        return Files(storage.display(self.root), uris, of_images, roots, follows)

    def images(self, folder: str, *, follow: bool = True, left_out: LeftOut) -> Iterator[ImageRef]:
        """See `Tree`."""
        if folder:
            raise UserError(f"images: {storage.display(self.root)} has rows, and no folder {folder}")
        return list_images(
            self.root,
            self._also,
            follow=follow,
            left_out=left_out,
            column=self._column,
            mask_column=self._mask_column,
        )


def common_folder(names: Iterable[str], layout: Collection[str]) -> str:
    """The folder that all files are in, with its "/", above those that mean something; "" if there is none.

    Args:
        names: paths of the files.
        layout: lower-case names of folders that mean something.
    """
    folders = [posixpath.dirname(name) for name in names]
    common = posixpath.commonpath(folders) if folders and all(folders) else ""
    parts = takewhile(lambda part: part.lower() not in layout, _parts(common))
    return "".join(f"{part}/" for part in parts)


def _parts(name: str) -> list[str]:
    return name.split("/") if name else []

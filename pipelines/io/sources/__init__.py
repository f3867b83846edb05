"""From what a user names to its images: stable ids, each exactly once.

Folders, globs and single images (`folders`), manifests, lists (`lists`), tar and zip archives (`archives`)
and Parquet files with a column of images (`tables`), on this machine, on object stores and behind any scheme
of fsspec, one or several at a time. Each kind lists its images with their ids (`base.Source`); the URI of an
image says where it is, in which file if it has none of its own (`members`), and `reading` opens it.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, repeat

from segray.pipelines.errors import NoImageError, UserError
from segray.pipelines.io import received, storage
from segray.pipelines.io.image_ids import check_image_id, escape_name
from segray.pipelines.io.listing import EXTENSIONS, LeftOut
from segray.pipelines.io.manifest import ImageRef, read_manifest, write_manifest
from segray.pipelines.io.sources.archives import TarSource, ZipSource, check_texts
from segray.pipelines.io.sources.base import Source
from segray.pipelines.io.sources.files import Container, find_files
from segray.pipelines.io.sources.folders import FolderSource
from segray.pipelines.io.sources.kinds import Kind, Spec, folder_of, is_wild, kind_of, names_files, sources_of
from segray.pipelines.io.sources.lists import ListSource
from segray.pipelines.io.sources.manifests import ManifestSource
from segray.pipelines.io.sources.parts import MAX_FILE_BYTES
from segray.pipelines.io.sources.reading import (
    image_digest,
    read_allowed,
    read_file,
    read_image,
    read_labelled,
)
from segray.pipelines.io.sources.tables import BY_NAME, ImageTable, is_manifest
from segray.pipelines.io.uris import display_all, parent

__all__ = [
    "BY_NAME",
    "EXTENSIONS",
    "MAX_FILE_BYTES",
    "ImageRef",
    "LeftOut",
    "Spec",
    "check_image_id",
    "escape_name",
    "follows_links",
    "image_digest",
    "image_roots",
    "list_images",
    "list_members",
    "read_allowed",
    "read_file",
    "read_image",
    "read_labelled",
    "read_manifest",
    "sources_of",
    "write_manifest",
]

_ARCHIVES: Mapping[Kind, type[TarSource | ZipSource]] = {"tar": TarSource, "zip": ZipSource}
_READERS = 8


def list_images(
    spec: Spec,
    also: Sequence[str] = (),
    *,
    follow: bool = True,
    left_out: LeftOut | None = None,
    column: str | None = None,
    mask_column: str | None = None,
) -> Iterator[ImageRef]:
    """The images of one or several sources, strictly ascending by image_id, without reading them.

    Folders are walked down. A glob (`*`, `?`, `[...]`, and `**` for any folders) counts from its longest
    folder without a wildcard; in a URI "?" is no wildcard. Names that start with a dot and extensions other
    than `EXTENSIONS` are left out. Symlinks are followed, and ids come from the link's own path. A link to a
    folder that holds it, a link to nothing, and folders and pipes with an image's name have a `problem`.

    A .parquet file is a manifest if it names images, else it has a column of them. A .txt or .csv file is a
    list, .tar and .zip files are archives, whose members' names are the ids. A glob or a range
    (`shard-{000..011}.tar`) of these files is as many sources.

    Args:
        spec: local path or URI of a source, or several, also in one text with commas.
        also: folders below which the rows of a manifest or a list may name images, besides its own folder.
        follow: else links to folders, and out of the folder, have a `problem` too.
        left_out: is filled with the files of other extensions as the listing goes on.
        column: of the images in Parquet files; None: found by its name or kind.
        mask_column: of their masks in Parquet and CSV files, or `BY_NAME`; None: masks are not looked for.

    Raises:
        UserError: at once, where there is nothing, or no image, or a manifest names files anywhere else;
            while the images come, where two sources have one id.
    """
    left_out = LeftOut() if left_out is None else left_out
    refs = _merged(_sources(spec, also, follow, left_out, column, mask_column), left_out)
    first = next(refs, None)
    if first is None:
        raise NoImageError(_no_image(spec, left_out))
    return chain([first], refs)


def list_members(spec: Spec, follow: bool = True) -> list[ImageRef]:
    """All files in one or several archives, strictly ascending by their names, whatever they are.

    Args:
        spec: as in `list_images`; each source is an archive.
        follow: see `find_files`.

    Raises:
        UserError: as `list_images`, or a source is no archive, or see `check_texts`.
    """
    archives: list[Source] = []
    for source in sources_of(spec):
        if (archive := _ARCHIVES.get(kind_of(source))) is None:
            raise UserError(f"images: {storage.display(source)} is no archive, as others there are")
        archives += [archive(file, lambda _: True) for file in find_files(source, follow)]
    members = list(_merged(archives, LeftOut()))
    try:
        check_texts(members)
    except ValueError as problem:
        raise UserError(f"images: {display_all(spec)}: {problem}") from None
    return members


def _no_image(spec: Spec, left_out: LeftOut) -> str:
    where = ", ".join(storage.display(source) for source in sources_of(spec))
    others = f" ({left_out})" if left_out else ""
    ending = next((ending for ending in (".tar", ".zip", ".parquet") if left_out[ending]), None)
    hint = f"; images={where}/*{ending} reads those" if ending and "," not in where else ""
    return f"images: no image in {where}{others}; extensions looked for: {' '.join(EXTENSIONS)}{hint}"


def image_roots(spec: Spec, also: Sequence[str] = ()) -> tuple[str, ...]:
    """The folders or files below which the images of one or several sources are: for `read_allowed`.

    Args:
        spec: as in `list_images`.
        also: as in `list_images`.
    """
    own = (_own_root(source) for source in sources_of(spec))
    return received.absolute_roots([*own, *also])


def _own_root(source: str) -> str:
    """Of a list or a Parquet file, which may be a manifest, its folder; of a glob, that above wildcards."""
    if is_wild(source) or kind_of(source) not in {"list", "parquet"}:
        return folder_of(source)
    exists = not storage.is_local(source) or storage.local_path(source).is_file()
    return parent(source) if exists else folder_of(source)


def follows_links(spec: Spec, follow: bool) -> bool:
    """Whether links may lead an image out of `image_roots`: those of the user's own folders, on request.

    Never those that the rows of a manifest or a list name; with one of these, none of the others' either.
    """
    return follow and not any(map(names_files, sources_of(spec)))


def _sources(
    spec: Spec,
    also: Sequence[str],
    follow: bool,
    left_out: LeftOut,
    column: str | None,
    mask_column: str | None,
) -> list[Source]:
    kinds = [(source, kind_of(source)) for source in sources_of(spec)]
    if column is not None and "parquet" not in dict(kinds).values():
        raise UserError(f"image.column={column}: only Parquet files have columns, and images has none")
    made: list[Source] = []
    for source, kind in kinds:
        if kind == "folder":
            made.append(FolderSource(source, follow, left_out))
        elif kind == "parquet" and column is not None:
            made += [ImageTable(file, column, mask_column) for file in find_files(source, follow)]
        else:
            files = find_files(source, follow)
            made += [_source(kind, file, also, is_wild(source), mask_column) for file in files]
    return made


def _source(
    kind: Kind, file: storage.StoredFile, also: Sequence[str], one_of_many: bool, mask_column: str | None
) -> Source:
    roots = received.absolute_roots([parent(file.name), *also])
    if kind == "list":
        return ListSource(file.name, roots, mask_column)
    if kind == "parquet" and is_manifest(file.name):
        if one_of_many:
            where = storage.display(file.name)
            raise UserError(f"images: {where} is a manifest; name it itself, as links are not followed there")
        return ManifestSource(file.name, roots)
    return _ARCHIVES[kind](file) if kind in _ARCHIVES else ImageTable(file, mask=mask_column)


def _merged(sources: Sequence[Source], left_out: LeftOut) -> Iterator[ImageRef]:
    """Ascending by image_id.

    Raises:
        UserError: two sources have one id.
    """
    # The directories of many archives are read side by side.
    with ThreadPoolExecutor(_READERS) as pool:
        streams = list(pool.map(lambda source: source.list(), sources))
    for source in sources:
        if isinstance(source, Container):
            left_out.update(source.left_out)
    if len(streams) == 1:
        return streams[0]
    return _unique(sources, streams)


def _unique(sources: Sequence[Source], streams: Sequence[Iterator[ImageRef]]) -> Iterator[ImageRef]:
    tagged = (map(_tag, stream, repeat(n)) for n, stream in enumerate(streams))
    last, before = "", 0
    for image_id, n, ref in heapq.merge(*tagged, key=lambda item: item[:2]):
        if image_id == last:
            names = [storage.display(sources[i].name) for i in (before, n)]
            raise UserError(
                f"images: image_id {image_id!r} is in {names[0]} and in {names[1]}; each must be unique"
            )
        yield ref
        last, before = image_id, n


def _tag(ref: ImageRef, source: int) -> tuple[str, int, ImageRef]:
    return ref.image_id, source, ref

"""Where the images and masks of a data set are, and which of its images can be used."""

from __future__ import annotations

import logging
import posixpath
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Literal

from segray.pipelines.config.commands.train import DataConfig, TrainImageConfig
from segray.pipelines.errors import NoImageError, UserError
from segray.pipelines.io import storage
from segray.pipelines.io.images import ImageOptions
from segray.pipelines.io.received import ROOTS_KEY
from segray.pipelines.io.sources import ImageRef, LeftOut, follows_links, image_roots, sources_of
from segray.pipelines.io.sources.kinds import kind_of, names_files
from segray.pipelines.io.sources.trees import Tree, open_tree, source_text
from segray.pipelines.training.data.samples import READ, Sample

_log = logging.getLogger(__name__)


LABELMAP = "labelmap.txt"
"""CVAT's table of classes and colours."""


def data_tree(config: DataConfig, root: str | None = None, key: str = "data.root") -> Tree:
    """The data set, a folder or what else may be in place of one.

    Args:
        config: of the data.
        root: another place of its images or masks; None: `data.root`.
        key: the configuration key that names it.

    Raises:
        UserError: it is of a kind that is not read.
    """
    root = config.root if root is None else root
    try:
        if root.lower().endswith((".json", ".xml", ".yaml", ".yml")):
            raise UserError("an annotation file: give the folder of the images, and data.annotations=FILE")
        if storage.is_local(root) and kind_of(root) == "folder" and storage.local_path(root).is_file():
            raise UserError("a file, and no folder, archive or table")
        return open_tree(root, config.image.roots, column=config.image.column, mask_column=config.mask_column)
    except UserError as error:
        raise data_error(key, root, error) from None


def place_of(config: DataConfig, root: Tree, key: Literal["images", "masks"], usual: str) -> tuple[Tree, str]:
    """Where images or masks are, and their folder there.

    Args:
        config: of the data; its key names a folder in the data set, or another source.
        root: the data set.
        key: which of the two.
        usual: the folder without the key.

    Raises:
        UserError: as `data_tree`.
    """
    named = config.images if key == "images" else config.masks
    if named is None:
        return root, usual if root.exists(usual) or not root.packed else ""
    return named_place(config, root, f"data.{key}", named)


def named_place(config: DataConfig, root: Tree, key: str, named: str) -> tuple[Tree, str]:
    """A folder of the data set, or another source and "".

    Raises:
        UserError: as `data_tree`.
    """
    folder = posixpath.normpath(named.strip("/"))
    folder = "" if folder == "." else folder
    if root.exists(folder):
        return root, folder
    other = data_tree(config, named, key)
    return (other, "") if other.packed or other.exists("") else (root, folder)


def list_samples(config: DataConfig, folder: str, tree: Tree | None = None) -> dict[str, Sample]:
    """The images under a folder of a data set, by their ids, which start with the folder.

    Args:
        config: of the data.
        folder: below its root; "" for the root itself.
        tree: with the images, if it is not the root.

    Raises:
        UserError: no such folder, or no image in it.
    """
    tree, follow = tree or data_tree(config), config.image.follow_links
    if folder and not tree.exists(folder) and tree.exists(""):
        where = f"data.root={storage.display(tree.root)}"
        raise UserError(f"{where}: no {folder} there; data.images=FOLDER, or another source, has the images")
    start = f"{folder}/" if folder else ""
    name = folder or storage.display(tree.root)
    try:
        refs = usable_images(
            lambda others: tree.images(folder, follow=follow, left_out=others), "data.root", tree.root, name
        )
    except NoImageError as error:
        raise UserError(f"{error}; data.images=FOLDER, or another source, has the images") from None
    read = received_read(tree.root, config.image) if tree.packed else READ
    samples = (Sample(f"{start}{ref.image_id}", ref.uri, size=ref.size, read=read) for ref in refs)
    return {sample.image_id: sample for sample in samples}


def received_read(source: str, image: TrainImageConfig) -> ImageOptions:
    """How the images of a source are read: those that a list or a manifest names must be where they may."""
    if not any(map(names_files, sources_of(source))):
        return READ
    follow = follows_links(source, image.follow_links)
    return replace(READ, roots=image_roots(source, image.roots), follow_links=follow)


def data_error(key: str, source: str, error: UserError) -> UserError:
    """An error of a source, with the keys of the data."""
    text = source_text(error, source)
    for name in (ROOTS_KEY, "image.column", "mask_column="):
        text = text.replace(name, f"data.{name}")
    kind = NoImageError if isinstance(error, NoImageError) else UserError
    return kind(f"{key}={storage.display(source)}: {text}", exit_code=error.exit_code)


def usable_images(
    list_them: Callable[[LeftOut], Iterable[ImageRef]], key: str, source: str, name: str
) -> list[ImageRef]:
    """The images of a source that may be read; a warning counts the others by reason.

    Args:
        list_them: lists the images, and fills in what is left out.
        key: the configuration key, for errors.
        source: its value.
        name: of the source, for the warning.

    Raises:
        UserError: no such source, or no image in it.
    """
    others = LeftOut()
    try:
        refs = list(list_them(others))
    except UserError as error:
        raise data_error(key, source, error) from None
    left_out = _left_out([ref for ref in refs if ref.problem], name, len(refs))
    good = [ref for ref in refs if not ref.problem]
    if not good:
        raise UserError(f"{key}={storage.display(source)}: no usable image; {left_out}")
    if left_out:
        _log.warning("%s", left_out)
    if others:
        _log.info("%s: %s", name, others)
    return good


def _left_out(refs: Sequence[ImageRef], folder: str, total: int) -> str:
    """How many images are left out, for each reason with an example; empty without any."""
    reasons = Counter(ref.problem for ref in refs)
    examples = {ref.problem: ref.image_id for ref in reversed(refs)}
    texts = [f"{reason} ({n}, such as {examples[reason]})" for reason, n in reasons.most_common()]
    return f"{folder}: {len(refs)} of {total} images are left out: {'; '.join(texts)}" if texts else ""

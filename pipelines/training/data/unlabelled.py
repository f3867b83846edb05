"""The unlabelled images of a training run that are not in its data set."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace

from segray.pipelines.config.commands.train import DataConfig
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.sources import follows_links, image_roots, list_images
from segray.pipelines.training.data.places import usable_images
from segray.pipelines.training.data.samples import READ, Sample

_log = logging.getLogger(__name__)


def list_unlabelled(config: DataConfig, masked: Sequence[Sample]) -> tuple[Sample, ...]:
    """The images of the source `data.unlabelled`, without the files of labelled and validation images.

    Args:
        config: its `unlabelled` is a source as in `list_images`.
        masked: the labelled and the validation images.

    Raises:
        UserError: no such source, or no image in it that is left.
    """
    source, also = str(config.unlabelled), config.image.roots
    follow = config.image.follow_links
    key = f"data.unlabelled={storage.display(source)}"
    column = config.image.column
    refs = usable_images(
        lambda others: list_images(source, also, follow=follow, left_out=others, column=column),
        "data.unlabelled",
        source,
        key,
    )
    taken = _SameFile(sample.image for sample in masked)
    left = [ref for ref in refs if not taken.has(ref.uri)]
    if not left:
        raise UserError(f"{key}: all of its {len(refs)} images are labelled or validation images")
    if len(left) < len(refs):
        _log.info("%s: %d images are labelled or validation images too", key, len(refs) - len(left))
    read = replace(READ, roots=image_roots(source, also), follow_links=follows_links(source, follow))
    return tuple(Sample(ref.image_id, ref.uri, read=read, size=ref.size, outside=True) for ref in left)


def without_copies(unlabelled: Sequence[Sample], validation: Sequence[Sample]) -> list[Sample]:
    """The unlabelled images without copies of validation images, which have the same row of the label set.

    Args:
        unlabelled: images of their own source, matched with the label set.
        validation: matched by content.
    """
    rows = {sample.label_id for sample in validation if sample.label_id}
    distinct = [sample for sample in unlabelled if sample.label_id not in rows]
    if len(distinct) < len(unlabelled):
        _log.info("data.unlabelled: %d copies of validation images left out", len(unlabelled) - len(distinct))
    return distinct


class _SameFile:
    """Some files, under any path that links lead to them by, as long as their names are the same."""

    def __init__(self, uris: Iterable[str]) -> None:
        self._uris = set(uris)
        self._names = {uri.rpartition("/")[2] for uri in self._uris}
        self._real = {_real(uri) for uri in self._uris}

    def has(self, uri: str) -> bool:
        """Whether it is one of them."""
        # The real path costs a look at each folder above.
        return uri in self._uris or (uri.rpartition("/")[2] in self._names and _real(uri) in self._real)


def _real(uri: str) -> str:
    return os.path.realpath(storage.local_path(uri)) if storage.is_local(uri) else uri

"""Write the missing parts of an export: of few images in this process, of many as tasks of a Ray cluster."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from itertools import islice

from segray.pipelines.config.commands.export import ExportConfig
from segray.pipelines.engine import cluster
from segray.pipelines.engine.progress import StatusLine, resumable
from segray.pipelines.engine.waiting import Waiting
from segray.pipelines.exporting.journal import Journal, drop_temporary
from segray.pipelines.exporting.writer import Writer
from segray.pipelines.io import storage
from segray.pipelines.io.members import split_member

FEW = 5000
"""More images than these are worth a start of Ray: this process alone writes about a hundred a second."""
_ASKED = 16
"""Folders of images of which each machine of a cluster is asked for one."""


def is_cluster_requested(config: ExportConfig) -> bool:
    """Whether the user wants workers, however few the images are."""
    return bool(config.workers or config.address or config.grow.cpus or config.grow.gpus)


def write_parts(config: ExportConfig, writer: Writer, journal: Journal, token: str) -> None:
    """Write the parts that no run has finished, and those with images that were left out.

    Args:
        config: of the export.
        writer: with absolute paths.
        journal: knows what is finished; this process alone writes to it.
        token: of the run lock.

    Raises:
        UserError: a damaged part, a full disk, no cluster, or a folder that its machines do not share.
    """
    pending = journal.pending()
    if not pending:
        return
    few = sum(len(writer.plan.images[part]) for part in pending) <= FEW
    here = few and not is_cluster_requested(config)
    parts = _here(writer, pending) if here else _on_cluster(config, writer, pending, token)
    status, shown = StatusLine(), time.monotonic()
    safe = resumable(f"what is in {storage.display(config.out)} is")
    try:
        with safe, closing(parts), Waiting("the first images to be written") as wait:
            for number, (part, finished) in enumerate(parts, 1):
                wait.heard("the next images to be written")
                journal.commit(part, finished)
                if time.monotonic() - shown > status.interval:
                    status.show(f"export  {number} of {len(pending)} parts")
                    shown = time.monotonic()
    finally:
        status.clear()


def _here(writer: Writer, pending: Sequence[str]) -> Generator[tuple[str, str]]:
    for part in pending:
        yield part, json.dumps(writer.write_part(part))


def _on_cluster(
    config: ExportConfig, writer: Writer, pending: Sequence[str], token: str
) -> Generator[tuple[str, str]]:
    with cluster.session(config.address, config.grow):
        # Ray takes long to import, and an export in this process does not need it.
        from segray.pipelines.engine import ray_data
        from segray.pipelines.engine.shared_storage import require_shared
        from segray.pipelines.exporting.graph import finished_parts

        require_shared(writer.out, shared_inputs(writer, config.image.roots))
        # Nothing moves until a task has written all images of its part; none takes a second on average.
        largest = max(len(writer.plan.images[part]) for part in pending)
        ray_data.configure(ray_data.NO_PROGRESS_S + largest)
        yield from finished_parts(writer, pending, config.workers, token)
    if storage.is_local(writer.out):
        # What workers left that died; the list of a store's files would cost more, and there are none.
        drop_temporary(writer.out)


def shared_inputs(writer: Writer, roots: Sequence[str]) -> list[str]:
    """What each machine of a cluster has to see: the label set, `image.roots`, and an image of each folder.

    Images that this machine does not see either are not among them: they are left out one by one.
    """
    images = {} if writer.images.are_in(writer.source) else writer.images.uris
    files = (split_member(uri)[0] for uri in images.values())
    by_folder = {file.rpartition("/")[0]: file for file in files if storage.is_local(file)}
    there = (file for file in by_folder.values() if storage.local_path(file).exists())
    return [writer.source.root, *roots, *islice(there, _ASKED)]

"""Which images a run has to process: its manifest, and the list of the images that are pending.

Both are streamed row by row: in memory are only the ids of images that changed or are done.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from itertools import chain

from segray.pipelines.io import storage
from segray.pipelines.io.manifest import MANIFEST, ImageRef, read_manifest, write_manifest

PENDING = ".pending.parquet"
"""The pending images, as a manifest."""
PENDING_COLUMNS = ["image_id", "uri", "problem"]
_NEXT = ".manifest.parquet"


def refresh_manifest(out: str, images: Iterable[ImageRef]) -> tuple[int, set[str]]:
    """Write the next manifest.

    The last manifest stays until `commit_manifest` is called: comparing with it shows which files changed.

    Args:
        out: the run's folder.
        images: strictly ascending by image_id.

    Returns:
        The number of images, and the ids of those whose files changed since the last manifest.
    """
    manifest, fresh = storage.join(out, MANIFEST), storage.join(out, _NEXT)
    total = write_manifest(images, fresh, previous=manifest)
    old = read_manifest(manifest) if storage.exists(manifest) else iter(())
    return total, set(_changed(read_manifest(fresh), old))


def _changed(fresh: Iterable[ImageRef], old: Iterator[ImageRef]) -> Iterator[str]:
    """Ids in both manifests (both sorted) whose size or modification time differs.

    Of a file that was moved, the size alone counts: copying gives it the time of the copy.
    """
    known = next(old, None)
    for ref in fresh:
        while known is not None and known.image_id < ref.image_id:
            known = next(old, None)
        if known is None or known.image_id != ref.image_id:
            continue
        if known.size != ref.size or (known.uri == ref.uri and known.mtime != ref.mtime):
            yield ref.image_id


def commit_manifest(out: str) -> None:
    """Replace the last manifest with the next one; everything that it makes outdated must be deleted."""
    fresh = storage.join(out, _NEXT)
    storage.write_atomic(storage.join(out, MANIFEST), storage.read_bytes(fresh))
    storage.delete(fresh)


def write_pending(out: str, done: Container[str]) -> int:
    """Write the list of images that are not done, if there are any.

    Returns:
        How many.
    """
    left = (ref for ref in read_manifest(storage.join(out, MANIFEST)) if ref.image_id not in done)
    first = next(left, None)
    if first is None:
        return 0
    return write_manifest(chain([first], left), storage.join(out, PENDING))


def read_pending(out: str) -> Iterator[ImageRef]:
    """The list of pending images."""
    return read_manifest(storage.join(out, PENDING))

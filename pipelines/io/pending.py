"""Which images a run has to do: its manifest as it is now, and the list of those that are left.

Everything goes through row by row: what is in memory is no more than the ids that changed or are done.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from itertools import chain

from segray.pipelines.io import storage
from segray.pipelines.io.manifest import MANIFEST, ImageRef, read_manifest, write_manifest

PENDING = ".pending.parquet"
"""The images that are left, as a manifest."""
PENDING_COLUMNS = ["image_id", "uri", "problem"]
_NEXT = ".manifest.parquet"


def refresh_manifest(out: str, images: Iterable[ImageRef]) -> tuple[int, set[str]]:
    """Write the manifest that is to come; how many images it has, and whose files changed since the last one.

    The last manifest stays, as it is what tells that a file has changed, until `accept` is called.

    Args:
        out: the run's folder.
        images: strictly ascending by image_id.
    """
    manifest, fresh = storage.join(out, MANIFEST), storage.join(out, _NEXT)
    total = write_manifest(images, fresh, previous=manifest)
    old = read_manifest(manifest) if storage.exists(manifest) else iter(())
    return total, set(_changed(read_manifest(fresh), old))


def _changed(fresh: Iterable[ImageRef], old: Iterator[ImageRef]) -> Iterator[str]:
    """Ids in both manifests, which are sorted, with another size or time."""
    known = next(old, None)
    for ref in fresh:
        while known is not None and known.image_id < ref.image_id:
            known = next(old, None)
        if known is None or known.image_id != ref.image_id:
            continue
        if (known.size, known.mtime) != (ref.size, ref.mtime):
            yield ref.image_id


def accept(out: str) -> None:
    """Let the new manifest take the place of the last one: what it makes stale is gone."""
    fresh = storage.join(out, _NEXT)
    storage.write_atomic(storage.join(out, MANIFEST), storage.read_bytes(fresh))
    storage.delete(fresh)


def write_pending(out: str, done: Container[str]) -> int:
    """Write the list of images that are not done, where there are any; how many."""
    left = (ref for ref in read_manifest(storage.join(out, MANIFEST)) if ref.image_id not in done)
    first = next(left, None)
    if first is None:
        return 0
    return write_manifest(chain([first], left), storage.join(out, PENDING))


def read_pending(out: str) -> Iterator[ImageRef]:
    """The list of images that are left."""
    return read_manifest(storage.join(out, PENDING))

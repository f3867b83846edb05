"""Folders of files for tests of image sources, and what is listed of them."""

from __future__ import annotations

from pathlib import Path

from segray.pipelines.io.sources import list_images


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode("utf-8", "surrogateescape"))


def ids(spec: Path | str) -> list[str]:
    return [ref.image_id for ref in list_images(str(spec))]


def problems(spec: Path | str) -> dict[str, str | None]:
    return {ref.image_id: ref.problem for ref in list_images(str(spec))}

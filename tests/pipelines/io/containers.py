"""Archives, tables and folders of images for tests, and what a source makes of them."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from segray.pipelines.errors import UserError
from segray.pipelines.io.images import ImageProblem
from segray.pipelines.io.sources import (
    Spec,
    follows_links,
    image_roots,
    list_images,
    read_allowed,
)

IMAGES = {"b/2.jpg": b"two", "a/1.png": b"one", "a/ü 3.PNG": b"three" * 400}


def write_tar(path: Path, files: Mapping[str, bytes], kind: int = tarfile.PAX_FORMAT, mode: str = "w") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode, format=kind) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return str(path)


def write_zip(path: Path, files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> str:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return str(path)


def write_table(path: Path, columns: Mapping[str, Any], **options: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(dict(columns)), path, **options)
    return str(path)


def write_files(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def opened(spec: Spec, also: Sequence[str] = ()) -> dict[str, bytes | str]:
    """By id the bytes of each image as a worker reads them, or the reason why there are none."""
    roots, follow = image_roots(spec, also), follows_links(spec, True)
    found: dict[str, bytes | str] = {}
    for ref in list_images(spec, also):
        try:
            found[ref.image_id] = ref.problem or read_allowed(ref.uri, roots, follow=follow)
        except ImageProblem as problem:
            found[ref.image_id] = problem.reason
    assert list(found) == sorted(found)
    return found


def refusal(spec: Spec, also: Sequence[str] = ()) -> str:
    with pytest.raises(UserError) as caught:
        list(list_images(spec, also))
    assert "\n" not in str(caught.value)
    return str(caught.value)

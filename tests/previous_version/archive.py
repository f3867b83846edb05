"""Unpacks what version 0.1.0.dev0 wrote; README.md beside this file says what is in it."""

from __future__ import annotations

import tarfile
from pathlib import Path

_ARCHIVE = Path(__file__).parent / "v0.1.0.dev0.tar.xz"


def unpack(folder: Path) -> Path:
    """The folder of the unpacked archive, with its stored paths made those of `folder`."""
    with tarfile.open(_ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    root = folder / "v0.1.0.dev0"
    for file in root.rglob("*"):
        if file.suffix in {".yaml", ".json", ".txt"}:
            text = file.read_text(encoding="utf-8")
            file.write_text(text.replace("@ROOT@", str(root)), encoding="utf-8")
    return root

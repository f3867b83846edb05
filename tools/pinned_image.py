"""Refuse images named by a tag alone, which may be moved: `python tools/pinned_image.py IMAGE ...`."""

from __future__ import annotations

import re
import sys

_PINNED = re.compile(r"[a-z0-9][\w./:-]*@sha256:[0-9a-f]{64}")


def unpinned(images: list[str]) -> list[str]:
    """The images without a digest, as `NAME[:TAG]@sha256:` and 64 hexadecimal digits."""
    return [image for image in images if not _PINNED.fullmatch(image)]


if __name__ == "__main__":
    named = sys.argv[1:] or [""]
    for image in unpinned(named):
        print(f"{image or 'no image'}: not pinned; append @sha256:DIGEST (docs/clusters.md)", file=sys.stderr)
    sys.exit(2 if unpinned(named) else 0)

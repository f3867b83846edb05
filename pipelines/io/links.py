"""Symlinks in folders that are walked: followed, and never in a circle, or refused."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

MAX_VISITS = 1000
"""Links that may lead to one folder: n folders that each link to the next one twice would be 2^n folders."""


class FolderLinks:
    """Decides on the links that a walk meets.

    Args:
        root: the folder that is walked.
        follow: follow all links; else only those to files below the root.
    """

    def __init__(self, root: str, follow: bool) -> None:
        self.real_root = os.path.realpath(root)
        self._follow = follow
        self._visits: Counter[str] = Counter()

    def problem(self, path: str, reals: Iterable[str]) -> str | None:
        """Why a link is not followed; None where it is.

        Args:
            path: of the link.
            reals: real paths of the folders from the root down to the link's, as they were entered.
        """
        try:
            target = os.path.realpath(path, strict=True)
        except OSError as error:
            return "symlink loop" if error.errno == errno.ELOOP else "symlink to nothing"
        if not self._follow and not _is_in(target, self.real_root):
            return "symlink leaves the folder (image.links=refuse)"
        if not Path(target).is_dir():
            return None
        # Below any other target, none of these folders can be met again.
        if any(_is_in(real, target) for real in reals):
            return "symlink loop"
        if not self._follow:
            return "symlink to a folder, not followed (image.links=refuse)"
        self._visits[target] += 1
        over = self._visits[target] > MAX_VISITS
        return f"more than {MAX_VISITS} symlinks lead to this folder" if over else None


def entered(entry: os.DirEntry[str], reals: tuple[str, ...]) -> tuple[str, ...]:
    """The real paths of `FolderLinks.problem` inside a folder that is entered."""
    if entry.is_symlink():
        return (*reals, os.path.realpath(entry.path))
    return (*reals, f"{reals[-1].rstrip('/')}/{entry.name}")


def _is_in(path: str, folder: str) -> bool:
    return f"{path.rstrip('/')}/".startswith(f"{folder.rstrip('/')}/")

"""Take the screenshots of docs/review.md: `python -m tools.review_screenshots LABELS MASKS`.

It opens `segray serve` on a copy of the label set, does what the page describes with mouse and keyboard, and
writes WebP files into docs/review/. It needs Playwright and a Chromium of the system.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_SIZE: ViewportSize = {"width": 1440, "height": 900}
_HOUSE = (340, 400)
_LOADED = (
    "() => [...document.images].every("
    "(image) => image.hidden || !image.src || image.loading === 'lazy' || image.complete)"
)


def browser_path() -> str | None:
    """The Chromium of the system; None without one."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@contextmanager
def served(labels: Path, *options: str) -> Iterator[str]:
    """The address of `segray serve` over a label set.

    Args:
        labels: the label set.
        options: further key=value.
    """
    command = [sys.executable, "-m", "segray", "serve", f"out={labels.name}", "port=0", "who=ada", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=labels.parent) as process:  # noqa: S603
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[1]
        finally:
            process.terminate()


@contextmanager
def browser() -> Iterator[Browser]:
    """A headless Chromium."""
    with sync_playwright() as playwright:
        # Its sandbox refuses to run as root.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        chromium = playwright.chromium.launch(executable_path=browser_path(), args=arguments)
        yield chromium
        chromium.close()


def settle(page: Page) -> None:
    """Wait until all that can be seen is loaded."""
    page.wait_for_timeout(400)
    # Not wait_for_function, which evaluates text: the page's policy refuses that.
    while not page.evaluate(_LOADED):
        page.wait_for_timeout(100)
    page.wait_for_timeout(150)


def main() -> None:
    """Take all screenshots."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("labels", type=Path)
    parser.add_argument("masks", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/review"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as folder, browser() as chromium:
        labels = shutil.copytree(options.labels, Path(folder) / "labels")
        with served(labels, f"masks={options.masks.resolve()}") as address:
            page = chromium.new_page(viewport=_SIZE, color_scheme="dark")
            page.goto(address)
            _compare(page, options.out)
            page.close()
            page = chromium.new_page(viewport=_SIZE, color_scheme="light")
            page.goto(address)
            _correct(page, options.out)


def _sort(page: Page) -> None:
    """Images with the most errors first."""
    page.wait_for_selector(".tile .photo[src]")
    settle(page)
    page.select_option("#sort", "-errors")
    settle(page)


def _open_first(page: Page) -> None:
    page.click("#tile-0")
    page.wait_for_selector("#selection h2")
    settle(page)


def _compare(page: Page, out: Path) -> None:
    _sort(page)
    _open_first(page)
    page.keyboard.press("d")
    settle(page)
    _shoot(page, out / "difference-dark.webp")


def _correct(page: Page, out: Path) -> None:
    _sort(page)
    _shoot(page, out / "grid.webp")
    _open_first(page)
    page.mouse.click(*_HOUSE)
    settle(page)
    page.mouse.move(_HOUSE[0] + 20, _HOUSE[1] + 20)
    settle(page)
    _shoot(page, out / "segment.webp")
    page.keyboard.press("2")
    page.wait_for_selector("#spread:not([hidden])")
    settle(page)
    _shoot(page, out / "spread.webp")


def _shoot(page: Page, path: Path) -> None:
    image = Image.open(io.BytesIO(page.screenshot()))
    image.convert("RGB").save(path, "WEBP", quality=82, method=6)


if __name__ == "__main__":
    main()

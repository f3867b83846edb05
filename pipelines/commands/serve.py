"""`segray serve`: a page on this machine to look at a label set and to correct it."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import click

from segray.pipelines.config.commands.serve import ServeConfig
from segray.pipelines.corrections.correction import this_user
from segray.pipelines.engine.progress import StatusLine
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.masks.folder import MaskFolder
from segray.pipelines.masks.options import MaskOptions
from segray.pipelines.printing import visible
from segray.pipelines.review import drawing
from segray.pipelines.review.review import Places, Review
from segray.pipelines.review.scores import TruthMasks, open_compare
from segray.pipelines.understood import line, show

if TYPE_CHECKING:
    from segray.pipelines.review.server import ReviewPage

_SWITCH_S = 0.0005
"""Seconds after which a thread is asked to let another one run; a tenth of what Python asks for."""


def run(config: ServeConfig) -> None:
    """Open the label set, print the address of the page, and answer until Ctrl-C.

    Raises:
        UserError: no label set, no masks, a port that is in use, or the extra `review` is missing.
    """
    page = make_page(config)
    # What is there by now stays; a collection that looks at all of it takes longer than a request may.
    gc.collect()
    gc.freeze()
    # A request gives the interpreter up at each file operation, tens of times. While the next order is
    # computed, it waits up to this long for it each time.
    sys.setswitchinterval(_SWITCH_S)
    # Not by `echo`, which hides tokens.
    click.echo(f"open {page.url}  (Ctrl-C stops)")
    page.answer()


def execute(config: ServeConfig) -> ReviewPage:
    """Open the label set, and answer in a thread.

    Raises:
        UserError: as `run`.
    """
    page = make_page(config)
    page.start()
    return page


def make_page(config: ServeConfig) -> ReviewPage:
    """Open the label set and a port; say what is there.

    Raises:
        UserError: as `run`.
    """
    try:
        from segray.pipelines.review.security import Door
        from segray.pipelines.review.server import ReviewPage, listen
    except ModuleNotFoundError as error:
        raise UserError(f"segray serve needs {error.name}: pip install 'segray[review]'") from error
    # First, as a port that is in use must not cost the time that a large label set takes to open.
    listener = listen(config.host, config.port)
    try:
        review = _open(config)
    except BaseException:
        listener.close()
        raise
    drawing.warm_up()
    door = Door(config.host, listener.getsockname()[1])
    show(_lines(review))
    if door.is_wide:
        show(
            [line("warning", "all who reach this machine reach the page, unencrypted; the token protects it")]
        )
    return ReviewPage(review, door, listener)


def _open(config: ServeConfig) -> Review:
    status = StatusLine()
    shown = time.monotonic()

    def report(done: int, of: int) -> None:
        nonlocal shown
        if time.monotonic() - shown > status.interval:
            status.show(f"read  {done} of {of} parts")
            shown = time.monotonic()

    try:
        return open_review(config, report)
    finally:
        status.clear()


def open_review(config: ServeConfig, report: Callable[[int, int], None] | None = None) -> Review:
    """The label set of a configuration, open for review.

    Args:
        config: of the command.
        report: as of `build_index`.

    Raises:
        UserError: no label set there, or no masks.
    """
    options = MaskOptions.of_keys(config, config.image)
    truth = partial(TruthMasks, MaskFolder(config.masks, options)) if config.masks else None
    other = partial(open_compare, config.compare) if config.compare else None
    places = Places(config.out, config.image.roots, config.clip.weights, config.who or this_user())
    return Review(places, truth, other, report)


def _lines(review: Review) -> list[str]:
    images, segments = len(review.index.images), len(review.index.segments)
    corrected = int(review.marks.corrected.sum())
    text = f"{visible(storage.display(review.places.root))}: {images} images, {segments} segments"
    return [line("label set", f"{text}, {corrected} images corrected")]

"""`segray serve`: a page on this machine to look at a label set and to correct it."""

from __future__ import annotations

from functools import partial

import click

from segray.pipelines.config.commands.serve import ServeConfig
from segray.pipelines.corrections.correction import this_user
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.masks.folder import MaskFolder
from segray.pipelines.masks.options import MaskOptions
from segray.pipelines.printing import visible
from segray.pipelines.review.review import Places, Review
from segray.pipelines.review.scores import TruthMasks, open_compare
from segray.pipelines.understood import line, show


def run(config: ServeConfig) -> None:
    """Open the label set, print the address of the page, and answer until Ctrl-C.

    Raises:
        UserError: no label set, no masks, a port that is in use, or the extra `review` is missing.
    """
    try:
        from segray.pipelines.review.app import build_app
        from segray.pipelines.review.security import Door
        from segray.pipelines.review.server import listen, make_server
    except ModuleNotFoundError as error:
        raise UserError(f"segray serve needs {error.name}: pip install 'segray[review]'") from error
    # First, as a port that is in use must not cost the time that a large label set takes to open.
    listener = listen(config.host, config.port)
    review = open_review(config)
    door = Door(config.host, listener.getsockname()[1])
    review.start()
    show(_lines(review))
    if door.is_wide:
        show(
            [line("warning", "all who reach this machine reach the page, unencrypted; the token protects it")]
        )
    click.echo(f"open {door.address}  (Ctrl-C stops)")
    make_server(build_app(review, door)).run(sockets=[listener])


def open_review(config: ServeConfig) -> Review:
    """The label set of a configuration, open for review.

    Raises:
        UserError: no label set there, or no masks.
    """
    options = MaskOptions.of(
        suffix=config.mask_suffix,
        colors=config.colors,
        binary=config.binary,
        follow_links=config.image.follow_links,
    )
    truth = partial(TruthMasks, MaskFolder(config.masks, options)) if config.masks else None
    other = partial(open_compare, config.compare) if config.compare else None
    places = Places(config.out, config.image.roots, config.clip.weights, config.who or this_user())
    return Review(places, truth, other)


def _lines(review: Review) -> list[str]:
    images, segments = len(review.index.images), len(review.index.segments)
    corrected = int(review.marks.corrected.sum())
    text = f"{visible(storage.display(review.places.root))}: {images} images, {segments} segments"
    return [line("label set", f"{text}, {corrected} images corrected")]

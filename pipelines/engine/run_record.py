"""The content of run.json: what a label set holds, and how the last run went."""

from __future__ import annotations

from typing import NotRequired, TypedDict


class ClassRecord(TypedDict):
    """A class in a label set: its pixels, their share of all pixels, and the images that contain it."""

    name: str
    pixels: int
    share: float
    images: int


class ThisRun(TypedDict):
    """The last run: images, wall seconds, and by stage busy seconds, workers and the share of their time.

    `gpu_busy` is the share of time in which the GPUs computed anything; None where nobody has looked.
    """

    images: int
    seconds: float
    stage_seconds: dict[str, float]
    workers: dict[str, int]
    utilisation: dict[str, float]
    restarts: int
    probe: dict[str, float]
    gpu_busy: NotRequired[float | None]


class SomeImages(TypedDict):
    """How many images, and the ids of the first few."""

    count: int
    first: list[str]


class RunRecord(TypedDict):
    """A label set and its last run.

    Attributes:
        rows: images by status.
        labelled_fraction: of the pixels, those with a confidence.
        n_segments: of all images.
        no_segments: ok images in which SAM found nothing; missing without SAM, and in older label sets.
        no_class: images with segments of which none has a class; missing in the same cases.
        classes: by class id.
        bad: id, status and reason of the first few bad images.
        this_run: the last run.
        config_hash: of its configuration.
        versions: of the packages.
        finished: when, in UTC.
    """

    rows: dict[str, int]
    labelled_fraction: float
    n_segments: int
    no_segments: NotRequired[SomeImages]
    no_class: NotRequired[SomeImages]
    classes: list[ClassRecord]
    bad: list[tuple[str, str, str]]
    this_run: ThisRun
    config_hash: str
    versions: dict[str, str | None]
    finished: str

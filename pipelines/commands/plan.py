"""`segray plan`: label a few images in this process, and estimate what all of them will take."""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import click

from segray.pipelines.annotation.in_process import Stages, timed
from segray.pipelines.annotation.parts import part_tables
from segray.pipelines.annotation.prepared import Prepared
from segray.pipelines.commands.annotate import masked_images, prepare, space_of
from segray.pipelines.config.commands.plan import PlanConfig
from segray.pipelines.engine.image_values import pending_lines
from segray.pipelines.engine.progress import clock
from segray.pipelines.engine.provenance import STAGES
from segray.pipelines.engine.rows import Row
from segray.pipelines.io.manifest import ImageRef
from segray.pipelines.io.sources import list_images
from segray.pipelines.io.uris import display_all
from segray.pipelines.label_set.schema import labels_schema, segments_schema
from segray.pipelines.label_set.store import write_part
from segray.pipelines.printing import echo, visible
from segray.pipelines.understood import show

_GB, _SHOWN, _HOUR = 1e9, 5, 3600


@dataclass
class Pile:
    """What the listing shows: how many images, their bytes if the source knows them, and a fair sample."""

    images: int = 0
    skipped: int = 0
    sized: int = 0
    size: int = 0
    sample: list[ImageRef] = field(default_factory=list)


@dataclass
class Probe:
    """What labelling a few images took.

    Attributes:
        images: how many.
        bad: (image_id, status and reason) of those that have no labels.
        out_bytes: bytes of their label set.
        seconds: busy seconds by stage.
        device: "GPU" or "CPU core".
    """

    images: int
    bad: list[tuple[str, str]]
    out_bytes: int
    seconds: dict[str, float]
    device: str

    @property
    def device_seconds(self) -> float:
        """Seconds of one device per image: a GPU runs the models, a core runs everything."""
        counted = STAGES if self.device == "GPU" else tuple(self.seconds)
        return sum(self.seconds.get(stage, 0.0) for stage in counted) / self.images


def run(config: PlanConfig) -> None:
    """Print what a run will take; nothing is written.

    Raises:
        UserError: no images, bad weights or options.
    """
    space = space_of(config)
    pile = survey(
        list_images(
            config.images,
            config.image.roots,
            follow=config.image.follow_links,
            column=config.image.column,
        ),
        config.probe,
    )
    with tempfile.TemporaryDirectory(prefix="segray-plan-") as folder:
        masked = masked_images(config, space)
        prepared = prepare(config.model_copy(update={"out": folder}), space, load=True, masked=masked)
        echo(f"{pile.images} images; labelling {len(pile.sample)} of them here", err=True)
        show(pending_lines(pile.sample, len(pile.sample), prepared.options))
        measured = probe(prepared, pile.sample, Path(folder))
    echo("\n".join(plan_lines(config, pile, measured)))


def survey(refs: Iterable[ImageRef], count: int) -> Pile:
    """Go once through a listing of any length, with no more than `count` images in memory.

    The sample is a uniform draw with a fixed seed (reservoir sampling, Vitter's algorithm R).
    """
    pile, rng = Pile(), random.Random(0)
    for ref in refs:
        pile.images += 1
        pile.skipped += ref.problem is not None
        pile.sized += ref.size > 0
        pile.size += ref.size
        if len(pile.sample) < count:
            pile.sample.append(ref)
        elif (place := rng.randrange(pile.images)) < count:
            pile.sample[place] = ref
    return pile


def probe(prepared: Prepared, sample: list[ImageRef], folder: Path) -> Probe:
    """Run the stages of a run on a few images, one after the other in this process.

    Args:
        sample: the images, at least one.
        folder: an empty folder for their label set.
    """
    stages = Stages(prepared)
    with click.progressbar(length=len(sample), label="probe", file=sys.stderr) as bar:
        rows, seconds = timed(stages, sample, bar.update)
    began = time.perf_counter()
    out_bytes = _written(prepared, rows, folder)
    return Probe(
        images=len(rows),
        bad=[(r["image_id"], f"{r['status']}: {r['error']}") for r in rows if r["status"] != "ok"],
        out_bytes=out_bytes,
        seconds={**seconds, "write": time.perf_counter() - began},
        device="GPU" if stages.gpu else "CPU core",
    )


def _written(prepared: Prepared, rows: list[Row], folder: Path) -> int:
    """Bytes of these rows as a part of a label set."""
    dim = prepared.dim if prepared.config.embeddings else None
    schemas = labels_schema(prepared.provenance), segments_schema(dim, prepared.provenance)
    write_part(str(folder), *part_tables(rows, *schemas, "plan"))
    return sum(path.stat().st_size for path in folder.rglob("*.parquet"))


def plan_lines(config: PlanConfig, pile: Pile, measured: Probe) -> list[str]:
    """The plan, in lines for a terminal."""
    hours = pile.images * measured.device_seconds / _HOUR
    wall = hours / config.devices * _HOUR
    devices = f"{config.devices} {measured.device}{'s' if config.devices > 1 else ''}"
    lines = [
        "",
        f"images          {pile.images} in {display_all(config.images)}",
        f"bad             {_bad(pile, measured)}",
        f"read            {_size(pile)}",
        f"written         about {_bytes(pile.images * measured.out_bytes / measured.images)}",
        f"{measured.device} hours".ljust(16) + f"{hours:.3g} ({measured.device_seconds:.3g} s per image)",
        f"time            {clock(wall)} on {devices}",
    ]
    if config.price is not None:
        lines.append(f"price           {hours * config.price:.2f} at {config.price:g} per hour each")
    stages = "  ".join(f"{name} {s / measured.images:.3g} s" for name, s in measured.seconds.items())
    return [*lines, "", f"per image       {stages}", *_notes(measured), *_bad_lines(measured)]


def _bad(pile: Pile, measured: Probe) -> str:
    seen = f"{len(measured.bad)} of {measured.images} in the probe"
    return seen + (
        f", about {round(pile.images * len(measured.bad) / measured.images)} of all" if measured.bad else ""
    )


def _size(pile: Pile) -> str:
    if not pile.sized:
        return "unknown: the source reports no sizes"
    return f"{'' if pile.sized == pile.images else 'about '}{_bytes(pile.size * pile.images / pile.sized)}"


def _bytes(count: float) -> str:
    return f"{count / _GB:.3g} GB" if count >= 0.1 * _GB else f"{count / 1e6:.3g} MB"


def _notes(measured: Probe) -> list[str]:
    lines = [f"measured        on one {measured.device} of this machine; without starting the workers"]
    if measured.images < 16:
        lines.append(f"                {measured.images} images are a small sample")
    return lines


def _bad_lines(measured: Probe) -> list[str]:
    lines = [f"  {visible(image_id)}: {visible(reason)}" for image_id, reason in measured.bad[:_SHOWN]]
    more = len(measured.bad) - len(lines)
    return ["", *lines, *([f"  ... and {more} more"] if more > 0 else [])] if lines else []

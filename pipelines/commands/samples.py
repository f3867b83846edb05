"""A few free photographs, copied from scikit-image: real images without a download."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from segray.pipelines.config.commands.samples import SamplesConfig
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.printing import echo

README = "README.md"
_TITLE = "# Sample photographs"


@dataclass(frozen=True)
class Sample:
    """One photograph.

    Attributes:
        source: file name in scikit-image's data folder.
        name: file name here.
        shows: what is on it.
        origin: who took it, and where scikit-image got it.
        licence: as scikit-image's documentation of the image states it.
    """

    source: str
    name: str
    shows: str
    origin: str
    licence: str


_CC0 = "CC0"
SAMPLES = (
    Sample(
        "astronaut.png",
        "astronaut.png",
        "the astronaut Eileen Collins",
        "NASA, https://flic.kr/p/r9qvLn",
        "public domain",
    ),
    Sample("camera.png", "camera.png", "a man with a camera, grey", "Lav Varshney", _CC0),
    Sample("chelsea.png", "cat.png", "Chelsea the cat", "Stefan van der Walt", _CC0),
    Sample(
        "clock_motion.png", "clock.png", "a wall clock, blurred, grey", "Stefan van der Walt", "public domain"
    ),
    Sample("coffee.png", "coffee.png", "a cup of coffee", "Rachel Michetti, Pikolo Espresso Bar", _CC0),
    Sample(
        "coins.png",
        "coins.png",
        "Greek coins from Pompeii, grey",
        "Brooklyn Museum, https://www.brooklynmuseum.org/opencollection/archives/image/51611",
        "no known copyright restrictions",
    ),
    Sample(
        "rocket.jpg",
        "rocket.jpg",
        "a Falcon 9 lifting off",
        "SpaceX, https://www.flickr.com/photos/spacexphotos/16511594820",
        "public domain",
    ),
)


def run(config: SamplesConfig) -> None:
    """Copy the photographs and a README with origin and licence of each into `config.out`.

    Raises:
        UserError: scikit-image is missing, or `out` is not a local folder, or holds other files.
    """
    source = _data_folder()
    out = _output_folder(config.out)
    samples = [sample for sample in SAMPLES if (source / sample.source).is_file()]
    if not samples:
        raise UserError(f"samples: no photograph in {source}; scikit-image 0.24 to 0.26 ship them")
    for sample in samples:
        storage.write_atomic(str(out / sample.name), (source / sample.source).read_bytes())
    storage.write_atomic(str(out / README), readme(samples).encode())
    echo(f"{len(samples)} photographs in {out}; origin and licence of each: {out / README}")


def readme(samples: list[Sample]) -> str:
    """The README next to the photographs, in Markdown."""
    rows = [f"| {s.name} | {s.shows} | {s.origin} | {s.licence} |" for s in samples]
    head = "| file | shows | origin | licence |\n|---|---|---|---|"
    note = (
        "Unchanged copies of files that ship with scikit-image (https://scikit-image.org).\n"
        "Licences as the documentation of `skimage.data` states them."
    )
    return "\n\n".join((_TITLE, note, "\n".join((head, *rows)))) + "\n"


def _data_folder() -> Path:
    # Not skimage.data itself: its functions may reach for the network, the files beside it do not.
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        missing = "samples: scikit-image is missing, and the photographs come from it"
        raise UserError(f"{missing}; install it: pip install 'segray[samples]'")
    return Path(spec.origin).parent / "data"


def _output_folder(uri: str) -> Path:
    """The output folder, made when missing; a folder with other files is refused."""
    if not storage.is_local(uri):
        raise UserError(f"samples: out={storage.display(uri)} is not a local folder")
    out = storage.local_path(uri)
    try:
        out.mkdir(parents=True, exist_ok=True)
        present = {path.name for path in out.iterdir() if not storage.is_temporary(path.name)}
        title = (out / README).read_text("utf-8", "replace") if README in present else _TITLE
    except OSError as error:
        raise UserError(f"samples: out={out}: {error.strerror}") from error
    foreign = sorted(present - {README} - {sample.name for sample in SAMPLES})
    if foreign or not title.startswith(_TITLE):
        name = foreign[0] if foreign else README
        raise UserError(f"samples: out={out} holds other files ({name}); name a new or empty folder")
    return out

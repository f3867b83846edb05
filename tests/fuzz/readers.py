"""What reads received files: each takes a folder with its input, and returns or refuses it."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from unittest.mock import patch

import click
import numpy as np
import torch
from PIL import Image
from starlette.testclient import TestClient
from torch import nn

import segray
from segray.models import weights
from segray.models.segmenters.registry import build_segmenter
from segray.pipelines import cli
from segray.pipelines.commands import annotate, relabel
from segray.pipelines.commands.serve import open_review
from segray.pipelines.config.command_table import COMMANDS
from segray.pipelines.config.commands.annotate import AnnotateConfig
from segray.pipelines.config.commands.relabel import RelabelConfig
from segray.pipelines.config.commands.serve import ServeConfig
from segray.pipelines.config.commands.train import DataConfig
from segray.pipelines.config.commands.tune import TuneConfig
from segray.pipelines.config.loading import dump, load
from segray.pipelines.config.received import load_received
from segray.pipelines.config.source import read_yaml
from segray.pipelines.corrections import CorrectionLog
from segray.pipelines.errors import UserError
from segray.pipelines.io.images import ImageOptions, ImageProblem, decode
from segray.pipelines.io.lock_record import LockRecord
from segray.pipelines.io.run_lock import RunLock
from segray.pipelines.io.sources import follows_links, image_roots, list_images, read_allowed
from segray.pipelines.review.app import build_app
from segray.pipelines.review.security import Door
from segray.pipelines.training.checkpoints import load_optimiser, newest_whole, save_checkpoint
from segray.pipelines.training.data.class_names import configured_space
from segray.pipelines.training.data.coco import open_coco
from segray.pipelines.training.data.datasets import LabelledImages
from segray.pipelines.training.data.label_join import open_label_set
from segray.pipelines.training.data.samples import TrainingData
from segray.pipelines.training.data.segment_maps import SegmentMaps
from segray.pipelines.training.data.training_data import open_data
from segray.pipelines.training.data_record import data_record, store_record
from segray.pipelines.training.transition import read_transition
from segray.tuning.asha import PerSplitASHA
from segray.tuning.folder import SearchFolder
from segray.tuning.plans import Plan, RerunPlan, SearchPlan
from segray.tuning.report import summary
from tests.fuzz.faulty import FAULTY
from tests.tuning import searches

REFUSALS = (UserError, ImageProblem, weights.WeightsError)
"""What a reader may raise: commands show the first, make rows of the second and show the third."""
CLASSES = "tree,house"
SIZE = (64, 48)


def _segray(command: str, *overrides: str) -> None:
    cli._run(command, overrides, debug=False)


def _make(folder: Path) -> None:
    """A label set, a network's checkpoint and true masks, for the tests to change."""
    for name, colour in (("a.png", (200, 30, 30)), ("b.png", (30, 160, 40))):
        pixels = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
        pixels[8:30, 10:40] = colour
        for place in ("images", "masks"):
            (folder / place).mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / "images" / name)
        Image.fromarray((pixels[..., 0] > 100).astype(np.uint8)).save(folder / "masks" / name)
    _segray(
        "annotate",
        "images=images",
        "out=set",
        f"classes={CLASSES}",
        "sam.model=builtin",
        "clip.model=builtin",
    )
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir()
    network = build_segmenter("builtin", 3, pretrained=False)
    optimiser = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    state = {"step": 1, "total": 2, "history": [], "classes": ["void", "tree", "house"], "network": "builtin"}
    save_checkpoint(checkpoint, network, None, optimiser, {**state, "window": None, "config": {}})
    _segray("export", "checkpoint=checkpoint", "out=model.safetensors", "format=safetensors")
    _make_search(folder)


def _make_search(folder: Path) -> None:
    """A search of two splits, with trials that ended in every way, and the lock of a run that has ended."""
    ended = [searches.trial(0, 0.5), searches.trial(1, 0.6), searches.trial(2, 0.3, "stopped")]
    ended += [searches.trial(0, 0.4, split="4"), searches.trial(3, None, "crashed", reason="no memory")]
    searches.search_folder(searches.config(folder / "search"), *ended)
    record = data_record(_data())
    store_record("search", {"2": record, "4": record})
    few = [replace(searches.trial(n, 0.5 + 0.1 * n), split="first/few.txt") for n in range(2)]
    searches.search_folder(_search_by_files(folder, "first"), *few)
    store_record("moved", {"first/few.txt": record, "first/more.txt": record})
    (folder / "locked").mkdir()
    (folder / "locked" / ".lock.json").write_bytes(replace(LockRecord(), heartbeat=0.0).to_bytes())


def _search_by_files(folder: Path, place: str) -> TuneConfig:
    """A search whose splits are files in a folder."""
    return searches.config(folder / "moved", f"space.data.labelled=grid({place}/few.txt,{place}/more.txt)")


def _data() -> TrainingData:
    config = DataConfig(
        root=".", images="images", masks="masks", classes=CLASSES.split(","), validation="none"
    )
    return open_data(config, seed=0)


def _annotate(folder: Path) -> None:
    # SAM's own time is no subject here: without it, each image is one segment per class.
    model = ("sam.model=none", "clip.model=builtin", "max_bad=1.0")
    _segray("annotate", "images=manifest.parquet", "out=out", f"classes={CLASSES}", *model)


def _verify(folder: Path) -> None:
    _segray("verify", "out=set")


def _repair(folder: Path) -> None:
    """Up to the run that labels images again: what it may take is decided before."""
    (part,) = (folder / "set" / "labels").glob("part-*.parquet")
    part.write_bytes(part.read_bytes()[:-9])

    def label_again(config: AnnotateConfig | RelabelConfig) -> None:
        assert config.clip.weights is None
        if isinstance(config, AnnotateConfig):
            assert (config.address, config.sam.weights) == (None, None)
        raise UserError("nothing is labelled in this test")

    with patch.object(annotate, "run", label_again), patch.object(relabel, "run", label_again):
        try:
            _segray("verify", "out=set", "repair=true", "image.roots=images")
        finally:
            assert part.exists()


def _tune(folder: Path) -> None:
    """Everything that `segray tune` does with the records of an earlier command but train."""
    search = SearchFolder(searches.config(folder / "search"))
    search.check()
    search.check_data(dict.fromkeys(("2", "4"), _data()))
    search.begin()
    PerSplitASHA(search.config, search.trials())
    plans: list[Plan] = [SearchPlan(search, 3, lambda _: None), RerunPlan("finals", search, lambda _: None)]
    for _ in range(3):
        for plan in plans:
            plan.next()
    for split in ("2", "4"):
        search.drop_weights(split)
    click.echo("\n".join(summary.lines(search)))
    summary.write(search)


def _tune_moved(folder: Path) -> None:
    """The same with split files that were moved: trials and the record of the data get their new places."""
    search = SearchFolder(_search_by_files(folder, "second"))
    search.check()
    search.begin()
    assert {trial.split for trial in search.trials()} <= {"second/few.txt", "second/more.txt"}
    search.check_data({split: _data() for split in search.names()})
    click.echo("\n".join(summary.lines(search)))


def _lock(folder: Path) -> None:
    with RunLock("locked"):
        assert (folder / "locked" / ".lock.json").exists()


def _report(folder: Path) -> None:
    _segray("report", "out=set")


def _evaluate(folder: Path) -> None:
    _segray("evaluate", "labels=set", "masks=masks")


def _calibrate(folder: Path) -> None:
    # One set of templates: embedding 80 says nothing more about the input, and takes seconds.
    few = "candidates.templates=[single]"
    _segray("calibrate", "labels=set", "masks=masks", "out=out", "allow_missing=true", few)


def _relabel(folder: Path) -> None:
    _segray("relabel", "labels=set", "out=out", f"classes={CLASSES}")


def _suggest(folder: Path) -> None:
    for form in ("list", "cvat", "labelstudio"):
        _segray("suggest", "labels=set", f"out=out/{form}", f"format={form}", "n=2", "images=none")


def _serve(folder: Path) -> None:
    """All that the page asks for: each answer is one, or a refusal."""
    door = Door("127.0.0.1", 8765, "secret")
    review = open_review(load(ServeConfig, None, ["out=set", "image.roots=images"]))
    review.catch_up()
    headers = {"authorization": "Bearer secret"}
    client = TestClient(build_app(review, door), base_url="http://127.0.0.1:8765", headers=headers)
    places = ["/api/set", "/api/progress", "/api/naming", "/api/images?class=1&sort=margin"]
    for n in range(min(4, len(review.index.images))):
        kinds = ("", "/photo.jpg?size=thumbnail", "/overlay.png", "/label.png", "/confidence.png")
        places += [f"/api/images/{n}{kind}" for kind in kinds]
    for row in range(min(4, len(review.index.segments))):
        places += [f"/api/segments/{row}/crop.jpg", f"/api/segments/{row}/alike?class=1"]
    for place in places:
        assert client.get(place).status_code in (200, 404, 422, 500), place


def _plan(folder: Path) -> None:
    model = ("sam.model=none", "clip.model=builtin", "probe=2")
    _segray("plan", "images=manifest.parquet", "out=out", f"classes={CLASSES}", *model)


def _outlines(folder: Path) -> None:
    """Masks that training draws from outlines: of CVAT, YOLO or LabelMe."""
    files = {"annotations.xml": "cvat", "data.yaml": "yolo"}
    kind = next((kind for name, kind in files.items() if (folder / "data" / name).exists()), "labelme")
    data = open_data(DataConfig(kind=kind, root="data", classes=CLASSES.split(",")), seed=0)
    images = LabelledImages(data.labelled)
    for i in range(len(images)):
        assert images[i][1].dtype == torch.uint8


def _export(folder: Path) -> None:
    for form in ("png", "coco"):
        _segray("export", "labels=set", f"out=out-{form}", f"format={form}", "instances=segments")


def _corrections(folder: Path) -> None:
    """Everything that reads the log, with the labels that it gives."""
    CorrectionLog("set").read()
    _segray("verify", "out=set")
    for sample in segray.LabelSet("set"):
        assert sample.label.dtype == np.uint8


def _import(folder: Path) -> None:
    (path,) = folder.glob("source.*")
    _segray("import", "labels=set", f"from={path.name}", "good=all")


def _label_set(folder: Path) -> None:
    labels = segray.LabelSet("set")
    for sample in islice(labels, 20):
        for segment in sample.segments:
            assert segment.mask.shape == sample.label.shape


def _training_labels(folder: Path) -> None:
    open_label_set("set", ["background", "tree", "house"])


def _transition(folder: Path) -> None:
    shares = read_transition("set", ["background", "tree", "house"])
    assert shares.shape == (3, 3)
    assert np.isfinite(shares).all()


def _segment_maps(folder: Path) -> None:
    maps = SegmentMaps("set", ["a.png", "b.png"])
    for name in ("a.png", "b.png"):
        assert maps.read(name, (SIZE[1], SIZE[0])).dtype == np.int16


def _coco(folder: Path) -> None:
    data = open_coco(DataConfig(kind="coco", root="data"))
    samples = [data.samples[image_id] for image_id in data.candidates]
    data.check(samples)
    data.contents(samples)
    images = LabelledImages(data.ready(samples))
    for i in range(len(images)):
        assert images[i][1].dtype == torch.uint8


def _predict(folder: Path) -> None:
    _segray("predict", "checkpoint=checkpoint", "images=images", "out=out")


def _ship(folder: Path) -> None:
    _segray("export", "checkpoint=checkpoint", "out=out/m.safetensors", "format=safetensors")


def _single_file(folder: Path) -> None:
    segray.load_network("model.safetensors")


def _resume(folder: Path) -> None:
    if checkpoint := newest_whole(["checkpoint"]):
        load_optimiser(checkpoint)


def _weights(folder: Path) -> None:
    (path,) = folder.glob("weights.*")
    file = weights.resolve(str(path))
    weights.read_card(file)
    weights.load_into(nn.Linear(3, 2), file, "the test's")


def _class_file(folder: Path) -> None:
    (path,) = folder.glob("classes.*")
    space = configured_space(path.name)
    space.palette()
    json.dumps(space.classes).encode()


def _configuration(folder: Path) -> None:
    for command in ("annotate", "train", "tune"):
        with suppress(UserError):
            dump(load(COMMANDS[command].config(), "config.yaml"))
    with suppress(UserError):
        own = {"out": "out", "labels": "set"}
        dump(load_received(COMMANDS["relabel"].config(), read_yaml("config.yaml"), own, "config.yaml"))


def _image(folder: Path) -> None:
    decode((folder / "image").read_bytes(), ImageOptions())


def _sources(folder: Path) -> None:
    for path in sorted(folder.glob("source.*")):
        roots = image_roots(path.name)
        for ref in islice(list_images(path.name), 20):
            assert ref.image_id == ref.image_id.strip("/")
            if ref.problem is None:
                with suppress(ImageProblem):
                    read_allowed(ref.uri, roots, follow=follows_links(path.name, True))


def _packed(folder: Path) -> None:
    """Data sets of images and masks in archives, lists and tables."""
    for path in sorted(folder.glob("source.*")):
        config = DataConfig(root=path.name, classes=CLASSES.split(","), validation="none")
        images = LabelledImages(open_data(config, seed=0).labelled)
        for i in range(len(images)):
            assert images[i][1].dtype == torch.uint8


READERS: dict[str, Callable[[Path], None]] = {
    "make": _make,
    "annotate": _annotate,
    "verify": _verify,
    "repair": _repair,
    "tune": _tune,
    "tune moved": _tune_moved,
    "lock": _lock,
    "report": _report,
    "evaluate": _evaluate,
    "relabel": _relabel,
    "calibrate": _calibrate,
    "suggest": _suggest,
    "serve": _serve,
    "plan": _plan,
    "outlines": _outlines,
    "export": _export,
    "corrections": _corrections,
    "import": _import,
    "label set": _label_set,
    "training labels": _training_labels,
    "transition": _transition,
    "segment maps": _segment_maps,
    "coco": _coco,
    "predict": _predict,
    "ship": _ship,
    "single file": _single_file,
    "resume": _resume,
    "weights": _weights,
    "class file": _class_file,
    "configuration": _configuration,
    "image": _image,
    "sources": _sources,
    "packed": _packed,
    **FAULTY,
}

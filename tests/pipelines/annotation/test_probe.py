"""A probe on the Ray of the test session, and the pools that follow from it."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from segray.pipelines.annotation import probe
from segray.pipelines.annotation.in_process import Stages, timed
from segray.pipelines.annotation.prepared import Prepared
from segray.pipelines.annotation.probe import IMAGES, WORTH, Pools, choose, measure, probe_line
from segray.pipelines.commands.annotate import prepare, space_of
from segray.pipelines.engine.cluster import Resources
from segray.pipelines.engine.pools import PoolPlan, plan
from segray.pipelines.errors import UserError
from segray.pipelines.io.manifest import ImageRef
from segray.pipelines.io.sources import list_images
from tests.pipelines.plain_runs import config_of, draw_scenes

TWO = Resources(2, 0)
MEASURED = {"read": 0.01, "sam": 0.1, "clip": 0.2, "encode": 0.01}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures, and one that is none, the first by name; never changed."""
    folder = draw_scenes(tmp_path_factory.mktemp("probe") / "images", 3)
    (folder / "bad.png").write_bytes(b"no picture")
    return folder


def prepared_for(images: Path, *words: str) -> Prepared:
    config = config_of(images, images.parent / "out", "auto=true", *words)
    return prepare(config, space_of(config))


def usual(prepared: Prepared, resources: Resources = TWO) -> dict[str, PoolPlan]:
    return dict(zip(("sam", "clip"), plan(prepared.config.sam, prepared.config.clip, resources), strict=True))


class Unread:
    """A to-do list that nobody may look at."""

    def __iter__(self) -> Iterator[ImageRef]:
        pytest.fail("a probe was begun")


@pytest.mark.parametrize("resources", [TWO, Resources(256, 0), Resources(256, 128)], ids=str)
@pytest.mark.parametrize("n_images", [17, 40, WORTH])
def test_no_more_workers_start_than_there_are_images(
    images: Path, n_images: int, resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "_on_cluster", lambda *_: MEASURED)
    for words in ((), ("sam.model=none",)):
        plans = choose(prepared_for(images, *words), resources, n_images, []).plans
        assert all(1 <= plan.workers <= plan.max_workers <= n_images for plan in plans.values())


def test_a_probe_labels_a_few_good_images_and_writes_nothing(images: Path) -> None:
    before = sorted(images.parent.rglob("*"))
    seconds = measure(prepared_for(images), list(list_images(str(images))))
    assert list(seconds) == ["read", "sam", "clip", "encode"]
    assert all(value > 0 for value in seconds.values())
    assert sorted(images.parent.rglob("*")) == before


def test_a_probe_of_many_images_takes_few_and_passes_over_bad_ones(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = ImageRef("good", str(images / "scene-0.png")), ImageRef("bad", str(images / "bad.png"))
    labelled: list[ImageRef] = []

    def watched(stages: Stages, refs: list[ImageRef]) -> object:
        labelled.extend(refs)
        return timed(stages, refs)

    monkeypatch.setattr(probe, "timed", watched)
    measure(prepared_for(images), [bad, bad, good] * IMAGES)
    assert labelled == [good] * IMAGES


def test_only_bad_images_are_no_probe(images: Path) -> None:
    bad = ImageRef("bad", str(images / "bad.png"))
    with pytest.raises(UserError, match=r"^none of the first 2 images could be labelled$"):
        measure(prepared_for(images), [bad, bad])


@pytest.mark.parametrize(
    ("words", "n_todo"),
    [
        ((), WORTH - 1),
        (("auto=false",), WORTH),
        (("sam.workers=1", "clip.workers=1"), WORTH),
    ],
)
def test_where_there_is_nothing_to_win_there_is_no_probe(
    images: Path, words: tuple[str, ...], n_todo: int, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared = prepared_for(images, *words)
    found = choose(prepared, TWO, n_todo, Unread())
    assert (found.plans, found.probe) == (usual(prepared), {})
    assert capsys.readouterr().err == ""


def test_too_few_images_are_told_where_everything_is(images: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger=probe.__name__):
        choose(prepared_for(images), TWO, 7, Unread())
    assert caplog.messages == [f"auto: no probe for fewer than {WORTH} images"]


def test_one_model_alone_needs_no_probe(images: Path) -> None:
    found = choose(prepared_for(images, "sam.model=none"), TWO, WORTH, Unread())
    assert list(found.plans) == ["clip"]
    assert found.probe == {}


def said_by(capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed, without the lines that a slow machine adds while the probe is waited for."""
    lines = capsys.readouterr().err.splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("waiting for the probe"))


def measured(monkeypatch: pytest.MonkeyPatch, seconds: dict[str, float]) -> None:
    monkeypatch.setattr(probe, "_on_cluster", lambda *_: seconds)


def test_sizes_follow_from_what_was_measured_and_are_told(
    images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured(monkeypatch, MEASURED)
    found = choose(prepared_for(images), Resources(16, 0), WORTH, ())
    assert {name: pool.workers for name, pool in found.plans.items()} == {"sam": 5, "clip": 10}
    assert found.probe == MEASURED
    assert capsys.readouterr().err == (
        "probe: read 0.01 s, sam 0.1 s, clip 0.2 s, encode 0.01 s per image; 5 SAM and 10 CLIP workers\n"
    )


def test_what_is_set_by_hand_goes_before_what_was_measured(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(monkeypatch, MEASURED)
    found = choose(prepared_for(images, "clip.workers=3"), Resources(16, 0), WORTH, ())
    assert {name: pool.workers for name, pool in found.plans.items()} == {"sam": 5, "clip": 3}
    # Three whole GPUs for SAM and six for CLIP were measured: nine and six are more than there are.
    prepared, nine = prepared_for(images, "sam.workers=9"), Resources(16, 9)
    found = choose(prepared, nine, WORTH, ())
    assert found.plans == usual(prepared, nine)
    assert found.plans["sam"].workers == 9


def test_more_than_there_is_is_refused_before_the_probe(images: Path) -> None:
    with pytest.raises(UserError, match="the cluster has 2 CPUs"):
        choose(prepared_for(images, "sam.num_cpus=2"), TWO, WORTH, Unread())


def test_the_line_tells_shares_of_a_gpu() -> None:
    pool = PoolPlan(1, 1, num_cpus=0, num_gpus=13 / 16, threads=1, batch_size=4)
    seconds = {"sam": 274.06, "clip": 0.5}
    line = probe_line(seconds, Pools({"sam": pool, "clip": pool}))
    assert line == (
        "probe: sam 274 s, clip 0.5 s per image; 1 SAM and 1 CLIP workers with 0.81 and 0.81 GPUs each"
    )
    line = probe_line(seconds, Pools({"sam": pool, "clip": pool}, shared=True))
    assert line == "probe: sam 274 s, clip 0.5 s per image; 1 workers with both models"


@pytest.mark.parametrize(
    ("gpus", "seconds", "shared"),
    [
        (1, {"sam": 0.1, "clip": 0.2}, True),
        (3, {"sam": 0.1, "clip": 0.2}, False),
        (2, {"sam": 0.1, "clip": 0.01}, True),
    ],
)
def test_a_probe_divides_gpus_where_that_loses_little(
    images: Path, monkeypatch: pytest.MonkeyPatch, gpus: int, seconds: dict[str, float], shared: bool
) -> None:
    measured(monkeypatch, {"read": 0.01, **seconds, "encode": 0.01})
    found = choose(prepared_for(images), Resources(16, gpus), WORTH, ())
    assert found.shared == shared
    assert bool(found.probe) == (gpus > 1)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_probe_runs_on_the_cluster(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = choose(prepared_for(images), TWO, WORTH, list_images(str(images)))
    assert set(found.probe) == {"read", "sam", "clip", "encode"}
    line = r"probe: (\w+ [\d.e-]+ s(, )?){4} per image; [12] SAM and [12] CLIP workers\n"
    assert re.fullmatch(line, said_by(capsys))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_probe_that_fails_leaves_the_usual_pools(
    images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared = prepared_for(images)
    found = choose(prepared, TWO, WORTH, [ImageRef("bad", str(images / "bad.png"))] * 3)
    assert (found.plans, found.probe) == (usual(prepared), {})
    said = "probe: failed (none of the first 3 images could be labelled); workers as without auto\n"
    assert said_by(capsys) == said
    monkeypatch.setattr(probe, "NO_PROGRESS_S", 0.01)
    assert choose(prepared, TWO, WORTH, list_images(str(images))) == found
    assert "probe: failed (GetTimeoutError: " in said_by(capsys)


class _Dies:
    def measure(self, prepared: Prepared, refs: list[ImageRef]) -> None:
        os._exit(9)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_probe_that_is_killed_leaves_the_usual_pools(
    images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(probe, "_Probe", _Dies)
    prepared = prepared_for(images)
    assert choose(prepared, TWO, WORTH, list_images(str(images))).plans == usual(prepared)
    said = said_by(capsys)
    assert said.startswith("probe: failed (ActorDiedError: ")
    assert said.count("\n") == 1

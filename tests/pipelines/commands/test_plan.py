from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segray.pipelines.commands import plan
from segray.pipelines.commands.plan import Pile, Probe, plan_lines, survey
from segray.pipelines.config.commands.plan import PlanConfig
from segray.pipelines.config.loading import load
from segray.pipelines.errors import UserError
from segray.pipelines.io.manifest import ImageRef
from tests.pipelines.plain_runs import OPTIONS, draw_scenes


def refs(count: int, size: int = 1000) -> Iterator[ImageRef]:
    return (ImageRef(f"{i:07}.jpg", f"/x/{i:07}.jpg", size) for i in range(count))


def config(images: Path | str = "pile", *words: str) -> PlanConfig:
    return load(PlanConfig, None, [f"images={images}", *OPTIONS, *words])


def found(device: str = "GPU") -> Probe:
    """Ten images, one of them bad: 0.5 s of SAM and CLIP each, and 0.1 s of the rest."""
    seconds = {"read": 0.4, "sam": 4.0, "clip": 1.0, "encode": 0.4, "write": 0.2}
    return Probe(10, [("7.jpg", "error: truncated")], 20_000, seconds, device)


def test_the_survey_counts_all_and_holds_few() -> None:
    pile = survey(refs(10_000), 32)
    assert (pile.images, pile.sized, pile.size) == (10_000, 10_000, 10_000_000)
    places = sorted(int(ref.image_id[:7]) for ref in pile.sample)
    assert len(set(places)) == 32
    # A uniform draw: both halves, and more than the ends.
    assert 5 < sum(place < 5_000 for place in places) < 27
    assert survey(refs(10_000), 32).sample == pile.sample


def test_a_pile_smaller_than_the_probe_is_taken_whole() -> None:
    assert [ref.image_id for ref in survey(refs(3), 32).sample] == [ref.image_id for ref in refs(3)]


def test_hours_time_price_and_size_follow_from_the_probe() -> None:
    pile = Pile(images=1_000_000, sized=1_000_000, size=120_000_000_000)
    text = "\n".join(plan_lines(config("pile", "devices=8", "price=2"), pile, found()))
    assert "images          1000000 in pile" in text
    assert "1 of 10 in the probe, about 100000 of all" in text
    assert "read            120 GB" in text
    assert "written         about 2 GB" in text
    assert "GPU hours       139 (0.5 s per image)" in text
    assert "time            17:21:40 on 8 GPUs" in text
    assert "price           277.78 at 2 per hour each" in text
    assert "7.jpg: error: truncated" in text
    assert "10 images are a small sample" in text


def test_a_core_does_everything() -> None:
    lines = plan_lines(config(), Pile(images=3600), found("CPU core"))
    assert "CPU core hours  0.6 (0.6 s per image)" in lines
    assert "time            36:00 on 1 CPU core" in lines
    assert not [line for line in lines if line.startswith("price")]
    assert "read            unknown: the source reports no sizes" in lines


@pytest.mark.slow
def test_a_plan_of_real_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = draw_scenes(tmp_path / "images", 5)
    (images / "broken.png").write_bytes(b"no picture")
    before = sorted(tmp_path.rglob("*"))
    plan.run(config(images, f"out={tmp_path}/labels", "devices=2", "price=1.5"))
    out, err = capsys.readouterr()
    assert "6 images; labelling 6 of them here" in err
    assert "1 of 6 in the probe, about 1 of all" in out
    assert "broken.png: error: not an image" in out
    assert "on 2 " in out
    assert sorted(tmp_path.rglob("*")) == before


def test_no_image_and_an_unknown_class_file_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no image in"):
        plan.run(config(tmp_path))
    with pytest.raises(UserError) as told:
        plan.run(config(tmp_path, f"classes={tmp_path}/gone.txt"))
    assert told.value.exit_code == 2


def test_masks_that_teach_are_part_of_the_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, masks = draw_scenes(tmp_path / "images", 3), tmp_path / "masks"
    masks.mkdir()
    for image in sorted(images.iterdir())[:2]:
        width, height = Image.open(image).size
        mask = np.zeros((height, width), np.uint8)
        mask[: height // 2] = 1
        Image.fromarray(mask).save(masks / image.name)
    words = [f"out={tmp_path}/labels", "sam.model=none", f"calibrate.masks={masks}"]
    plan.run(config(images, *words))
    assert "calibrated on 2 masks" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"^calibrate\.masks=/nowhere: no such file or folder"):
        plan.run(config(images, *words, "calibrate.masks=/nowhere"))

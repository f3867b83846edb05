from __future__ import annotations

import json
from pathlib import Path

import pytest

from segray.pipelines.commands import demo
from segray.pipelines.config.commands.demo import DemoConfig
from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.config.loading import identity, load
from segray.pipelines.errors import UserError
from segray.pipelines.training import local

ROOT = Path(__file__).parents[3]
N = 24


def _draw(out: Path, n: int = N) -> Path:
    book = out / "picture-book"
    demo._draw(DemoConfig(out=str(out), n=n), str(book))
    return book


def _bytes(book: Path) -> dict[str, bytes]:
    return {str(path.relative_to(book)): path.read_bytes() for path in book.rglob("*") if path.is_file()}


def test_a_book_that_was_not_finished_is_drawn_anew(tmp_path: Path) -> None:
    book = _draw(tmp_path)
    whole = _bytes(book)
    assert len(whole) == 2 * N + 1
    (book / "class_names.txt").unlink()
    (book / "images" / "train" / "scene-000001.png").write_bytes(b"half")
    assert _bytes(_draw(tmp_path)) == whole


def test_a_finished_book_is_left_alone(tmp_path: Path) -> None:
    image = _draw(tmp_path) / "images" / "train" / "scene-000000.png"
    before = image.stat().st_mtime_ns
    _draw(tmp_path)
    assert image.stat().st_mtime_ns == before


def test_another_demo_and_a_book_that_is_not_ours_are_refused(tmp_path: Path) -> None:
    _draw(tmp_path / "demo")
    with pytest.raises(UserError, match="another n or seed"):
        _draw(tmp_path / "demo", n=N + 1)
    theirs = tmp_path / "own" / "picture-book" / "mine.png"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"mine")
    with pytest.raises(UserError, match="a picture book of its own"):
        _draw(tmp_path / "own")
    assert theirs.read_bytes() == b"mine"


@pytest.mark.ray
@pytest.mark.slow
def test_the_demo_goes_from_nothing_to_two_trained_networks(
    ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # As where nobody has connected to a cluster: one worker trains here.
    monkeypatch.setattr(local, "suits", lambda config: True)
    config = DemoConfig(out=str(tmp_path / "demo"), n=N, labelled=2, epochs=1)
    demo.run(config)
    table = _table(capsys.readouterr().out)
    history = json.loads((tmp_path / "demo" / "segray" / "history.json").read_text())
    assert table[1].split() == ["zero-shot", "labels", "0", f"{history[-1]['zero_shot_miou']:.1%}"]
    assert table[2].split()[:2] == ["supervised", "2"]
    assert table[3].split() == ["segray", "2", f"{history[-1]['miou']:.1%}"]
    for place in ("labels/report.html", "segray/report.html", "segray/best/model.safetensors"):
        assert (tmp_path / "demo" / place).stat().st_size > 0
    demo.run(config)
    assert _table(capsys.readouterr().out) == table


def _table(told: str) -> list[str]:
    return told[told.index("on held-out scenes") :].splitlines()[:4]


def test_the_example_configuration_is_what_the_demo_trains_with() -> None:
    example = load(TrainConfig, str(ROOT / "configs" / "train" / "picture_book.yaml"), [])
    words = [
        "out=x",
        "data.root=runs/picture_book",
        "data.labels=runs/picture_book/labels",
        "data.labelled=8",
    ]
    ours = load(TrainConfig, None, [*words, *demo.RECIPE, f"train.epochs={example.train.epochs}"])
    assert identity(example) == identity(ours)

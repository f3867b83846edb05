from __future__ import annotations

from pathlib import Path

import pytest

from pipelines import demo
from pipelines.config.settings import DemoConfig
from pipelines.errors import UserError


def _draw(out: Path, n: int = 3) -> Path:
    book = out / "picture-book"
    demo._draw(DemoConfig(out=str(out), n=n), str(book))
    return book


def _bytes(book: Path) -> dict[str, bytes]:
    return {str(path.relative_to(book)): path.read_bytes() for path in book.rglob("*") if path.is_file()}


def test_a_book_that_was_not_finished_is_drawn_anew(tmp_path: Path) -> None:
    book = _draw(tmp_path)
    whole = _bytes(book)
    assert len(whole) == 7
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
        _draw(tmp_path / "demo", n=4)
    theirs = tmp_path / "own" / "picture-book" / "mine.png"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"mine")
    with pytest.raises(UserError, match="a picture book of its own"):
        _draw(tmp_path / "own")
    assert theirs.read_bytes() == b"mine"

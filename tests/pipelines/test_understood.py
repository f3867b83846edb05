"""The lines that say what a command understood."""

from __future__ import annotations

import math

import numpy as np
import pytest

from segray.pipelines.understood import PixelCounts, classes_line, name_some, show


def test_a_long_class_list_shows_its_first_names_and_its_last() -> None:
    assert classes_line(["background", "cat"]) == "classes     0 background, 1 cat"
    shown = classes_line([f"c{i}" for i in range(81)])
    assert shown == f"classes     {', '.join(f'{i} c{i}' for i in range(10))}, ..., 80 c80"


def test_names_beyond_the_first_are_counted() -> None:
    assert name_some(["a", "b", "c"], 3) == "a, b, c"
    assert name_some(["a", "b", "c", "d", "e"], 3) == "a, b, c and 2 more"


def test_pixels_are_summed_and_void_is_ignored() -> None:
    counts = np.zeros((2, 256), np.int64)
    counts[0, :3], counts[1, 1], counts[:, 7] = [5, 0, 1], 4, 10
    pixels = PixelCounts.of(list(counts), 4, 7)
    assert (pixels.masks, pixels.pixels, pixels.ignored) == (2, (5, 4, 1, 0), 20)
    assert pixels.absent_names(["a", "b", "c", "d"]) == ["d"]
    assert pixels.ignored_share == pytest.approx(20 / 30)
    assert math.isnan(PixelCounts.of([], 4, 7).ignored_share)


def test_lines_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    show(["a", "b"])
    assert capsys.readouterr() == ("", "a\nb\n")

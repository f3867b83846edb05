"""The files of the page: nothing from outside, no inline scripts, and colours that everybody can read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import segray.pipelines.review

STATIC = Path(next(iter(segray.pipelines.review.__path__))) / "static"
_AA = 4.5
PAIRS = [
    (text, ground)
    for text in ("ink", "muted", "accent", "warn", "good", "star")
    for ground in ("page", "card", "well")
    if (text, ground) in {("ink", "well"), ("muted", "well")} or ground != "well"
]


def _themes() -> dict[str, dict[str, str]]:
    blocks = re.findall(r":root[^{]*\{([^}]*)\}", (STATIC / "page.css").read_text("utf-8"))
    found = [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block)) for block in blocks]
    light, dark_by_system, dark = (colours for colours in found if colours)
    assert dark_by_system == dark
    return {"light": light, "dark": dark}


def _luminance(colour: str) -> float:
    """Relative luminance as WCAG 2.2 defines it."""
    parts = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """Contrast ratio of WCAG 2.2."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_texts_have_the_contrast_of_wcag_aa(theme: str) -> None:
    colours = _themes()[theme]
    pairs = [*PAIRS, ("on-accent", "accent"), ("ink", "accent-soft"), ("accent", "accent-soft")]

    low = {
        (text, ground): round(contrast(colours[text], colours[ground]), 2)
        for text, ground in pairs
        if contrast(colours[text], colours[ground]) < _AA
    }

    assert low == {}


def test_the_page_loads_nothing_from_outside_and_has_no_inline_script() -> None:
    for file in STATIC.iterdir():
        text = file.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in text, file.name
        assert "https:" not in text, file.name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text), (
            file.name
        )
    assert not re.search(
        r"<script(?! type=\"module\" src=)|\son\w+=|style=", (STATIC / "index.html").read_text()
    )


def test_modules_import_only_files_that_are_there() -> None:
    for file in STATIC.glob("*.js"):
        for name in re.findall(r'from "\./([^"]+)"', file.read_text("utf-8")):
            assert (STATIC / name).is_file(), (file.name, name)

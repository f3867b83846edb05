from __future__ import annotations

import re
import subprocess
import sys

import pytest

from segray.pipelines.reporting.charts import COLOURS, Chart


def chart(title: str = "Mean IoU", tips: tuple[str, ...] = ("a", "b")) -> Chart:
    made = Chart(title)
    with made.style():
        (line,) = made.axes.plot([0, 1], [0.2, 0.4], color=COLOURS["series-0"], clip_on=False)
        dots = made.axes.scatter([0, 1], [0.2, 0.4], color=COLOURS["series-1"], clip_on=False)
        made.axes.set_xlabel("$epoch$")
    made.tag(line, "curve")
    made.tag(dots, "dots", tips)
    return made


def test_equal_charts_are_equal_text() -> None:
    assert chart().svg() == chart().svg()


def test_ids_of_different_charts_differ() -> None:
    ids = [re.findall(r'id="(\w+)"', chart(title).svg()) for title in ("one", "two")]
    assert all(ids)
    assert not {*ids[0]} & {*ids[1]}


def test_colours_and_font_are_the_pages() -> None:
    svg = chart().svg()
    assert "stroke: var(--series-0)" in svg
    assert "fill: var(--series-1)" in svg
    assert "font" not in svg
    assert not [name for name in COLOURS if COLOURS[name] in svg]


def test_a_tagged_artist_has_its_class_and_its_marks_their_tips() -> None:
    svg = chart(tips=("<b>&", "2")).svg()
    assert re.search(r'<g class="curve">\s*<path', svg)
    assert re.search(r"<title>&lt;b&gt;&amp;</title></use>\s*<use .*><title>2</title></use>", svg)


def test_tips_that_do_not_match_the_marks_are_refused() -> None:
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        chart(tips=("only one",)).svg()


def test_the_title_is_accessible_and_nothing_applies_to_the_whole_page() -> None:
    svg = chart('a "quoted" <title>').svg()
    assert svg.startswith(
        '<svg viewBox="0 0 520 260" role="img" aria-label="a &quot;quoted&quot; &lt;title&gt;">'
    )
    assert not re.search(r"<(style|script|metadata|image)|xmlns|https?:", svg)


def test_dollar_signs_are_text() -> None:
    assert ">$epoch$</text>" in chart().svg()


def test_matplotlib_is_imported_only_to_draw() -> None:
    program = "import sys, segray.pipelines.reporting.charts; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0

"""The page in a real browser: mouse and keyboard, as a person uses it.

It needs Playwright and a Chromium of the system. Without them these tests are skipped, or fail if the
environment variable SEGRAY_BROWSER is `required`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

import segray
from segray.models.masks import decode_rle
from segray.pipelines.corrections import Correction, CorrectionLog
from segray.pipelines.corrections.correction import effective
from tests.pipelines.review.conftest import HEIGHT, NAMES, WIDTH, write_labels

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Response

_MARGIN, _LARGEST = 36, 24
"""What the viewer leaves free around an image that fits, and its largest scale then."""


def _missing(why: str) -> NoReturn:
    if os.environ.get("SEGRAY_BROWSER") == "required":
        pytest.fail(f"SEGRAY_BROWSER=required: {why}")
    pytest.skip(why)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    try:
        from tools.review_screenshots import browser, browser_path
    except ModuleNotFoundError as error:
        _missing(f"no {error.name} (pip install playwright)")
    if browser_path() is None:
        _missing("no Chromium on this machine (apt install chromium)")
    with browser() as opened:
        yield opened


@dataclass
class Visitor:
    """A person with the page open.

    Attributes:
        page: the browser's page.
        labels: the label set.
        complaints: what the browser's console has said.
    """

    page: Page
    labels: Path
    complaints: list[str] = field(default_factory=list)

    def corrections(self) -> list[Correction]:
        """Those that count."""
        return effective(CorrectionLog(self.labels).read())

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a pixel of the image is on the screen."""
        box = self.page.locator("#canvas").bounding_box()
        assert box is not None
        scale = min((box["width"] - _MARGIN) / WIDTH, (box["height"] - _MARGIN) / HEIGHT, _LARGEST)
        left, top = (box["width"] - WIDTH * scale) / 2, (box["height"] - HEIGHT * scale) / 2
        return box["x"] + left + x * scale, box["y"] + top + y * scale

    def drag(self, *points: tuple[float, float]) -> None:
        """Press at the first pixel, move along the others, release."""
        self.page.mouse.move(*self.at(*points[0]))
        self.page.mouse.down()
        for point in points[1:]:
            self.page.mouse.move(*self.at(*point), steps=4)
        self.page.mouse.up()


@contextmanager
def visiting(chromium: Browser, labels: Path, names: Sequence[str] = NAMES) -> Iterator[Visitor]:
    """A server over a label set, and a person who has opened its page and sorted it by name."""
    served = segray.serve(out=labels, port=0, who="ada")
    page = chromium.new_page(viewport={"width": 1280, "height": 800})
    visitor = Visitor(page, labels)
    page.on("console", lambda message: visitor.complaints.append(message.text))
    page.on("pageerror", lambda error: visitor.complaints.append(str(error)))
    page.goto(served.url)
    page.wait_for_selector("#tile-0 img.photo[src]")
    page.select_option("#sort", "id")
    for place in range(2):
        page.wait_for_selector(f"#tile-{place} >> text={names[place]}")
    yield visitor
    page.close()
    served.stop()
    assert visitor.complaints == []


def test_a_segment_is_named_by_mouse_spread_and_undone(chromium: Browser, labels: Path) -> None:
    with visiting(chromium, labels) as visitor:
        page = visitor.page
        assert "token" not in page.url
        page.click("#tile-0")
        page.wait_for_selector("#parts-box summary")
        page.mouse.click(*visitor.at(10, 10))
        page.wait_for_selector("#selection >> text=Segment 0")
        page.click("#class-list >> text=house")
        page.wait_for_selector("#spread >> text=2 more segments look like this one")
        (named,) = visitor.corrections()
        assert (named.image, named.segments, named.class_name, named.who) == ("a.png", (0,), "house", "ada")

        page.click("#accept")
        page.wait_for_selector("#spread", state="hidden")
        assert [(c.image, c.class_name) for c in visitor.corrections()] == [
            ("a.png", "house"),
            ("b.png", "house"),
            ("sub/c.png", "house"),
        ]

        page.click("#tool-undo")
        page.wait_for_selector("#toasts >> text=undone: 2 segments")
        assert [c.image for c in visitor.corrections()] == ["a.png"]
        page.click("#tool-redo")
        page.wait_for_selector("#toasts >> text=done again")
        assert len(visitor.corrections()) == 3


def test_next_opens_one_segment_after_the_other(chromium: Browser, labels: Path) -> None:
    with visiting(chromium, labels) as visitor:
        page = visitor.page
        answers: list[Response] = []
        page.on("response", lambda one: answers.append(one) if one.url.endswith("/api/next") else None)
        shown = []
        for _ in range(6):
            page.keyboard.press("n")
            while not answers or not answers[-1].json()["ready"]:
                page.wait_for_timeout(50)
            found = answers.pop().json()
            page.wait_for_selector(f"#image-name >> text={NAMES[found['image']]}")
            page.wait_for_selector(f"#selection >> text=Segment {found['segment']}")
            shown.append((found["image"], found["segment"]))
        assert sorted(shown) == [(image, segment) for image in range(3) for segment in range(2)]
        # Not the server's own answers: it may begin again before the key is pressed.
        page.route("**/api/next", lambda route: route.fulfill(json={**found, "ready": True}))
        page.keyboard.press("n")
        page.wait_for_selector("#toasts >> text=only this segment is left to correct")
        none = {"image": None, "segment": None, "ready": True}
        page.route("**/api/next", lambda route: route.fulfill(json=none))
        page.keyboard.press("n")
        page.wait_for_selector("#toasts >> text=nothing is left to correct")


def test_everything_about_segments_is_done_with_the_keyboard(chromium: Browser, labels: Path) -> None:
    with visiting(chromium, labels) as visitor:
        page = visitor.page
        page.focus("#grid")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        page.wait_for_selector("#image-name >> text=b.png")
        page.wait_for_selector("#parts-box summary")
        page.keyboard.press(".")
        page.wait_for_selector("#selection >> text=Segment 0")
        page.keyboard.press("Enter")
        page.keyboard.type("hou")
        page.keyboard.press("Enter")
        page.wait_for_selector("#history-box >> text=named house")
        page.keyboard.press(".")
        page.wait_for_selector("#selection >> text=Segment 1")
        page.keyboard.press("e")
        page.wait_for_selector("#history-box >> text=erased")
        page.keyboard.press("g")
        page.wait_for_selector("#history-box >> text=marked as good")
        assert [(c.image, c.kind, c.segments) for c in visitor.corrections()] == [
            ("b.png", "name", (0,)),
            ("b.png", "erase", (1,)),
            ("b.png", "good", ()),
        ]
        page.keyboard.press("Escape")
        page.keyboard.press("Escape")
        page.keyboard.press("Escape")
        page.wait_for_selector("#tile-1 >> text=good")


def test_a_lasso_splits_and_a_brush_paints_where_they_were_drawn(chromium: Browser, labels: Path) -> None:
    with visiting(chromium, labels) as visitor:
        page = visitor.page
        page.click("#tile-0")
        page.wait_for_selector("#parts-box summary")
        page.keyboard.press("l")
        visitor.drag((5, 5), (15, 5), (15, 18), (5, 18))
        page.wait_for_selector("#selection >> text=Part of segment 0")
        page.click("#class-list >> text=house")
        page.wait_for_selector("#history-box >> text=split off house")
        page.keyboard.press("b")
        page.wait_for_selector("#selection >> text=Brush")
        page.keyboard.press("1")
        visitor.drag((50, 5), (56, 5))
        page.wait_for_selector("#history-box >> text=painted tree")

        split, paint = visitor.corrections()
        assert (split.kind, split.segments, split.class_name) == ("split", (0,), "house")
        mask = decode_rle((HEIGHT, WIDTH), split.mask or b"")
        assert mask[10, 10]
        assert not mask[10, 20]
        stroke = decode_rle((HEIGHT, WIDTH), paint.mask or b"")
        assert (paint.class_name, bool(stroke[5, 53]), bool(stroke[30, 53])) == ("tree", True, False)


def test_a_long_grid_has_no_holes_wherever_it_is_scrolled(chromium: Browser, tmp_path: Path) -> None:
    names = tuple(f"{number:04}.png" for number in range(600))
    with visiting(chromium, write_labels(tmp_path, names), names) as visitor:
        page = visitor.page
        for share in (0.5, 0.98, 0.2, 1.0):
            page.evaluate("(share) => { grid.scrollTop = share * grid.scrollHeight; }", share)
            page.wait_for_timeout(300)
            page.wait_for_selector(".tile:not([hidden]) img:not([src])", state="detached")
            while page.evaluate("() => [...document.images].some((one) => !one.complete)"):
                page.wait_for_timeout(50)
            shown = page.evaluate(_SHOWN)
            assert len(shown) >= 12
            assert all(picture > 0 and overlay > 0 for _, _, picture, overlay in shown)
            assert all(name == f"{place:04}.png" for place, name, _, _ in shown)
        assert page.locator(".tile").count() < 120
        assert max(place for place, *_ in shown) == 599


_SHOWN = """() => [...document.querySelectorAll(".tile:not([hidden])")].map((tile) => [
  Number(tile.dataset.place), tile.querySelector("bdi").textContent,
  ...[...tile.querySelectorAll("img")].map((image) => image.naturalWidth)])"""


def test_every_control_has_a_name(chromium: Browser, labels: Path) -> None:
    with visiting(chromium, labels) as visitor:
        page = visitor.page
        page.click("#tile-0")
        page.wait_for_selector("#parts-box summary")
        page.keyboard.press(".")
        page.wait_for_selector("#selection >> text=Segment 0")
        assert page.evaluate(_NAMELESS) == []


_NAMELESS = """() => [...document.querySelectorAll("button, input, select, textarea")].filter((one) =>
  !one.textContent.trim() && !one.ariaLabel && !(one.labels && one.labels.length))
  .map((one) => one.outerHTML)"""

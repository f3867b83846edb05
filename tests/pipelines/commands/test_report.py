from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from segray.pipelines.commands.report import build, run
from segray.pipelines.config.commands.report import ReportConfig
from segray.pipelines.errors import UserError
from segray.pipelines.io.label_png import encode_gray_png
from segray.pipelines.label_set.store import LabelStore
from segray.pipelines.printing import visible
from segray.pipelines.reporting.label_set.summary import choose, read_chosen, totals
from tests.pipelines.label_set.small_store import (
    PROVENANCE,
    bad_row,
    ok_row,
    picture_book_store,
    png,
    write_manifest,
    write_store,
)
from tests.pipelines.reporting.test_thumbnails import decoded

ADDRESS_ATTRIBUTES = {
    "src",
    "href",
    "srcset",
    "action",
    "data",
    "poster",
    "background",
    "formaction",
    "xlink:href",
}
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Tags with their attributes, addresses, style text, and the visible text by enclosing tag."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.styles: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(html)
        assert not self._open, f"unclosed {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        inside = self._open[-1] if self._open else ""
        (self.styles if inside == "style" else []).append(data)
        if inside != "style" and data.strip():
            self.texts.append((inside, " ".join(data.split())))

    def text(self) -> str:
        return " ".join(text for _, text in self.texts)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def flat(value: int, size: tuple[int, int] = (8, 10)) -> NDArray[np.uint8]:
    return np.full(size, value, np.uint8)


def sure_row(image_id: str, confidence: int) -> dict[str, Any]:
    return ok_row(image_id, flat(1), confidence=flat(confidence))


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    out, masks = picture_book_store(tmp_path_factory.mktemp("book"), 8, 48)
    write_store(
        out, [bad_row("broken.jpg", error="truncated"), bad_row("a.gif", "skipped", "animated (3 frames)")]
    )
    return out, masks


def assert_closed(html: str) -> Page:
    page = Page(html)
    assert not {tag for tag, _ in page.tags} & {"script", "iframe", "object", "embed", "link", "base", "form"}
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        for name in ADDRESS_ATTRIBUTES & set(attributes):
            assert re.match(r"data:image/(png|jpeg);base64,|#", attributes[name] or ""), (tag, name)
        for value in attributes.values():
            assert not re.search(r"https?://|javascript:", value or "")
    css = " ".join(page.styles) + " ".join(a.get("style") or "" for _, a in page.tags)
    assert "@import" not in css
    assert all(url.startswith("data:image/jpeg;base64,") for url in re.findall(r"url\(([^)]*)\)", css))
    return page


def test_page_is_closed_and_says_what_the_store_holds(book: tuple[Path, Path]) -> None:
    page = assert_closed(build(str(book[0])))
    text = page.text()
    assert "8 of 10 images carry a label." in text
    assert "Made with the built-in picture-book models, which know the picture book and nothing else." in text
    for expected in (
        "broken.jpg",
        "truncated",
        "a.gif",
        "animated (3 frames)",
        "5a" * 32,
        "points_per_side",
    ):
        assert expected in text
    assert [t for tag, t in page.texts if tag == "h2"] == [
        "Least certain",
        "Most certain",
        "Classes",
        "Without a label",
        "How it was made",
    ]
    assert len(page.all("article")) == 8
    assert len(page.all("img")) == 16


def test_links_lead_to_sections_that_exist(book: tuple[Path, Path]) -> None:
    page = Page(build(str(book[0])))
    ids = {attributes["id"] for attributes in page.all("section") if "id" in attributes}
    assert {a["href"] for a in page.all("a")} == {f"#{name}" for name in ids}


def test_the_policy_forbids_scripts_and_addresses(book: tuple[Path, Path]) -> None:
    metas = Page(build(str(book[0]))).all("meta")
    policy = next(m["content"] for m in metas if m.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    evil, quote, attribute = "<script>alert(1)</script>.png", '"onload=', "</style><img src=x onerror='x'>"
    provenance = {
        **PROVENANCE,
        "classes": ["background", evil, quote],
        "palette": None,
        "sam": {"weights": "https://example.com/<b>"},
    }
    rows = [
        ok_row(evil, flat(1), image=png(np.zeros((8, 10, 3), np.uint8))),
        ok_row(quote, flat(2)),
        ok_row(attribute, flat(1)),
        bad_row(f"bad {evil}", error=f"{quote}{attribute}"),
    ]
    out = write_store(tmp_path / "out", rows, provenance=provenance)
    (out / "config.yaml").write_text(f"images: '{evil}'\n")
    masks = tmp_path / "masks"
    masks.mkdir()
    (masks / f"{quote}.png").write_bytes(encode_gray_png(flat(1)))
    page = assert_closed(build(str(out), masks=str(masks)))
    headings = [text for tag, text in page.texts if tag == "h3"]
    assert set(headings) == {evil, quote, attribute}
    assert f"{quote}{attribute}" in page.text()
    assert "https://example.com/<b>" in page.text()
    assert any(tag == "pre" and evil in text for tag, text in page.texts)


def test_control_characters_are_written_out() -> None:
    assert visible("a\nb\t\x1b[31m\u202egpj.exe\udc80 \u00e4\u3000\u732b.png") == (
        r"a\nb\t\x1b[31m\u202egpj.exe\udc80 " + "\u00e4\u3000\u732b.png"
    )


def test_the_least_and_the_most_certain_are_shown_in_order(tmp_path: Path) -> None:
    rows = [sure_row(f"{i:02}.png", 20 * i + 20) for i in (5, 0, 9, 3, 8, 1, 4, 2, 7, 6)]
    out = write_store(tmp_path / "out", rows[:4], rows[4:])
    html = build(str(out), n=2)
    assert [text for tag, text in Page(html).texts if tag == "h3"] == ["00.png", "01.png", "09.png", "08.png"]


@pytest.mark.parametrize(
    ("n_images", "n", "least", "most"), [(1, 3, 1, 0), (3, 2, 2, 1), (4, 2, 2, 2), (7, 2, 2, 2)]
)
def test_no_image_is_shown_twice(tmp_path: Path, n_images: int, n: int, least: int, most: int) -> None:
    rows = [sure_row(f"{i}.png", 30 * i + 20) for i in range(n_images)]
    store = LabelStore(str(write_store(tmp_path / "out", [*rows, bad_row("x.png")])))
    low, high = choose(store, n)
    assert (len(low), len(high)) == (least, most)
    assert not {c.image_id for c in low} & {c.image_id for c in high}
    assert max(c.confidence for c in low) <= min((c.confidence for c in high), default=1.0)


def test_choosing_reads_two_columns_and_then_only_the_chosen_row_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [sure_row(f"{i:03}.png", 255 if i == 299 else 50 + i // 2) for i in range(300)]
    store = LabelStore(str(write_store(tmp_path / "out", rows)))
    read: list[tuple[int, tuple[str, ...]]] = []
    original = pq.ParquetFile.read_row_group

    def spy(self: Any, i: int, columns: list[str] | None = None, **kwargs: Any) -> Any:
        read.append((i, tuple(columns or ["everything"])))
        return original(self, i, columns=columns, **kwargs)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", spy)
    low, high = choose(store, 1)
    assert {columns for _, columns in read} == {("image_id", "mean_confidence")}
    read.clear()
    found = [row["image_id"] for row in read_chosen(store, low + high)]
    assert found == ["000.png", "299.png"]
    assert [group for group, _ in read] == [0, 2]


def test_totals_count_what_is_there(tmp_path: Path) -> None:
    label = np.array([[0, 1, 1, 255], [0, 2, 1, 255]], np.uint8)
    rows = [
        ok_row("a.png", label),
        ok_row("b.png", flat(0, (2, 4))),
        bad_row("c.png"),
        bad_row("d.gif", "skipped"),
    ]
    counted = totals(LabelStore(str(write_store(tmp_path / "out", rows))), 10)
    assert counted.pixels[:3].tolist() == [10, 3, 1]
    assert counted.images[:4].tolist() == [2, 1, 1, 0]
    assert (counted.n_ok, counted.n_bad, counted.n_found, counted.n_segments) == (2, 2, 2, 6)
    assert counted.class_share == 4 / 16
    assert counted.covered_share == pytest.approx(6 / 16)
    assert counted.histogram.sum() == 2
    assert counted.bad == [("c.png", "error", "not an image"), ("d.gif", "skipped", "not an image")]


def test_only_the_first_hundred_bad_images_are_listed_but_all_counted(tmp_path: Path) -> None:
    rows = [bad_row(f"bad{i:03}.png") for i in range(130)]
    text = Page(build(str(write_store(tmp_path / "out", rows)))).text()
    assert "0 of 130 images carry a label." in text
    assert "130 images; the first 100 are listed." in text
    assert "bad099.png" in text
    assert "bad100.png" not in text


def test_images_come_from_the_store_or_the_manifest(tmp_path: Path) -> None:
    red = np.zeros((8, 10, 3), np.uint8)
    red[..., 0] = 255
    data = png(red)
    (tmp_path / "there.png").write_bytes(data)
    (tmp_path / "other.png").write_bytes(png(255 - red))
    (tmp_path / "noise.png").write_bytes(b"no picture")
    inside = ok_row("inside.png", flat(1), image=data)
    rows = [inside]
    rows += [
        {**inside, "image_id": f"{name}.png", "image": None} for name in ("there", "other", "gone", "unknown")
    ]
    rows += [{**inside, "image_id": "noise.png", "image": None, "sha256": None}]
    out = write_store(tmp_path / "out", rows)
    write_manifest(
        out, {f"{name}.png": str(tmp_path / f"{name}.png") for name in ("there", "other", "gone", "noise")}
    )
    page = Page(build(str(out)))
    names = [text for tag, text in page.texts if tag == "h3"]
    photos = dict(zip(names, [a["style"] or "" for a in page.all("article")], strict=True))
    assert {name for name, style in photos.items() if "--photo" in style} == {"inside.png", "there.png"}
    uri = re.search(r"url\((.*)\)", photos["there.png"])
    assert uri is not None
    assert np.abs(np.asarray(decoded(uri.group(1))).astype(int) - red).max() < 8
    for reason in (
        "image not found",
        "image has changed since it was labelled",
        "image not in the label set, nor in its manifest",
        "not an image",
    ):
        assert reason in page.text()


def test_truth_adds_masks_errors_and_scores(book: tuple[Path, Path], tmp_path: Path) -> None:
    out, masks = book
    partial = tmp_path / "masks"
    partial.mkdir()
    for path in sorted(masks.iterdir())[1:]:
        (partial / path.name).write_bytes(path.read_bytes())
    page = assert_closed(build(str(out), masks=str(partial)))
    text = page.text()
    alts = [a["alt"] or "" for a in page.all("img")]
    assert sum(alt.startswith("true mask of") for alt in alts) == 7
    assert sum(alt.startswith("error map of") for alt in alts) == 7
    assert "no mask" in text
    assert "1 labelled image without a mask: not in the mean IoU." in text
    assert "IoU against the masks" in text
    assert re.search(r"they reach a mean IoU of \d\d\.\d\u00a0%", text.replace(" %", "\u00a0%"))


def test_a_mask_that_does_not_fit_is_refused(book: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "0001.png").write_bytes(encode_gray_png(flat(0)))
    with pytest.raises(UserError, match=r"0001\.png is 10x8 pixels, its image's label 48x48"):
        build(str(book[0]), masks=str(tmp_path))


def test_a_label_set_without_classes_found_or_pictures_still_makes_a_page(tmp_path: Path) -> None:
    out = write_store(tmp_path / "out", [ok_row("a.png", flat(0))])
    text = assert_closed(build(str(out))).text()
    assert "0 of 9 classes were found, on 0.0\u00a0% of the pixels." in text.replace(" %", "\u00a0%")
    assert "no pixel has a class" in text
    assert "covered by 3 segments" in text
    assert "no colour: no segment" in text


def test_labels_of_pixels_are_told_from_those_of_segments(tmp_path: Path) -> None:
    row = {**ok_row("a.png", flat(1)), "n_segments": 0}
    without = {**PROVENANCE, "sam": {"model": "none", "sha256": None}}
    text = assert_closed(build(str(write_store(tmp_path / "none", [row], provenance=without)))).text()
    assert "of the pixels above the threshold" in text
    assert "no colour: no class" in text
    assert "segment" not in text.partition("How it was made")[0].replace("segray", "")
    both = {**PROVENANCE, "config": {"images": "scenes", "label.unsegmented": "pixels"}}
    text = assert_closed(build(str(write_store(tmp_path / "both", [row], provenance=both)))).text()
    assert "covered by 0 segments, or above the threshold" in text


def test_no_label_set_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no label set here"):
        run(ReportConfig(out=str(tmp_path)))


def test_run_writes_the_page_into_the_label_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = picture_book_store(tmp_path, 2, 32, embed=True)
    (out / "run.json").write_text(json.dumps({"run_id": "r-17", "seconds": 3}))
    run(ReportConfig(out=str(out), n=1))
    page = assert_closed((out / "report.html").read_text(encoding="utf-8"))
    assert ("td", "r-17") in page.texts
    assert capsys.readouterr().out.startswith(f"wrote {out}/report.html (0.")
    assert not [p.name for p in out.iterdir() if p.name.startswith(".")]


def test_noisy_photographs_cost_a_fifth_of_a_megabyte_each(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    label = np.kron(rng.integers(0, 10, (30, 40)), np.ones((24, 24))).astype(np.uint8)
    noise = np.kron(rng.integers(0, 256, (240, 320, 3)), np.ones((3, 3, 1))).astype(np.uint8)
    row = ok_row("a.jpg", label, confidence=label * 25, image=pictures_jpeg(noise))
    out = write_store(tmp_path / "out", [{**row, "image_id": f"{i}.jpg"} for i in range(4)])
    html = build(str(out))
    # 24 images of a default page stay below 5 MB.
    assert len(html) < 4 * 200_000
    assert all(max(decoded(a["src"] or "").size) <= 360 for a in Page(html).all("img"))


def pictures_jpeg(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG")
    return buffer.getvalue()


def test_extreme_shapes_have_a_picture(tmp_path: Path) -> None:
    rows = [ok_row("wide.png", flat(1, (8, 4000))), ok_row("tall.png", flat(1, (4000, 8)))]
    page = Page(build(str(write_store(tmp_path / "out", rows))))
    ratios = {(a["style"] or "") for a in page.all("article")}
    assert ratios == {"--ratio:3.000", "--ratio:0.600"}

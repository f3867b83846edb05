"""Masks as outlines of CVAT, LabelMe and YOLO that somebody sent, for training."""

from __future__ import annotations

import base64
import io
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from tests.fuzz.edits import NUMBERS, PATHS, WORDS, Built, Cut, Edit, cuts, damaged, edits, with_secret
from tests.fuzz.formats import edited_json
from tests.fuzz.runner import Runner
from tests.fuzz.test_sources import IMAGES

pytestmark = pytest.mark.slow

FIELDS = {
    "name": "a.png",
    "width": "32",
    "height": "24",
    "z": "1",
    "rle": "1,2,3",
    "left": "4",
    "columns": "3",
    "rows": "2",
    "points": "1,1;20,1;20,20",
    "label": "tree",
    "radius": "3",
}
XML = """<annotations><meta><job><labels><label><name>{label}</name></label></labels></job></meta>
<image id="0" name="{name}" width="{width}" height="{height}">
<mask label="{label}" rle="{rle}" left="{left}" top="2" width="{columns}" height="{rows}" z_order="{z}"/>
<polygon label="house" points="{points}"/><box label="house" xtl="{left}" ytl="1" xbr="9" ybr="9"/>
<ellipse label="tree" cx="9" cy="9" rx="{radius}" ry="2"/></image>
<image id="1" name="b.png" width="32" height="24" subset="val">
<box label="tree" xtl="1" ytl="1" xbr="9" ybr="9"/></image></annotations>"""


def _png() -> str:
    sink = io.BytesIO()
    Image.new("1", (4, 4), 1).save(sink, "PNG")
    return base64.b64encode(sink.getvalue()).decode()


def labelme(name: str = "a.png") -> bytes:
    """A LabelMe file with one shape of each kind."""
    shapes = [
        {"label": "tree", "points": [[1, 1], [20, 1], [20, 20]], "shape_type": "polygon"},
        {"label": "house", "points": [[1, 1], [9, 9]], "shape_type": "rectangle"},
        {"label": "house", "points": [[9, 9], [12, 9]], "shape_type": "circle"},
        {"label": "tree", "points": [[3, 2], [6, 5]], "shape_type": "mask", "mask": _png()},
    ]
    return json.dumps({"imagePath": name, "imageHeight": 24, "imageWidth": 32, "shapes": shapes}).encode()


def data_set(**files: bytes) -> dict[str, bytes]:
    """Two images, and files of annotations."""
    return {
        f"data/{name}": data
        for name, data in {"a.png": IMAGES["png"], "b.png": IMAGES["png"], **files}.items()
    }


def escaped(value: str) -> str:
    """As the value of an attribute; other characters than XML's are left to the reader."""
    return value.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")


TEXTS = st.sampled_from([*PATHS, *WORDS, *map(str, NUMBERS[:18]), "1," * 5000, "0", "1e9", "1_0", "\u0661"])


@given(changes=st.dictionaries(st.sampled_from(sorted(FIELDS)), TEXTS, max_size=3))
@example(changes={})
@example(
    changes={"width": "10000", "height": "10000", "columns": "10000", "rows": "10000", "rle": "100000000"}
)
def test_values_of_cvat(runner: Runner, changes: dict[str, str]) -> None:
    known = with_secret([Edit(0, "replace", value) for value in changes.values()], str(runner.secret))
    values = {name: escaped(edit.value) for name, edit in zip(changes, known, strict=True)}
    text = XML.format(**{**FIELDS, **values}).encode(errors="surrogatepass")
    answer = runner.check("outlines", data_set(**{"annotations.xml": text}))
    assert changes or answer.how == "ok"


@given(changes=cuts)
def test_bytes_of_cvat(runner: Runner, changes: list[Cut]) -> None:
    data = damaged(XML.format(**FIELDS).encode(), changes)
    runner.check("outlines", data_set(**{"annotations.xml": data}))


@given(changes=edits)
@example(changes=[])
@example(changes=[Edit(3, "replace", Built("nested", 3000))])
def test_values_of_labelme(runner: Runner, changes: list[Edit]) -> None:
    data = edited_json(labelme(), with_secret(changes, str(runner.secret)))
    answer = runner.check("outlines", data_set(**{"a.json": data, "b.json": labelme("b.png")}))
    assert changes or answer.how == "ok"


@given(changes=cuts)
def test_bytes_of_labelme(runner: Runner, changes: list[Cut]) -> None:
    runner.check("outlines", data_set(**{"a.json": damaged(labelme(), changes), "b.json": labelme("b.png")}))


YOLO = {
    "class": "0",
    "x": "0.1",
    "y": "0.2",
    "last": "0.9",
    "names": "[tree, house]",
    "val": "b",
    "train": ".",
}


def yolo(values: dict[str, str]) -> dict[str, bytes]:
    """The files of a data set of YOLO, with these values in them."""
    known = {**YOLO, **values}
    described = "names: {names}\ntrain: {train}\nval: {val}\n".format(**known)
    line = "{class} {x} {y} 0.9 0.2 0.9 {last}\n".format(**known)
    texts = {"data.yaml": described, "a.txt": line, "b.txt": "1 0 0 1 0 1 1\n"}
    return {name: text.encode(errors="surrogatepass") for name, text in texts.items()}


@given(changes=st.dictionaries(st.sampled_from(sorted(YOLO)), TEXTS, max_size=3))
@example(changes={})
@example(changes={"val": "a.txt"})
def test_values_of_yolo(runner: Runner, changes: dict[str, str]) -> None:
    known = with_secret([Edit(0, "replace", value) for value in changes.values()], str(runner.secret))
    values = {name: edit.value for name, edit in zip(changes, known, strict=True)}
    answer = runner.check("outlines", data_set(**yolo(values)))
    assert changes or answer.how == "ok"


@given(changes=cuts, name=st.sampled_from(["a.txt", "data.yaml"]))
def test_bytes_of_yolo(runner: Runner, changes: list[Cut], name: str) -> None:
    files = yolo({})
    runner.check("outlines", data_set(**{**files, name: damaged(files[name], changes)}))

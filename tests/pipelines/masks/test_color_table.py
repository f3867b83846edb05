"""Colours of masks become ids by a table of names; unknown ones are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segray.models.label_space import label_space
from segray.pipelines.errors import UserError
from segray.pipelines.masks.color_table import open_color_table
from segray.pipelines.masks.options import MaskOptions

SPACE = label_space("background,cat,dog")
RED, BLUE = (250, 0, 0), (0, 0, 250)
RGBA = np.array([[(0, 0, 0, 255), (*RED, 255)], [(*BLUE, 255), (9, 9, 9, 0)]], np.uint8)

CVAT = "# label:color_rgb:parts:actions\nbackground:0,0,0::\ndog:0,0,250::\ncat:250,0,0::\n"
TABLES = {
    "labelmap.txt": CVAT,
    "colon.txt": "background: 0, 0, 0\nCat: 250, 0, 0\ndog: 0, 0, 250",
    "first.txt": "0 0 0\tbackground\n250 0 0\tcat\n0 0 250\tdog\n",
    "last.txt": "0 background 0 0 0\n1 cat 250 0 0\n2 dog 0 0 250\n",
    "hex.txt": "background #000000\ncat #fa0000\ndog: #0000fa",
    "class_dict.csv": "name,r,g,b\nbackground,0,0,0\ncat,250,0,0\ndog,0,0,250\n",
    "labels.json": '[{"name": "cat", "color": "#fa0000"}, {"name": "dog", "color": [0, 0, 250]}, '
    '{"name": "_background_", "color": [0, 0, 0]}]',
    "meta.json": '{"classes": [{"title": "cat", "color": "#FA0000"}, {"title": "dog", "color": "#0000FA"}, '
    '{"title": "background", "color": "#000000"}]}',
    "map.json": '{"background": [0, 0, 0], "cat": [250, 0, 0], "dog": "#0000fa"}',
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_many_tools(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(TABLES[name])
    bound = open_color_table(str(path), "colors").bind(SPACE, "colors")
    # A transparent pixel has no class.
    assert bound.ids(RGBA, "colors").tolist() == [[0, 1], [2, 0]]


def test_unknown_colours_are_counted_with_an_example(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("background:0,0,0::\ncat:250,0,0::\n")
    bound = open_color_table(str(tmp_path / "t.txt"), "data.colors").bind(SPACE, "data.colors")
    pixels = np.tile(RGBA, (2, 1, 1))
    pixels[3, 1] = (1, 2, 3, 255)
    with pytest.raises(ValueError, match=r"holds 2 colours that are not in data\.colors=") as caught:
        bound.ids(pixels, "data.colors")
    assert "such as (0, 0, 250) (first at x=0, y=1), on 38 % of the pixels" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("cow:1,2,3::", "its class 'cow' is not in the class list (background, cat, dog)"),
        ("cat:1,2,3::\ndog:1,2,3::", "the colour (1, 2, 3) stands for two classes, one is 'dog'"),
        ("cat:1,2,300::", "(1, 2, 300) is not a colour"),
        ("cat\ndog", "line 'cat' has no name and colour"),
        ("", "no colour in it"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "t.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=r"^data\.colors=.*t\.txt: ") as caught:
        open_color_table(str(path), "data.colors").bind(SPACE, "data.colors")
    assert why in str(caught.value)


def test_a_table_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match=r"data\.colors: no file 'nowhere\.txt'; give a table of colours"):
        open_color_table("nowhere.txt", "data.colors")


def test_the_tables_of_voc_and_cityscapes() -> None:
    voc = open_color_table("voc", "colors")
    ids = voc.bind(label_space("voc"), "colors").ids(
        np.array([[(128, 0, 0, 255), (224, 224, 192, 255), (0, 64, 128, 255)]], np.uint8), "colors"
    )
    assert ids.tolist() == [[1, 255, 20]]
    city = open_color_table("cityscapes", "colors")
    space = city.space()
    assert (space.classes[0], space.classes[18], len(space.classes)) == ("road", "bicycle", 19)
    colours = np.array([[(128, 64, 128, 255), (0, 0, 142, 255), (0, 0, 0, 255)]], np.uint8)
    assert city.bind(space, "colors").ids(colours, "colors").tolist() == [[0, 13, 255]]


def test_void_beside_a_background_counts_for_nothing(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("background:0,0,0::\nvoid:9,9,9::\ncat:250,0,0::\n")
    table = open_color_table(str(tmp_path / "t.txt"), "colors")
    assert table.space().classes == ("background", "cat")
    pixels = np.array([[(9, 9, 9, 255), (250, 0, 0, 255)]], np.uint8)
    assert table.bind(table.space(), "colors").ids(pixels, "colors").tolist() == [[255, 1]]


def test_grey_levels_saved_as_rgb_are_ids_by_the_key_gray(tmp_path: Path) -> None:
    options = MaskOptions.of(colors="gray").bound(SPACE)
    path = tmp_path / "m.png"
    Image.fromarray(np.array([[[2, 2, 2], [1, 1, 1]]], np.uint8)).save(path)
    assert options.ids(path.read_bytes()).tolist() == [[2, 1]]
    Image.fromarray(np.array([[[2, 2, 2], [1, 0, 1]]], np.uint8)).save(path)
    with pytest.raises(ValueError, match=r"a colour that is not in colors=gray, such as \(1, 0, 1\)"):
        options.ids(path.read_bytes())


def test_a_palette_is_read_by_its_colours_with_a_table(tmp_path: Path) -> None:
    (tmp_path / "labelmap.txt").write_text(CVAT)
    options = MaskOptions.of(colors=str(tmp_path / "labelmap.txt")).bound(SPACE)
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    image.putpalette([0, 0, 0, *BLUE, *RED])
    image.save(tmp_path / "m.png")
    assert options.ids((tmp_path / "m.png").read_bytes()).tolist() == [[0, 2, 1]]
    assert MaskOptions().ids((tmp_path / "m.png").read_bytes()).tolist() == [[0, 1, 2]]

"""Class lists of other tools, and names that are the same for CLIP."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from segray.models.class_files import class_lines
from segray.models.label_space import BACKGROUND_NAMES, COCO, label_space, name_key

HOUSE_BALL = ["background", "house", "ball"]
CVAT = "# label:color_rgb:parts:actions\nbackground:0,0,0::\nhouse:170,30,30::\nball:20,90,200::\n"


@pytest.mark.parametrize(
    ("name", "text", "lines"),
    [
        ("labelmap.txt", CVAT, HOUSE_BALL),
        ("labelmap.txt", CVAT.partition("\n")[2], HOUSE_BALL),
        ("c.txt", "# my classes\nhouse\n\nball\n", ["house", "ball"]),
        ("labels.txt", "__ignore__\n_background_\nhouse\nball\n", ["_background_", "house", "ball"]),
        ("c.txt", "person: people, man\ncar\n", ["person: people, man", "car"]),
        ("c.txt", "house: 170,30,30\nball: 20, 90, 200\n", ["house", "ball"]),
        ("c.txt", "0 background\n2: ball\n1,house\n", HOUSE_BALL),
        ("c.txt", "1\thouse\n2\tball\n", HOUSE_BALL),
        ("colors.txt", "64 128 64\tAnimal\n192 0 128 Archway\n", ["Animal", "Archway"]),
        ("obj.names", "house\nball", ["house", "ball"]),
        ("data.yaml", "train: x\nnc: 2\nnames: [house, ball]\n", ["house", "ball"]),
        ("data.yml", "names:\n  1: ball\n  0: house\n", ["house", "ball"]),
        ("c.json", json.dumps(["house", "ball"]), ["house", "ball"]),
        ("c.json", json.dumps({"0": "background", "2": "ball", "1": "house"}), HOUSE_BALL),
        ("c.json", json.dumps({"label2id": 0, "id2label": {"0": "house", "1": "ball"}}), ["house", "ball"]),
        ("c.json", json.dumps({"ball": 2, "house": 1, "background": 0}), HOUSE_BALL),
        ("c.json", json.dumps([{"name": "house", "color": "#aa1e1e"}, {"name": "ball"}]), ["house", "ball"]),
        (
            "instances.json",
            json.dumps({"images": [], "categories": [{"id": 9, "name": "ball"}, {"id": 2, "name": "house"}]}),
            ["house", "ball"],
        ),
        ("c.csv", "name,r,g,b\nhouse,1,2,3\nball,4,5,6\n", ["house", "ball"]),
        ("c.csv", "Class_ID,Name\n1,ball\n0,house\n", ["house", "ball"]),
        ("c.csv", "house\nball\n", ["house", "ball"]),
    ],
)
def test_class_files_of_other_tools_are_read(name: str, text: str, lines: list[str]) -> None:
    assert class_lines(text, name) == lines


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", '{"shapes": [{"label": "cat"}]}', "no list of class names"),
        ("a.json", "{", "not JSON"),
        ("a.yaml", "train: x\n", "no list of class names; YOLO's data.yaml has one under `names`"),
        ("a.yaml", "names: {0: a, 2: b}", "its ids are 0, 2; allowed: 0, 1, 2, ... without a gap"),
        ("a.yaml", "a: [", "not YAML"),
        ("a.txt", "0 house\n5 ball\n", "its ids are 0, 5"),
        ("a.csv", "house,170,30,30\nball,1,2,3\n", "no column of names"),
        ("a.csv", "id,name\nx,ball\n", "its columns cannot be read"),
        (
            "a.xml",
            "<annotation>\n<object>\n",
            "'<annotation>' is not a class name; read are plain",
        ),
    ],
)
def test_files_without_a_class_list_are_refused(name: str, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        class_lines(text, name)


def test_the_message_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("nc: 3\n")
    with pytest.raises(ValueError, match=rf"^classes: {tmp_path}/data.yaml: no list of class names"):
        label_space(str(tmp_path / "data.yaml"))


@pytest.mark.parametrize("word", ["_background_", "Background", "UNLABELED", "unlabelled", "__background__"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_background_of_any_spelling_and_place_is_id_0(word: str, place: int) -> None:
    names = ["house", "ball"]
    names.insert(place, word)
    assert label_space(names).classes == ("background", "house", "ball")
    assert label_space(["void" if name == word else name for name in names]).classes[0] == "void"


def test_a_background_that_is_not_first_is_refused_where_ids_exist() -> None:
    with pytest.raises(ValueError, match=r"^classes: 'Background' is name 3 of the list, .* id 2; id 0 is"):
        label_space("house,ball,Background", in_order=True)
    assert label_space("unlabeled,house", in_order=True).classes == ("background", "house")


@pytest.mark.parametrize("name", ["Traffic Light", "traffic_light", "TRAFFIC-LIGHT", " traffic   light "])
def test_names_are_compared_as_the_tokenizer_sees_them(name: str) -> None:
    assert name_key(name) == "traffic light"
    with pytest.raises(ValueError, match=r"and 'traffic light' are the same name; each class once"):
        label_space(["traffic light", name.strip() + " " if name == "traffic light" else name])


def test_default_background_words_that_are_a_class_in_capitals_are_dropped() -> None:
    space = label_space("Tree,House,Road")
    assert set(space.aliases[0]) == set(BACKGROUND_NAMES) - {"tree", "road"}
    assert space.classes == ("background", "Tree", "House", "Road")
    assert label_space("TREE,House,Car,Boat,Ball,Flower,Fish,Person,Sun").aliases[0][0] == "grass"


def test_a_background_word_of_the_user_that_is_a_class_is_refused() -> None:
    message = r"^label\.background_names: 'background' \(id 0\) and 'Tree' \(id 1\) have the same prompt"
    with pytest.raises(ValueError, match=message):
        label_space("Tree,car", background_names=["sky", "tree"])


def test_prompts_of_two_ids_that_are_the_same_text_are_refused() -> None:
    message = r"^label\.aliases: 'man' \(id 1\) and 'boy' .* same prompt, 'a_person' and 'A person'"
    with pytest.raises(ValueError, match=message):
        label_space(["man: a_person, man", "boy: A person"])


def test_the_builtin_lists_have_no_name_twice() -> None:
    assert len(label_space("coco").classes) == len(COCO) + 1
    assert len(label_space("voc").classes) == 21


def test_one_line_with_commas_is_a_list() -> None:
    assert class_lines("tree, house ,car\n", "a.txt") == ["tree", "house", "car"]
    assert class_lines("tree: oak, beech\n", "a.txt") == ["tree: oak, beech"]


def test_a_file_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("Bäume\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"a\.txt: not UTF-8 text; save it as UTF-8"):
        label_space(str(tmp_path / "a.txt"))

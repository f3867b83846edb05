"""Class files and configurations that somebody sent."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.fuzz.edits import Cut, Edit, cuts, damaged, edits, hostile, with_secret
from tests.fuzz.formats import edited_yaml
from tests.fuzz.runner import Runner

pytestmark = pytest.mark.slow

CONFIGURATION = b"""images: photos
out: labels
classes: [tree, house]
sam: {model: builtin, weights: null}
clip: {model: builtin, iterations: 1}
label: {threshold: 0.1, aliases: {tree: [oak, fir]}}
image: {max_pixels: 1000000, background_color: [255, 255, 255]}
data: {kind: coco, root: data, labelled: 1/8}
train: {epochs: 2}
space: {train.lr: [0.1, 0.01]}
grow: {gpus: 8}
"""

LINES = st.text(max_size=20) | st.sampled_from(
    ["tree", "Tree", "background", "a" * 10_000, "\x1b]0;x\x07", "=1+1", "\x00", "a,b", "# comment", "\ufeff"]
)


@given(
    lines=st.lists(LINES, max_size=12) | st.just([str(i) for i in range(300)]), end=st.sampled_from("\n\r")
)
def test_class_files(runner: Runner, lines: list[str], end: str) -> None:
    runner.check("class file", {"classes.txt": end.join(lines).encode(errors="surrogatepass")})


@given(data=st.binary(max_size=200))
def test_class_file_bytes(runner: Runner, data: bytes) -> None:
    runner.check("class file", {"classes.txt": data})


CLASS_YAML = b"""path: data
names: {0: background, 1: tree, 2: house}
colors: [[0, 0, 0], [1, 2, 3]]
"""
TAGGED = st.builds(
    "!!{} {}".format,
    st.sampled_from(
        ["int", "float", "bool", "timestamp", "binary", "set", "omap", "null", "map", "python/name:os"]
    ),
    st.sampled_from(['""', "x", "[1]", "{a: 1}", "-", "0x", "1:2", "2001-13-41", "\u00b2", "1" * 5000]),
)


@given(changes=edits)
def test_class_file_yaml_values(runner: Runner, changes: list[Edit]) -> None:
    runner.check("class file", {"classes.yaml": edited_yaml(CLASS_YAML, changes)})


@given(name=TAGGED, listed=st.booleans())
def test_class_file_yaml_tags(runner: Runner, name: str, listed: bool) -> None:
    names = f"[tree, {name}]" if listed else f"{{0: tree, 1: {name}}}"
    runner.check("class file", {"classes.yaml": f"names: {names}".encode()})


@given(data=st.binary(max_size=200), ending=st.sampled_from(["yaml", "json", "csv"]))
def test_class_file_bytes_of_all_kinds(runner: Runner, data: bytes, ending: str) -> None:
    runner.check("class file", {f"classes.{ending}": data})


@given(changes=edits)
def test_configuration_values(runner: Runner, changes: list[Edit]) -> None:
    text = edited_yaml(CONFIGURATION, with_secret(changes, str(runner.secret)))
    runner.check("configuration", {"config.yaml": text})


@given(changes=cuts)
def test_configuration_bytes(runner: Runner, changes: list[Cut]) -> None:
    runner.check("configuration", {"config.yaml": damaged(CONFIGURATION, changes)})


ALIASES = b"a: &a [x, x, x, x, x, x, x, x, x]\n" + b"".join(
    b"%c: &%c [%s]\n" % (name, name, b", ".join([b"*%c" % (name - 1)] * 9)) for name in b"bcdefghi"
)
"""9^9 items in 500 bytes."""


@given(data=st.text(max_size=200).map(lambda text: text.encode(errors="surrogatepass")))
@example(ALIASES)
@example(b"classes: &a [*a]")
@example(b"&a {images: *a}")
@example(b"? [a, b]\n: c")
@example(b"{images: !!python/object/apply:os.system [id]}")
@example(b"images: " + b"{a: " * 2000)
@example(b"images: 2024-13-45\nout: 1_000\nclasses: 0x" + b"f" * 5000)
@example(b"<<: 5\nimages: x")
@example(b"<<: [{images: x}, {out: y}]")
def test_configuration_texts(runner: Runner, data: bytes) -> None:
    runner.check("configuration", {"config.yaml": data})


@given(key=st.sampled_from(["classes", "images", "out", "space", "label", "sam"]), value=hostile)
def test_one_value(runner: Runner, key: str, value: object) -> None:
    text = edited_yaml(CONFIGURATION, [])
    changed = edited_yaml(b"x: y", [Edit(0, "replace", value)]).replace(b"x:", key.encode() + b":", 1)
    runner.check("configuration", {"config.yaml": text + changed})


def test_a_valid_one_is_taken(runner: Runner) -> None:
    assert runner.check("configuration", {"config.yaml": CONFIGURATION}).how == "ok"
    assert runner.check("class file", {"classes.txt": b"background\ntree\nhouse"}).how == "ok"

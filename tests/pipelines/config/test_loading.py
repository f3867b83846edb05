from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from segray.pipelines.config.commands.annotate import AnnotateConfig
from segray.pipelines.config.commands.demo import DemoConfig
from segray.pipelines.config.commands.verify import VerifyConfig
from segray.pipelines.config.loading import config_hash, dump, identity, load
from segray.pipelines.errors import UserError

REQUIRED = ("images=photos", "out=labels", "classes=picture_book")
IMAGE_KEYS = (
    "links",
    "column",
    "range",
    "bands",
    "alpha",
    "max_pixels",
    "max_side",
    "max_seconds",
    "min_size",
    "frames",
    "background_color",
    "roots",
    "reduce_jpeg",
    "tile",
    "tile_overlap",
)


def annotate(*overrides: str) -> AnnotateConfig:
    return load(AnnotateConfig, None, [*REQUIRED, *overrides])


def refusal(*overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        annotate(*overrides)
    assert caught.value.exit_code == 2
    return str(caught.value)


def write(folder: Path, text: str) -> str:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def file_refusal(folder: Path, text: str) -> str:
    with pytest.raises(UserError) as caught:
        load(AnnotateConfig, write(folder, text), REQUIRED)
    return str(caught.value)


def test_overrides_win_over_the_file_and_the_last_over_the_first(tmp_path: Path) -> None:
    path = write(tmp_path, "classes: cat\nout: a\nsam: {model: vit_b, points_per_side: 8}\nclip.depth: 5\n")
    config = load(AnnotateConfig, path, ["images=i", "sam.points_per_side=16", "out=b", "out=c"])
    assert (config.out, config.sam.model, config.sam.points_per_side, config.clip.depth) == (
        "c",
        "vit_b",
        16,
        5,
    )
    assert config.sam.box_nms_thresh == 0.7


def test_text_stays_text_whatever_yaml_makes_of_it(tmp_path: Path) -> None:
    config = annotate("out=2024", "classes=on,off", "sam.weights=1e3")
    assert (config.out, config.classes, config.sam.weights) == ("2024", "on,off", "1e3")
    path = write(
        tmp_path, "images: 08\nout: 2024-01-01\nclasses: [on, no, 1.0]\nlabel: {aliases: {no: [yes]}}\n"
    )
    config = load(AnnotateConfig, path)
    assert (config.images, config.out, config.classes) == ("08", "2024-01-01", ("on", "no", "1.0"))
    assert config.label.aliases == {"no": ("yes",)}


def test_values_are_read_by_the_type_of_their_key() -> None:
    config = annotate(
        "embeddings=off", "label.threshold=1e-3", "image.max_pixels=1_000", "image.background_color=0, 1,2"
    )
    assert config.embeddings is False
    assert (config.label.threshold, config.image.max_pixels, config.image.background_color) == (
        0.001,
        1000,
        (0, 1, 2),
    )


@pytest.mark.parametrize(
    ("override", "names"),
    [
        ("label.background_names=sky,grass", ("sky", "grass")),
        ("label.background_names= sky , tall grass", ("sky", "tall grass")),
        ("label.background_names=[sky, 'a, b']", ("sky", "a, b")),
        ("label.background_names=", ()),
        ("label.background_names=null", None),
    ],
)
def test_lists(override: str, names: tuple[str, ...] | None) -> None:
    assert annotate("label.background_names=x", override).label.background_names == names


def test_lists_in_a_file(tmp_path: Path) -> None:
    text = "label:\n  background_names:\n    - sky\n    - null and void\n  aliases: {cat: 'cat, kitten'}\n"
    label = load(AnnotateConfig, write(tmp_path, text), REQUIRED).label
    assert label.background_names == ("sky", "null and void")
    assert label.aliases == {"cat": ("cat", "kitten")}


def test_mapping_entries_add_up_and_a_whole_mapping_replaces() -> None:
    added = annotate("label.aliases.person=person, people", "label.aliases.tv-set 1.5=tv")
    assert added.label.aliases == {"person": ("person", "people"), "tv-set 1.5": ("tv",)}
    assert annotate("label.aliases.cat=c", "label.aliases={dog: [d, e]}").label.aliases == {"dog": ("d", "e")}


def test_a_template_keeps_its_commas() -> None:
    assert annotate("label.templates=a {}, seen from above").label.templates == "a {}, seen from above"
    assert annotate("label.templates=['a {}, seen', 'my {}']").label.templates == ("a {}, seen", "my {}")


def test_switches_and_dashes_are_taken_too() -> None:
    assert load(VerifyConfig, None, ["--out=x", "--repair"]) == VerifyConfig(out="x", repair=True)
    assert annotate("--new-run").new_run is True
    assert refusal("--images") == "images: give images=FOLDER"


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("sam.modle=vit_b", "unknown key sam.modle; did you mean sam.model?"),
        ("smm.model=vit_b", "unknown key smm.model; did you mean sam.model?"),
        ("points_per_side=8", "unknown key points_per_side; did you mean sam.points_per_side?"),
        ("model=x", "unknown key model; did you mean sam.model or clip.model?"),
        ("sam.depth=3", "unknown key sam.depth; did you mean clip.depth?"),
        ("out.sub=x", "unknown key out.sub; did you mean out?"),
        (
            "image.zzz=1",
            f"unknown key image.zzz (allowed in image: {', '.join(IMAGE_KEYS)})",
        ),
        ("sam.points_per_side=abc", "sam.points_per_side: 'abc' is not a whole number (allowed: 1 to 256)"),
        ("sam.points_per_side=1.5", "sam.points_per_side: '1.5' is not a whole number (allowed: 1 to 256)"),
        ("sam.points_per_side=500", "sam.points_per_side: 500 is out of range (allowed: 1 to 256)"),
        ("clip.temperature=0", "clip.temperature: 0 is out of range (allowed: above 0)"),
        (
            "sam.crop_overlap_ratio=1",
            "sam.crop_overlap_ratio: 1 is out of range (allowed: at least 0 and below 1)",
        ),
        ("max_bad=nan", "max_bad: 'nan' is not a number (allowed: 0 to 1)"),
        ("embeddings=maybe", "embeddings: 'maybe' is not true or false"),
        (
            "clip.features=gme",
            "clip.features: must be one of gem, clip, proxy, corr, tipsv2, not 'gme'; did you mean gem?",
        ),
        ("image.frames=7", "image.frames: must be one of skip, first, not '7'"),
        ("sam.sha256=abc", "sam.sha256: 'abc' is not valid (allowed: 64 hexadecimal digits in lower case)"),
        ("max_tries=null", "max_tries: null is not allowed (allowed: 1 to 100)"),
        ("out=null", "out: null is not allowed (allowed: text)"),
        ("out=", "out: empty; give out=DIR"),
        (
            "image.background_color=1,2",
            "image.background_color: too few values (allowed: 3 whole numbers from 0 to 255)",
        ),
        (
            "image.background_color=1,2,3,4",
            "image.background_color: too many values (allowed: 3 whole numbers from 0 to 255)",
        ),
        (
            "image.background_color=1,2,300",
            "image.background_color[2]: 300 is out of range (allowed: 3 whole numbers from 0 to 255)",
        ),
        ("label.background_names=a,,b", "label.background_names[1]: empty; a name is missing here"),
        ("classes=[a, [b]]", "classes[1]: ['b'] is not text"),
        ("classes={a: b}", "classes: {'a': 'b'} is not text or list"),
        ("label.aliases=cat", "label.aliases: 'cat' is not a mapping"),
        ("label.aliases.cat=null", "label.aliases.cat: null is not allowed (allowed: list)"),
        ("photos", "'photos' is not of the form key=value"),
        ("-v", "'-v' is not of the form key=value"),
        ("sam.weights=\udcff", "sam.weights: '\\udcff' is not text"),
    ],
)
def test_every_mistake_is_one_line(override: str, line: str) -> None:
    assert refusal(override) == line


def test_a_template_without_braces_is_refused() -> None:
    message = refusal("label.templates=imagenet")
    assert message.startswith(
        "label.templates: 'imagenet' has no {} for the name (allowed: single, imagenet80, tipsv2, or "
    )
    assert refusal("label.templates=[]") == "label.templates: no template (allowed: at least one)"


def test_a_section_is_not_a_value() -> None:
    allowed = ", ".join(f"image.{key}" for key in IMAGE_KEYS)
    assert refusal("image=3") == f"image: is a section with keys, not '3' (allowed: {allowed})"


def test_crops_of_reduced_images_are_refused() -> None:
    message = "image.reduce_jpeg removes the detail that sam.crop_n_layers needs; set only one of them"
    assert refusal("image.reduce_jpeg=true", "sam.crop_n_layers=1") == message


def test_a_pool_that_shrinks_is_refused() -> None:
    assert refusal("clip.workers=3", "clip.max_workers=2") == "clip: max_workers (2) is less than workers (3)"


def test_a_list_that_is_not_closed_is_refused() -> None:
    assert refusal("classes=[a, b").startswith("classes line 1: expected ',' or ']'")


def test_required_keys_say_how_to_give_them() -> None:
    with pytest.raises(UserError) as caught:
        load(AnnotateConfig, None, [])
    assert str(caught.value).splitlines() == [
        "images: required, give images=FOLDER",
        "out: required, give out=DIR",
        "classes: required, give classes=cat,dog",
    ]


def test_all_mistakes_are_reported_together(tmp_path: Path) -> None:
    path = write(tmp_path, "imges: x\nsam: {points_per_side: many}\nlabel: {threshold: 3}\n")
    with pytest.raises(UserError) as caught:
        load(AnnotateConfig, path, ["out=x", "nonsense", "clip.dept=3"])
    assert str(caught.value).splitlines() == [
        "unknown key imges; did you mean images?",
        "'nonsense' is not of the form key=value",
        "unknown key clip.dept; did you mean clip.depth?",
        "images: required, give images=FOLDER",
        "classes: required, give classes=cat,dog",
        "sam.points_per_side: 'many' is not a whole number (allowed: 1 to 256)",
        "label.threshold: 3 is out of range (allowed: -1 to 1)",
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "classes: [a\nimage: b\n",
            "line 2: expected ',' or ']', but got ':', while parsing a flow sequence",
        ),
        ("a: b: c\n", "line 1: mapping values are not allowed here"),
        ("image:\n  frames: skip\n  frames: first\n", "line 3: key frames is listed twice"),
        ("- a\n- b\n", "not a configuration; it needs lines of the form key: value"),
        ("just text\n", "not a configuration; it needs lines of the form key: value"),
        ("classes: a\n---\nclasses: b\n", "line 2: but found another document, expected a single document"),
        ("classes: &a [*a]\n", "line 1: found unconstructable recursive node"),
        ("? [a]\n: b\n", "line 1: found unhashable key"),
        ("[" * 5000, "nested too deeply"),
        ("classes: \0", "not a YAML text"),
        ('classes: "\\ud800"', "line 1: half a character (a lone surrogate)"),
    ],
)
def test_yaml_mistakes_name_file_and_line(tmp_path: Path, text: str, line: str) -> None:
    message = file_refusal(tmp_path, text)
    assert "\n" not in message
    assert message.startswith(f"{tmp_path / 'run.yaml'}")
    assert line in message


def test_json_with_a_character_in_two_halves_is_a_configuration(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps({"images": "\U0001f333", "classes": ["tree"], "out": "labels"}))
    assert load(AnnotateConfig, str(path)).images == "\U0001f333"


def test_yaml_never_runs_code(tmp_path: Path) -> None:
    victim = tmp_path / "made by yaml"
    message = file_refusal(tmp_path, f"classes: a\nsam: !!python/object/apply:os.mkdir ['{victim}']\n")
    assert message == (
        f"{tmp_path / 'run.yaml'} line 2: tag !!python/object/apply:os.mkdir is refused; "
        "plain text, lists and mappings only"
    )
    assert "is refused" in refusal(f"classes=[!!python/object/apply:os.mkdir ['{victim}']]")
    assert not victim.exists()


@pytest.mark.parametrize(
    "value", ["!!int ''", "!!float x", "!!timestamp x", "!!bool maybe", "!!set {a}", "!!binary aGk="]
)
def test_yaml_tags_are_refused(tmp_path: Path, value: str) -> None:
    tag = value.partition(" ")[0]
    assert f"line 1: tag {tag} is refused" in file_refusal(tmp_path, f"classes: {value}\n")


def test_multiplied_aliases_do_not_blow_up(tmp_path: Path) -> None:
    lines = ["classes: &l0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"k{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]" for i in range(1, 12)]
    message = file_refusal(tmp_path, "\n".join([*lines, "label: {threshold: *l11}"]))
    assert "label.threshold: " in message
    assert len(message) < 20_000


def test_file_problems_are_one_line(tmp_path: Path) -> None:
    for path, line in [
        ("gone.yaml", "no configuration file 'gone.yaml'; values are given as key=value"),
        (
            str(tmp_path),
            f"{str(tmp_path)!r} is a folder, not a configuration file; values are given as key=value",
        ),
    ]:
        with pytest.raises(UserError) as caught:
            load(DemoConfig, path)
        assert str(caught.value) == line


def test_an_empty_file_and_an_empty_section_leave_the_defaults(tmp_path: Path) -> None:
    assert load(DemoConfig, write(tmp_path, "# nothing\n")) == DemoConfig()
    assert load(AnnotateConfig, write(tmp_path, "sam:\n  # model: vit_b\n"), REQUIRED) == annotate()


def test_dump_reads_back_to_an_equal_configuration(tmp_path: Path) -> None:
    config = annotate(
        "out=2024",
        "images=null and [x]: 'y' # z",
        "label.background_names=['~', 'null', no, ' led', \"two\\nlines\", \u00e9\u4e2d]",
        "label.aliases={no: ['1', 2.50]}",
        "clip.temperature=1e-05",
    )
    assert config.label.background_names == ("~", "null", "no", " led", "two\nlines", "\u00e9\u4e2d")
    assert load(AnnotateConfig, write(tmp_path, dump(config))) == config
    assert config_hash(load(AnnotateConfig, write(tmp_path, dump(config)))) == config_hash(config)


def test_the_hash_follows_what_is_written_not_how_fast() -> None:
    base = config_hash(annotate())
    assert len(base) == 64
    same = ("out=elsewhere", "sam.workers=7", "clip.batch_size=1", "sam.points_per_batch=9", "address=auto")
    assert all(config_hash(annotate(override)) == base for override in (*same, "label.threshold=0.00"))
    other = ("images=b", "classes=cat,dog", "sam.model=vit_b", "label.threshold=0.1", "clip.features=clip")
    hashes = {config_hash(annotate(override)) for override in other}
    assert len(hashes) == len(other)
    assert base not in hashes


def test_the_order_of_a_mapping_does_not_change_the_hash() -> None:
    first = annotate("label.aliases={a: [x], b: [y]}")
    assert config_hash(first) == config_hash(annotate("label.aliases={b: [y], a: [x]}"))


def test_identity_names_the_keys_that_differ() -> None:
    before, after = identity(annotate()), identity(annotate("sam.model=vit_b", "sam.workers=2"))
    assert {key: after[key] for key in after if after[key] != before[key]} == {"sam.model": "vit_b"}


def test_a_configuration_cannot_be_changed() -> None:
    config = annotate()
    with pytest.raises(ValidationError, match="frozen"):
        config.sam.model = "vit_h"  # type: ignore[misc]

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import get_type_hints

import pytest

from segray.models.annotators.registry import MASK_MODELS
from segray.models.clip.text import TEMPLATES
from segray.models.label_space import BACKGROUND_NAMES, label_space
from segray.pipelines.commands.annotate import space_of
from segray.pipelines.config.command_table import COMMANDS
from segray.pipelines.config.commands.annotate import (
    TEMPLATE_SETS,
    AnnotateConfig,
    AnnotateImageConfig,
    SamConfig,
    SamModel,
)
from segray.pipelines.config.commands.train import (
    DataConfig,
    PseudoConfig,
    TrainConfig,
    TrainImageConfig,
)
from segray.pipelines.config.commands.tune import TuneConfig
from segray.pipelines.config.loading import dump, load
from segray.pipelines.config.schema import Config, keys
from segray.pipelines.errors import UserError

CONFIGS = Path(__file__).parents[3] / "configs"


def example(name: str) -> AnnotateConfig:
    return load(AnnotateConfig, str(CONFIGS / f"{name}.yaml"))


ONE_OF = {"export": ["labels"]}
"""Of commands that need one of several keys, a key that will do."""


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_needs_only_its_required_keys(command: str, tmp_path: Path) -> None:
    model: type[Config] = COMMANDS[command].config()
    required = [key.name for key in keys(model).values() if key.required]
    config = load(model, None, [f"{name}=x" for name in (*required, *ONE_OF.get(command, []))])
    saved = tmp_path / "saved.yaml"
    saved.write_text(dump(config), encoding="utf-8")
    assert load(model, str(saved)) == config


@pytest.mark.parametrize("command", COMMANDS)
def test_every_key_has_a_sentence_of_help(command: str) -> None:
    for key in keys(COMMANDS[command].config()).values():
        assert key.help.isascii(), key.name
        assert key.help.endswith("."), key.name
        assert not key.nullable or "null:" in key.help, f"{key.name}: the help says nothing of null"


BAD = {
    "text": ("", "empty; give "),
    "text or list": ("", "empty; give "),
    "list": ("{a: b}", "{'a': 'b'} is not a list"),
    "mapping": ("x", "'x' is not a mapping"),
    "true or false": ("maybe", "'maybe' is not true or false"),
    "whole number": ("x", "'x' is not a whole number"),
    "number": ("x", "'x' is not a number"),
    "choice": ("nonsense", "must be one of "),
}
"""By kind of key: a value that none of them takes, and what its line says of it."""


@pytest.mark.parametrize("command", COMMANDS)
def test_every_key_refuses_a_wrong_value_in_one_line_with_what_is_allowed(command: str) -> None:
    model: type[Config] = COMMANDS[command].config()
    required = [key.name for key in keys(model).values() if key.required]
    given = [f"{name}=x" for name in (*required, *ONE_OF.get(command, []))]
    for key in keys(model).values():
        value, says = BAD[key.kind]
        with pytest.raises(UserError) as caught:
            load(model, None, [*given, f"{key.name}={value}"])
        text = str(caught.value)
        form = f"{key.name}: '' is not valid (allowed: {key.allowed})"
        assert text.startswith(f"{key.name}: {says}") or (key.allowed and text == form), text
        assert all(word in text for word in key.choices or [key.allowed]) or key.kind == "text", text
        assert len(text.splitlines()) == 1


# submit takes the overrides of other commands too.
@pytest.mark.parametrize("command", [command for command in COMMANDS if command != "submit"])
def test_the_program_behind_a_command_takes_its_configuration(command: str) -> None:
    run = import_module(COMMANDS[command].module).run
    hints = get_type_hints(run)
    hints.pop("return")
    assert list(hints.values()) == [COMMANDS[command].config()]


def test_names_agree_with_the_models() -> None:
    assert keys(SamModel)["model"].allowed == ", ".join((*MASK_MODELS, "none"))
    assert set(TEMPLATE_SETS) == set(TEMPLATES)


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("*.yaml")))
def test_every_example_loads_and_its_background_is_no_class(name: str) -> None:
    config = example(name)
    space = label_space(config.classes, config.label.background_names, config.label.aliases)
    background, *prompts = space.aliases
    assert background
    assert not set(background) & {word for words in prompts for word in words}


@pytest.mark.parametrize("name", ["picture_book", "voc", "coco"])
def test_every_training_example_goes_on_from_the_label_set_of_its_namesake(name: str) -> None:
    training = load(TrainConfig, str(CONFIGS / "train" / f"{name}.yaml"))
    assert training.data.kind == name
    assert training.data.labels == example(name).out
    assert training.method == "segray"


@pytest.mark.parametrize(
    ("name", "network", "lr", "epochs"), [("voc", "b4", 0.001, 80), ("coco", "b4", 0.004, 30)]
)
def test_training_follows_the_paper(name: str, network: str, lr: float, epochs: int) -> None:
    training = load(TrainConfig, str(CONFIGS / "train" / f"{name}.yaml"))
    assert training.network.name == "segformer_b4"
    assert (training.train.lr, training.train.epochs, training.train.batch) == (lr, epochs, 8)
    assert (training.pseudo.tau, training.pseudo.epsilon, training.augment.crop) == (0.7, None, 321)


@pytest.mark.parametrize(("name", "classes"), [("voc", 21), ("coco", 81)])
def test_the_benchmarks_follow_the_paper(name: str, classes: int) -> None:
    config = example(name)
    assert len(label_space(config.classes).classes) == classes
    sam, clip = config.sam, config.clip
    assert (sam.model, sam.points_per_side, sam.box_nms_thresh) == ("vit_h", 32, 0.7)
    assert (sam.pred_iou_thresh, sam.stability_score_thresh) == (0.88, 0.95)
    assert (clip.model, clip.weights, clip.features) == ("ViT-B-16-quickgelu", "openai", "gem")
    assert (clip.image_size, clip.depth, clip.iterations, clip.temperature) == (448, 7, 1, None)
    assert config.label.templates == "imagenet80"
    assert config.label.background_names is not None
    assert set(config.label.background_names) >= set(BACKGROUND_NAMES) - {"bed"}


def test_the_picture_book_example_needs_no_download() -> None:
    config = example("picture_book")
    assert (config.sam.model, config.clip.model) == ("builtin", "builtin")
    assert config.sam.weights is None
    assert config.clip.weights is None


@pytest.mark.parametrize(
    ("overrides", "models", "templates"),
    [
        ("classes=cat,dog", ("vit_b", "ViT-B-16-quickgelu", "openai"), "imagenet80"),
        ("classes=picture_book", ("builtin", "builtin", None), "single"),
        ("classes=cat clip.model=builtin", ("vit_b", "builtin", None), "single"),
        ("classes=cat sam.model=builtin", ("builtin", "ViT-B-16-quickgelu", "openai"), "imagenet80"),
        ("classes=cat clip.weights=my.pt", ("vit_b", "ViT-B-16-quickgelu", "my.pt"), "imagenet80"),
        ("classes=cat clip.model=ViT-L-14", ("vit_b", "ViT-L-14", None), "single"),
        ("classes=picture_book sam.model=vit_h", ("vit_h", "builtin", None), "single"),
        ("classes=cat label.templates=single", ("vit_b", "ViT-B-16-quickgelu", "openai"), "single"),
    ],
)
def test_models_that_the_user_does_not_name(
    overrides: str, models: tuple[str, str, str | None], templates: str
) -> None:
    config = load(AnnotateConfig, None, ["images=a", "out=b", "sam.workers=2", *overrides.split()])
    assert (config.sam.model, config.clip.model, config.clip.weights) == models
    assert (config.label.templates, config.sam.workers) == (templates, 2)
    assert AnnotateConfig.model_validate(config.model_dump()) == config


def test_each_key_of_images_decodes_them_or_says_where_they_may_be() -> None:
    images = AnnotateImageConfig(bands=(3, 2, 1), max_side=99, roots=("/photos",), column="photo")
    assert set(images.decoding()) == set(keys(AnnotateImageConfig)) - {
        "links",
        "column",
        "roots",
        "reduce_jpeg",
        "tile",
        "tile_overlap",
    }
    options = images.options("/images", (8, 4))
    assert (options.bands, options.max_side, options.jpeg_size) == ((3, 2, 1), 99, (8, 4))
    assert (options.roots, options.follow_links) == (("/images", "/photos"), True)
    assert set(TrainImageConfig().decoding()) == {"range", "bands", "alpha"}


def test_sections_built_in_python_get_the_default_models_too() -> None:
    config = AnnotateConfig(images="a", out="b", classes=("cat",), sam=SamConfig(points_per_side=4))
    assert (config.sam.model, config.sam.points_per_side) == ("vit_b", 4)
    assert config.clip.weights == "openai"


@pytest.mark.parametrize("model", [TrainConfig, TuneConfig])
@pytest.mark.parametrize(
    ("overrides", "switches"),
    [
        ("method=segray_v2", (False, False)),
        ("method=segray_v3", (True, True)),
        ("method=segray_v3 pseudo.tau=0.6", (True, True)),
        ("method=segray_v3 data.calibrate=false", (False, True)),
        ("method=segray_v3 pseudo.segments=false", (True, False)),
    ],
)
def test_segray_v3_calibrates_and_keeps_segments_whole_unless_told_otherwise(
    model: type[TrainConfig], overrides: str, switches: tuple[bool, bool]
) -> None:
    words = ["out=a", "data.root=b", "data.labels=c", *overrides.split()]
    config = load(model, None, words)
    assert (config.data.calibrate, config.pseudo.segments) == switches
    assert model.model_validate(config.model_dump()) == config


def test_sections_built_in_python_get_the_defaults_of_the_method_too() -> None:
    pseudo = PseudoConfig(tau=0.6)
    config = TrainConfig(out="a", data=DataConfig(root="b"), method="segray_v3", pseudo=pseudo)
    assert (config.data.calibrate, config.pseudo.segments, config.pseudo.tau) == (True, True, 0.6)
    with pytest.raises(UserError, match=r"^pseudo: "):
        load(TrainConfig, None, ["out=a", "data.root=b", "method=segray_v3", "pseudo=3"])


def annotated(*words: str) -> AnnotateConfig:
    return load(AnnotateConfig, None, ["images=a", "out=b", *words])


def test_a_labeller_has_its_own_threshold_and_no_sam_or_clip(tmp_path: Path) -> None:
    config = annotated("classes=voc", "annotator=sam3")
    assert config.label.threshold == 0.5
    assert list(config.model_stages) == ["labeller"]
    assert annotated("classes=voc", "annotator=sam3", "label.threshold=0").label.threshold == 0
    assert annotated("classes=picture_book", "annotator=sam3").label.threshold == 0.5
    saved = tmp_path / "saved.yaml"
    saved.write_text(dump(config), encoding="utf-8")
    assert load(AnnotateConfig, str(saved)) == config
    assert list(annotated("classes=voc").model_stages) == ["sam", "clip"]
    assert list(annotated("classes=voc", "sam.model=none").model_stages) == ["clip"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("annotator=sam3", "sam.workers=2"),
            r"sam\.workers has no effect with annotator=sam3; leave it out",
        ),
        (("annotator=sam3", "clip.model=builtin"), r"clip\.model has no effect with annotator=sam3"),
        (("annotator=sam3", "label.templates=a {}"), r"label\.templates has no effect with annotator=sam3"),
        (
            ("labeller.precision=bf16",),
            r"labeller\.precision has no effect with annotator=sam_clip; leave it out",
        ),
        (
            ("annotator=sam33",),
            r"^annotator: must be one of sam3, sam_clip, not 'sam33'; did you mean sam3\?$",
        ),
        (("annotator=sam3", "labeller.precision=fp16"), r"^labeller\.precision: .*auto, fp32, bf16"),
    ],
)
def test_what_an_annotator_would_ignore_is_refused(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        annotated("classes=cat", *words)


def test_background_names_are_for_clip_unless_they_are_given() -> None:
    assert space_of(annotated("classes=cat")).aliases[0]
    assert space_of(annotated("classes=cat", "annotator=sam3")).aliases == ((), ("cat",))
    words = ("annotator=sam3", "label.background_names=sky,wall", "label.aliases.cat=cat,kitten")
    assert space_of(annotated("classes=cat", *words)).aliases == (("sky", "wall"), ("cat", "kitten"))


@pytest.mark.parametrize(
    ("words", "fewest", "most"), [((), 1, 1), (("train.workers=4",), 4, 4), (("train.workers=2..8",), 2, 8)]
)
def test_the_number_of_workers_may_be_a_range(words: tuple[str, ...], fewest: int, most: int) -> None:
    train = load(TrainConfig, None, ["out=a", "data.root=b", *words]).train
    assert (train.fewest_workers, train.most_workers, train.elastic) == (fewest, most, fewest < most)
    assert type(train)(workers=most).most_workers == most


@pytest.mark.parametrize("workers", ["0", "8..2", "2..", "..8", "2..8..9", "-1", "1.5", "two", "4097", "²"])
def test_what_is_neither_a_number_nor_a_range_of_workers_is_refused(workers: str) -> None:
    with pytest.raises(UserError) as caught:
        load(TrainConfig, None, ["out=a", "data.root=b", f"train.workers={workers}"])
    assert str(caught.value) == (f"train.workers: {workers!r} (allowed: 1 to 4096, or a range such as 2..8)")


def test_each_worker_of_a_range_has_an_image_of_each_part() -> None:
    words = ["out=a", "data.root=b", "train.workers=1..3", "train.accumulate=2"]
    assert load(TrainConfig, None, [*words, "train.batch=6"]).train.batch == 6
    for batch in (4, 7):
        with pytest.raises(UserError) as caught:
            load(TrainConfig, None, [*words, f"train.batch={batch}"])
        assert str(caught.value) == (
            f"train: batch ({batch}) is not a multiple of accumulate (2), at least 3 x 2 for workers=1..3"
        )

"""The models that annotate, by name; importing it imports no framework, for `--help` and configurations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

if TYPE_CHECKING:
    from segray.models.annotators.protocols import LabelModel, MaskModel

GROUP = "segray.mask_sources"
"""Entry points of installed packages that add names to `MASK_MODELS`; each is a `MaskEntry`."""
LABEL_GROUP = "segray.labellers"
"""The same for `LABEL_MODELS`; each is a `LabelEntry`."""

_META = "https://dl.fbaipublicfiles.com/segment_anything/"


@dataclass(frozen=True)
class Card:
    """What must be known of weights before anyone uses them.

    Attributes:
        licence: of the weights.
        parameters: in millions.
        source: where the official weights are, as `models.weights.resolve` takes it, or a tag of open_clip.
    """

    licence: str
    parameters: float
    source: str

    def __post_init__(self) -> None:
        if not (self.licence.strip() and self.source.strip() and self.parameters > 0):
            raise ValueError("a model needs a licence, a size in millions of parameters, and a source")


@dataclass(frozen=True)
class Entry(Card):
    """A model that annotates.

    Attributes:
        family: "module:Class" of its class.
        sha256: of the official weights; None where they may change.
        extra: of segray, for the package that it needs.
        package: which that is; None where segray itself brings all.
    """

    key: ClassVar[str]

    family: str
    sha256: str | None = None
    extra: str | None = None
    package: str | None = None

    def missing(self) -> str | None:
        """What is to be installed first; None if nothing is."""
        if self.package is None or find_spec(self.package) is not None:
            return None
        return f'{self.package}: pip install "segray[{self.extra}]"'

    def _open(self) -> Any:
        if missing := self.missing():
            raise ValueError(f"{self.key} needs the package {missing}")
        module, _, name = self.family.partition(":")
        return getattr(import_module(module), name)


@dataclass(frozen=True)
class MaskEntry(Entry):
    """A model that finds segments, and the values that its options have by default."""

    key: ClassVar[str] = "sam.model"

    points_per_side: int = 32
    pred_iou_thresh: float = 0.88
    stability_score_thresh: float = 0.95

    def open_family(self) -> type[MaskModel]:
        """The class, imported when it is needed.

        Raises:
            ValueError: a package is not installed.
        """
        return self._open()


@dataclass(frozen=True)
class LabelEntry(Entry):
    """A model that finds segments of named classes.

    Attributes:
        threshold: least score of a segment with a class, by default.
        gated: its official weights are given to those who ask for them at their source.
    """

    key: ClassVar[str] = "annotator"

    threshold: float = 0.5
    gated: bool = False

    def open_family(self) -> type[LabelModel]:
        """The class, imported when it is needed.

        Raises:
            ValueError: a package is not installed.
        """
        return self._open()


_SAM = "segray.models.annotators.sam:SamModel"

MASK_MODELS: dict[str, MaskEntry] = {
    "builtin": MaskEntry(
        "Apache-2.0",
        1.3,
        "builtin:sam",
        _SAM,
        points_per_side=16,
        pred_iou_thresh=0.5,
        stability_score_thresh=0.8,
    ),
    "vit_b": MaskEntry(
        "Apache-2.0",
        93.7,
        _META + "sam_vit_b_01ec64.pth",
        _SAM,
        "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    ),
    "vit_l": MaskEntry(
        "Apache-2.0",
        312.3,
        _META + "sam_vit_l_0b3195.pth",
        _SAM,
        "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
    ),
    "vit_h": MaskEntry(
        "Apache-2.0",
        641.1,
        _META + "sam_vit_h_4b8939.pth",
        _SAM,
        "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
    ),
    **{
        f"sam2.1_hiera_{size}": MaskEntry(
            "Apache-2.0",
            parameters,
            f"hf-hub:facebook/sam2.1-hiera-{size.replace('_', '-')}",
            "segray.models.annotators.sam2:Sam2",
            extra="sam2",
            package="transformers",
            pred_iou_thresh=0.8,
        )
        for size, parameters in (("tiny", 38.9), ("small", 46.0), ("base_plus", 80.8), ("large", 224.4))
    },
    **{
        f"sam_hq_{name}": MaskEntry(
            "Apache-2.0",
            parameters,
            f"hf-hub:syscv-community/sam-hq-vit-{size}",
            "segray.models.annotators.sam_hq:SamHq",
            extra="sam2",
            package="transformers",
        )
        for name, size, parameters in (
            ("vit_b", "base", 94.8),
            ("vit_l", "large", 313.7),
            ("vit_h", "huge", 642.7),
        )
    },
    "eomt_large": MaskEntry(
        "MIT",
        316.7,
        "hf-hub:tue-mps/coco_panoptic_eomt_large_640",
        "segray.models.annotators.eomt:EomtModel",
        extra="sam2",
        package="transformers",
        pred_iou_thresh=0.8,
    ),
}
"""A new model is a line here, a new family a module with a `MaskModel` too (docs/extend.md)."""

LABEL_MODELS: dict[str, LabelEntry] = {
    "sam3": LabelEntry(
        "SAM License",
        840.4,
        "hf-hub:facebook/sam3",
        "segray.models.annotators.sam3:Sam3",
        extra="sam3",
        package="transformers",
        gated=True,
    ),
}
"""The same, of models with a `LabelModel`."""

CLIP_MODELS: dict[str, Card] = {
    "builtin": Card("Apache-2.0", 4.3, "builtin:clip"),
    "ViT-B-16-quickgelu": Card("MIT", 149.6, "openai"),
}
"""The CLIPs that are defaults of segray; open_clip names many more."""

FEATURE_MODELS: dict[str, Card] = {
    "tipsv2_b14": Card("Apache-2.0", 196.0, "hf-hub:google/tipsv2-b14"),
    "tipsv2_l14": Card("Apache-2.0", 487.0, "hf-hub:google/tipsv2-l14"),
    "vit_base_patch8_224.dino": Card("Apache-2.0", 85.8, "hf-hub:timm/vit_base_patch8_224.dino"),
}
"""Models that need not be CLIPs: those of `clip.features=tipsv2`, and the default of `clip.proxy`."""


EntryT = TypeVar("EntryT", MaskEntry, LabelEntry)


@cache
def _installed(group: str) -> Mapping[str, Any]:
    return {point.name: point for point in entry_points(group=group)}


def mask_entry(name: str, also: tuple[str, ...] = ()) -> MaskEntry:
    """The entry of a name of `sam.model`.

    Args:
        name: of the model.
        also: further names that the message of an error lists.

    Raises:
        ValueError: an unknown name, or one whose entry point is not a `MaskEntry`.
    """
    return _entry(name, MASK_MODELS, GROUP, MaskEntry, also)


def label_entry(name: str, also: tuple[str, ...] = ()) -> LabelEntry:
    """The entry of a name of `annotator`; the same as `mask_entry`."""
    return _entry(name, LABEL_MODELS, LABEL_GROUP, LabelEntry, also)


def _entry(
    name: str, models: dict[str, EntryT], group: str, kind: type[EntryT], also: tuple[str, ...]
) -> EntryT:
    if name not in models and name in _installed(group):
        models[name] = _loaded(name, group, kind)
    if name not in models:
        allowed = [*_names(models, group), *also]
        near = get_close_matches(name, allowed, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"must be one of {', '.join(allowed)}, not {name!r}{hint}")
    return models[name]


def _loaded(name: str, group: str, kind: type[EntryT]) -> EntryT:
    try:
        entry = _installed(group)[name].load()
    except Exception as error:  # somebody else's module raises anything
        raise ValueError(f"the entry point {name} of {group} cannot be imported: {error}") from error
    if not isinstance(entry, kind):
        raise ValueError(f"the entry point {name} of {group} is not a {kind.__name__}")
    return entry


def mask_names() -> list[str]:
    """All names of `sam.model`, those of installed packages last."""
    return _names(MASK_MODELS, GROUP)


def label_names() -> list[str]:
    """All names of `annotator` with a model of their own, those of installed packages last."""
    return _names(LABEL_MODELS, LABEL_GROUP)


def _names(models: Mapping[str, Entry], group: str) -> list[str]:
    return list(dict.fromkeys([*models, *_installed(group)]))

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
from segray.models.sam.generator import build_sam
assert "torchvision" not in sys.modules and "torch._dynamo" not in sys.modules
sam, _ = build_sam("builtin")
import segment_anything
assert segment_anything.SamPredictor.__module__ == "segment_anything.predictor"
assert type(sam) is segment_anything.modeling.Sam
assert not hasattr(segment_anything, "nothing")
"""


def test_sam_loads_without_torchvision_and_its_package_stays_usable() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


CLIP_PROGRAM = """
import sys
from segray.models.clip.model import build_clip, build_text_clip
from segray.models.clip.catalogue import get_model_config, list_models
clip = build_text_clip("builtin")
build_clip("builtin")
assert "ViT-B-16" in list_models()
heavy = {"torchvision", "timm", "transformers", "torch._dynamo", "pandas", "matplotlib"} & set(sys.modules)
assert not heavy, heavy

# Whoever needs the rest of the package gets it.
import open_clip
from open_clip.model import CLIP, TimmModel
from open_clip.utils import freeze_batch_norm_2d
assert type(clip.model) is open_clip.CLIP is CLIP
assert not isinstance(clip.model.visual, TimmModel)
tower = TimmModel("resnet18", 8, pretrained=False)
assert isinstance(tower, TimmModel) and type(tower).__module__ == "open_clip.timm_model"
narrow = get_model_config("RN50") | {"vision_cfg": {"layers": [1, 1, 1, 1], "width": 8, "image_size": 64}}
network = CLIP(**narrow)
freeze_batch_norm_2d(network.visual)
assert type(network.visual.bn1).__module__ == "torchvision.ops.misc"
assert not hasattr(open_clip, "nothing")
"""


def test_clip_loads_without_the_code_for_training_and_its_package_stays_usable() -> None:
    done = subprocess.run([sys.executable, "-c", CLIP_PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


LATE = """
from segray.models.deferred import defer
defer("late", unused=("late.heavy",))
import sys
from late.part import call, annotated
print("late.heavy" in sys.modules, annotated.__name__)
{}
"""
LATE_PARTS = {
    "__init__.py": "",
    "heavy.py": "print('heavy')\nclass Base:\n    'Base.'\n    size = 3\ndef double(x): return 2 * x\n",
    "part.py": (
        "from typing import Optional\nfrom .heavy import Base, double\n"
        "def annotated(x: Optional[Base], y: Base | None, z: None | Base): return isinstance(x, Base)\n"
        "def call(): return double(Base.size)\n"
    ),
    "early.py": "from .heavy import Base\nclass Child(Base): pass\n",
    "strict.py": "from .heavy import Base\nNAME = Base.__doc__ + 'x' * len(Base.__mro__)\n",
}


@pytest.mark.parametrize(
    ("used", "shown"),
    [
        ("", []),
        ("print(annotated(1, 2, 3))", ["False"]),
        ("print(call())", ["heavy", "6"]),
        ("from late.early import Child; print(Child.__mro__[1].__name__)", ["heavy", "Base"]),
        # A module that cannot do with late names is run again with real ones.
        ("from late.strict import NAME; print(NAME)", ["heavy", "Base.xx"]),
    ],
)
def test_a_late_name_is_imported_when_it_is_used(tmp_path: Path, used: str, shown: list[str]) -> None:
    package = tmp_path / "late"
    package.mkdir()
    for name, text in LATE_PARTS.items():
        (package / name).write_text(text)
    environment = {"PYTHONPATH": ":".join([str(tmp_path), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", LATE.format(used)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.stdout.splitlines() == ["False annotated", *shown], done.stderr


def test_a_deferred_package_runs_when_it_is_used(tmp_path: Path) -> None:
    package = tmp_path / "late"
    package.mkdir()
    (package / "__init__.py").write_text("print('ran')\nfrom late.part import VALUE\nOTHER = VALUE + 1\n")
    (package / "part.py").write_text("VALUE = 1\n")
    program = (
        "from segray.models.deferred import defer\n"
        "defer('late'); defer('late'); defer('not_installed_anywhere')\n"
        "from late.part import VALUE\n"
        "print('part', VALUE)\n"
        "import late\n"
        "print(late.OTHER, late.part.VALUE)\n"
    )
    environment = {"PYTHONPATH": ":".join([str(tmp_path), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment
    )
    assert done.stdout.split("\n")[:3] == ["part 1", "ran", "2 1"], done.stderr

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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

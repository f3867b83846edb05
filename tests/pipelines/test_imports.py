"""What commands import: large packages only where they are used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from segray.pipelines.config.command_table import COMMANDS
from tests.pipelines.plain_runs import OPTIONS, draw_scenes
from tests.pipelines.trained_network import write_run

HEAVY = {"ray", "torchvision", "timm", "transformers", "torch._dynamo", "matplotlib", "mlflow", "wandb"}
_SHOW = f"import sys; print(sorted({HEAVY!r} & set(sys.modules)))"


def imported(program: str, *arguments: str) -> str:
    """The heavy modules that a program has imported when it ends."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", f"{program}\n{_SHOW}", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_the_modules_of_the_commands_import_none_of_them() -> None:
    modules = sorted({command.module for command in COMMANDS.values()})
    assert imported("\n".join(f"import {module}" for module in modules)) == "[]"


_RUN = """
import sys
from segray.pipelines.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert not end.code
"""


def test_annotate_in_its_own_process_imports_none_of_them(tmp_path: Path) -> None:
    images = draw_scenes(tmp_path / "images", 1)
    words = ("annotate", f"images={images}", f"out={tmp_path / 'labels'}", "classes=picture_book", *OPTIONS)
    assert imported(_RUN, *words) == "[]"


def test_predict_in_its_own_process_imports_none_of_them(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    images = draw_scenes(tmp_path / "images", 1)
    words = ("predict", f"images={images}", f"out={tmp_path / 'out'}", f"checkpoint={tmp_path / 'run'}")
    assert imported(_RUN, *words) == "[]"

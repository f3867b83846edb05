"""The examples of docs/extend.md as installed packages."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

EXTEND = (Path(__file__).parents[3] / "docs" / "extend.md").read_text(encoding="utf-8")


def install_example(folder: Path, module: str) -> Path:
    """Write the example whose entry point names a module into a folder of packages."""
    blocks = {kind: re.findall(rf"```{kind}\n(.*?)```", EXTEND, re.S) for kind in ("python", "toml")}
    (place,) = [i for i, toml in enumerate(blocks["toml"]) if f'"{module}:' in toml]
    (folder / f"{module}-1.dist-info").mkdir(parents=True)
    (folder / f"{module}-1.dist-info" / "METADATA").write_text(f"Name: {module}\nVersion: 1\n")
    points = blocks["toml"][place].replace('[project.entry-points."', "[").replace('"]', "]").replace('"', "")
    (folder / f"{module}-1.dist-info" / "entry_points.txt").write_text(points)
    (folder / f"{module}.py").write_text(blocks["python"][place])
    return folder


def annotate_with(plugin: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`segray annotate` where a folder of packages is installed."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(plugin), *filter(None, sys.path)])}
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-m", "segray", "annotate", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)

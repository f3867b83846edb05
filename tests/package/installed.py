"""The wheel, and an environment that has it installed instead of this repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
_SOURCES = ("segray", "models", "pipelines", "tuning", "pyproject.toml", "README.md", "LICENSE")
_SHADOWS = ("models", "pipelines", "tuning", "tests")


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel.

    Attributes:
        bin: folder of its programs.
    """

    bin: Path

    def run(self, folder: Path, *command: str, environment: dict[str, str] | None = None) -> str:
        """Run one of its programs in a folder; its output.

        Raises:
            AssertionError: it fails.
        """
        inherited = dict(os.environ) if environment is None else environment
        clean = {
            name: value for name, value in inherited.items() if name not in {"PYTHONPATH", "RAY_ADDRESS"}
        }
        path = f"{self.bin}{os.pathsep}{clean['PATH']}"
        program, *arguments = command
        ended = subprocess.run(
            [str(self.bin / program), *arguments],
            cwd=folder,
            env={**clean, "PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout


def build_wheel(folder: Path) -> Path:
    """Build the wheel from a copy of the sources, so that the repository stays without build products."""
    sources = folder / "sources"
    sources.mkdir()
    for name in _SOURCES:
        _copy(REPOSITORY / name, sources / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "-q"]
    options = ["--no-deps", "--no-index", "--no-build-isolation", "-w", str(folder / "wheel")]
    subprocess.run([*pip, *options, str(sources)], check=True)
    (wheel,) = (folder / "wheel").glob("*.whl")
    return wheel


def install(wheel: Path, folder: Path) -> Installed:
    """Install the wheel into a new environment that finds its dependencies in this one."""
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python)]
    subprocess.run([*pip, "install", "-q", "--no-deps", "--no-index", str(wheel)], check=True)
    # Of the folder named here Python reads no .pth file: an editable segray in it stays out of sight.
    (site,) = (folder / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return Installed(folder / "bin")


def user_folder(folder: Path) -> Path:
    """A project with packages of the names that segray's repository has; importing one is an error."""
    for name in _SHADOWS:
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(f"raise ImportError('{name} of the user was imported')\n")
    return folder


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copyfile(source, target)

"""Print the oldest versions that pyproject.toml allows, as a constraints file for pip."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
_REQUIREMENT = re.compile(r"([A-Za-z0-9_.-]+)(?:\[[^\]]*\])?\s*>=\s*([0-9][\w.]*)")


def minimum_versions(project: Path = PROJECT) -> list[str]:
    """`name==version` for every dependency with a lower bound, those of the extras but `dev` too."""
    tables = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    extras = {name: needs for name, needs in tables["optional-dependencies"].items() if name != "dev"}
    requirements = [*tables["dependencies"], *(need for needs in extras.values() for need in needs)]
    bounds = {match[1]: match[2] for line in requirements if (match := _REQUIREMENT.match(line))}
    return [f"{name}=={version}" for name, version in sorted(bounds.items())]


if __name__ == "__main__":
    print("\n".join(minimum_versions()))

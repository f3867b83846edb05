"""Judge what pip-audit found: `python tools/advisories.py pip-audit.json`.

pip-audit skips what it cannot look up and ends well; here a lookup of nothing is a failure.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ACCEPTED: dict[str, str] = {}
"""Advisories that do not concern segray, by their id: the reason."""


def problems(report: dict[str, Any]) -> list[str]:
    """One line per advisory that is not accepted, and per package (but segray) that was not looked up."""
    lines = []
    for package in report["dependencies"]:
        name = package["name"]
        if "skip_reason" in package and name != "segray":
            lines.append(f"{name}: {package['skip_reason']}")
        for advisory in package.get("vulns", []):
            if not ACCEPTED.keys() & {advisory["id"], *advisory["aliases"]}:
                fixed = ", ".join(advisory["fix_versions"]) or "no version yet"
                lines.append(f"{name} {package['version']}: {advisory['id']}, fixed in {fixed}")
    return lines if report["dependencies"] else ["no package was looked up"]


if __name__ == "__main__":
    advisories = problems(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    print("\n".join(advisories) or "no known advisory")
    sys.exit(1 if advisories else 0)

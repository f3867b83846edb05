from __future__ import annotations

from pathlib import Path

from segray.pipelines.config.command_table import COMMANDS
from segray.pipelines.config.reference import reference
from segray.pipelines.config.schema import keys

PAGE = Path(__file__).parents[3] / "docs" / "reference.md"


def test_the_page_is_the_generated_one() -> None:
    remedy = "stale: python -m segray.pipelines.config.reference > docs/reference.md"
    assert PAGE.read_text(encoding="utf-8") == reference(), remedy


def test_every_key_of_every_verb_has_a_row_of_four_cells() -> None:
    sections = reference().split("\n## segray ")[1:]
    assert [section.partition("\n")[0] for section in sections] == list(COMMANDS)
    for section, command in zip(sections, COMMANDS.values(), strict=True):
        rows = [line for line in section.splitlines() if line.startswith("| `")]
        assert [row.split("`")[1] for row in rows] == list(keys(command.config()))
        assert all(row.replace("\\|", "").count("|") == 5 for row in rows)


def test_types_ranges_and_defaults_are_told() -> None:
    page = reference()
    assert "| `images` | text or list | **required** |" in page
    assert "| `sam.points_per_side` | whole number, 1 to 256, or null | `null` |" in page
    assert "| `clip.features` | one of gem, clip, proxy, corr, tipsv2 | `gem` |" in page
    assert "| `image.background_color` | list, 3 whole numbers from 0 to 255 | `255,255,255` |" in page
    assert "| `embeddings` | true or false | `true` |" in page
    assert "| `sam.workers` * |" in page

"""The page docs/reference.md: `python -m pipelines.config.reference > docs/reference.md`."""

from __future__ import annotations

import sys

from pipelines.cli import VERBS as SUMMARIES
from pipelines.config.help import default_words, type_words
from pipelines.config.schema import Config, Key, keys
from pipelines.config.settings import VERBS

_HEAD = """\
# Reference

Every key of every verb. This page is generated: `python -m pipelines.config.reference > docs/reference.md`.

    segray VERB [config.yaml] key=value ...

- A configuration file is YAML: `sam: {model: vit_b}`, or `sam.model: vit_b`. A key=value word wins over the
  file, the last word over the words before it. `--key=value` does as well, and `--repair` for `repair=true`.
- Text stays text: `out=2024` is a folder, `classes=on,off` are two classes.
- A list is written with commas, `label.background_names=sky,grass`, or as YAML, `'[sky, grass]'`.
- A mapping takes one entry a word, `label.aliases.person=person,people`.
- `null` means no value: where a key allows it, its help says what happens then.
- What is wrong is told in one line a key, before anything runs.

| exit status | meaning |
|---|---|
| 0 | done |
| 1 | an unexpected error; `--debug` or `SEGRAY_DEBUG=1` shows the traceback |
| 2 | bad input or configuration |
| 3 | more bad images than `max_bad` allows |
| 4 | another run is using the output |
| 130 | stopped with Ctrl-C |
"""

_TABLE = "| key | takes | default | meaning |\n|---|---|---|---|\n"
_NOTE = "\\* says where or how fast the run works: it may change between runs into the same output.\n"


def reference() -> str:
    """The whole page, as Markdown."""
    return _HEAD + "".join(_verb(name, model) for name, model in VERBS.items())


def _verb(name: str, model: type[Config]) -> str:
    rows = [_row(key) for key in keys(model).values()]
    note = f"\n{_NOTE}" if any(key.run_only for key in keys(model).values()) else ""
    return f"\n## segray {name}\n\n{SUMMARIES[name]}\n\n{_TABLE}{''.join(rows)}{note}"


def _row(key: Key) -> str:
    default = "**required**" if key.required else f"`{default_words(key)}`"
    cells = (f"`{key.name}`{' *' if key.run_only else ''}", type_words(key), default, key.help)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


if __name__ == "__main__":
    sys.stdout.write(reference())

"""`python -m tests.pipelines.command_sequence COMMANDS`: several segray commands in one process.

COMMANDS is a JSON list of argument lists. Each command connects to Ray and disconnects again, as it does in a
process of its own; what they import is imported once. The first that fails ends the sequence.
"""

from __future__ import annotations

import json
import sys

import click

from segray.pipelines.cli import main


def run(commands: list[list[str]]) -> None:
    """Run the commands in turn.

    Raises:
        SystemExit: a command's exit status is not 0; the command is named on stderr.
    """
    for arguments in commands:
        try:
            main(arguments)
        except SystemExit as end:
            if end.code:
                click.echo(f"failed: segray {' '.join(arguments)}", err=True)
                raise


if __name__ == "__main__":
    run(json.loads(sys.argv[1]))

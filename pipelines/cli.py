"""The command line: `segray COMMAND [config.yaml] key=value ...`.

Nothing heavy is imported before a command runs, so that help appears at once.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module

import click

from segray.pipelines.config.command_table import COMMANDS
from segray.pipelines.errors import UserError
from segray.pipelines.printing import echo, shown

_HELP = {"help_option_names": ["-h", "--help"]}
_LONGEST_LINE = 4000
"""Characters of a line of an error."""


class _Lines(logging.Handler):
    """Log records as plain lines on whatever stderr is at the time."""

    def emit(self, record: logging.LogRecord) -> None:
        echo(self.format(record), err=True)


class _Command(click.Command):
    """A command whose arguments are a configuration file and key=value overrides."""

    def __init__(self, name: str) -> None:
        overrides = click.Argument(["overrides"], nargs=-1, type=click.UNPROCESSED)
        debug = click.Option(["--debug"], is_flag=True, help="Show the traceback of an unexpected error.")
        super().__init__(
            name,
            params=[overrides, debug],
            callback=lambda overrides, debug: _run(name, overrides, debug),
            help=COMMANDS[name].summary,
            context_settings={**_HELP, "ignore_unknown_options": True},
        )

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_usage(ctx.command_path, "[config.yaml] key=value ...")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from segray.pipelines.config.help import help_text

        formatter.write(
            f"\nKeys, in config.yaml or as key=value:\n{help_text(COMMANDS[self.name or ''].config())}\n"
        )
        super().format_options(ctx, formatter)


class _Segray(click.Group):
    """The commands, in the order in which a user meets them; underscores may replace hyphens."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:  # noqa: ARG002
        name = cmd_name.replace("_", "-")
        if name not in COMMANDS:
            near = get_close_matches(name, COMMANDS, n=1)
            hint = f"; did you mean {near[0]}?" if near else f" (allowed: {', '.join(COMMANDS)})"
            raise UserError(f"unknown command {cmd_name}{hint}")
        return _Command(name)


@click.group(cls=_Segray, context_settings=_HELP)
@click.version_option(package_name="segray", message="%(prog)s %(version)s")
def segray() -> None:
    """Train a semantic segmentation model from many images and few labels, with SAM, CLIP and Ray.

    `segray demo` shows every step; `segray COMMAND --help` lists the keys of a command.
    """


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line and exit.

    Exit status: 0 done, 1 unexpected error, 2 bad input, 3 too many bad images, 4 output in use, 130 stopped.
    """
    arguments = list(sys.argv[1:] if args is None else args) or ["--help"]
    try:
        sys.exit(segray.main(arguments, prog_name="segray", standalone_mode=False))
    except UserError as error:
        _print_error(str(error))
        sys.exit(error.exit_code)
    except click.ClickException as error:
        _print_error(error.format_message())
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        _print_error("stopped")
        sys.exit(130)
    except Exception as error:  # noqa: BLE001  the last handler: a bug is one line too
        _print_unexpected(error, debug="--debug" in arguments)
        sys.exit(1)


def _run(name: str, overrides: Sequence[str], debug: bool) -> None:
    if name == "submit":
        _log_to_stderr(debug)
        # Most of its overrides belong to another command.
        import_module(COMMANDS[name].module).run(overrides)
        return
    from segray.pipelines.config.loading import load, split_source
    from segray.pipelines.config.paths import absolute, joins_cluster

    config = load(COMMANDS[name].config(), *split_source(overrides))
    if joins_cluster(config):
        # The cluster's processes have another working directory.
        config = absolute(config)
    _log_to_stderr(debug)
    import_module(COMMANDS[name].module).run(config)


def _log_to_stderr(debug: bool) -> None:
    logger = logging.getLogger("segray")
    logger.setLevel(logging.DEBUG if debug else logging.INFO)
    if not logger.handlers:
        logger.addHandler(_Lines())
    root = logging.getLogger()
    if not root.handlers:
        # Or a library's first `logging.info` adds one, which prints our lines a second time.
        others = logging.StreamHandler()
        others.setLevel(logging.WARNING)
        others.addFilter(lambda record: not record.name.startswith("segray"))
        root.addHandler(others)


def _print_error(message: str) -> None:
    for line in message.split("\n"):
        # A message may quote a received value of any length. It is cut last: half a key is not seen as one.
        text = shown(line)
        end = "" if len(text) <= _LONGEST_LINE else f" ... ({len(text)} characters)"
        echo(f"segray: {text[:_LONGEST_LINE]}{end}", err=True)


def _print_unexpected(error: Exception, debug: bool) -> None:
    if debug or os.environ.get("SEGRAY_DEBUG", "") not in ("", "0"):
        echo("".join(traceback.format_exception(error)).rstrip(), err=True)
        return
    message = " ".join(str(error).split())[:300]
    _print_error(f"unexpected {type(error).__name__}: {message} (--debug shows the traceback)")


if __name__ == "__main__":
    main()

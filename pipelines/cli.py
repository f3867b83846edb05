"""The command line: `segray VERB [config.yaml] key=value ...`.

Nothing heavy is imported before a verb is called, so that help comes at once.
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

from pipelines.errors import UserError

VERBS = {
    "demo": "Draw a picture book, label it, train: minutes on a CPU.",
    "annotate": "Label a pile of images with SAM and CLIP.",
    "relabel": "Relabel with new classes, prompts or threshold, without SAM.",
    "train": "Train a network on a few masks and many zero-shot labels.",
    "tune": "Search tau, epsilon or any key of train, split by split.",
    "predict": "Label images with a trained network: masks and overlays.",
    "verify": "Check that a label set is whole, and mend it.",
    "evaluate": "Compare labels or predictions with true masks: IoU and mIoU.",
    "report": "Make report.html of a label set or a training run.",
    "picture-book": "Draw picture-book scenes with exact masks.",
    "samples": "Write a few real photographs to try annotation on.",
    "plan": "Estimate time, price and size of annotate from a few images.",
    "doctor": "Check versions, GPUs, cluster, storage, authentication.",
    "submit": "Run a verb on a cluster as a job, and follow it.",
}
"""Every verb with its one line of help; `pipelines.config.settings.VERBS` has their configurations."""

_MODULES = {"tune": "tuning.search"}
"""Where a verb is that is no module of its name in `pipelines`."""
_PACKAGES = ("models", "pipelines", "tuning")
_HELP = {"help_option_names": ["-h", "--help"]}


class _Lines(logging.Handler):
    """Log records as plain lines on whatever stderr is at the time."""

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(self.format(record), err=True)


class _Verb(click.Command):
    """A command whose arguments are a configuration file and key=value words."""

    def __init__(self, name: str) -> None:
        words = click.Argument(["words"], nargs=-1, type=click.UNPROCESSED)
        debug = click.Option(["--debug"], is_flag=True, help="Show the traceback of an unexpected error.")
        super().__init__(
            name,
            params=[words, debug],
            callback=lambda words, debug: _run(name, words, debug),
            help=VERBS[name],
            context_settings={**_HELP, "ignore_unknown_options": True},
        )

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_usage(ctx.command_path, "[config.yaml] key=value ...")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from pipelines.config.help import help_text
        from pipelines.config.settings import VERBS as CONFIGS

        formatter.write(f"\nKeys, in config.yaml or as key=value:\n{help_text(CONFIGS[self.name or ''])}\n")
        super().format_options(ctx, formatter)


class _Segray(click.Group):
    """The verbs, in the order in which one meets them; underscores do for hyphens."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's signature
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:  # noqa: ARG002
        name = cmd_name.replace("_", "-")
        if name not in VERBS:
            near = get_close_matches(name, VERBS, n=1)
            hint = f"; did you mean {near[0]}?" if near else f" (allowed: {', '.join(VERBS)})"
            raise UserError(f"unknown verb {cmd_name}{hint}")
        return _Verb(name)


@click.group(cls=_Segray, context_settings=_HELP)
@click.version_option(package_name="segray", message="%(prog)s %(version)s")
def segray() -> None:
    """From many images and few labels to a semantic segmentation model: SAM and CLIP annotate, Ray scales.

    `segray demo` shows it all; `segray VERB --help` lists a verb's keys.
    """


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line and exit.

    Statuses: 0 done, 1 unexpected, 2 bad input, 3 too many bad images, 4 output in use, 130 stopped.
    """
    words = list(sys.argv[1:] if args is None else args) or ["--help"]
    try:
        sys.exit(segray.main(words, prog_name="segray", standalone_mode=False))
    except UserError as error:
        _complain(str(error))
        sys.exit(error.exit_code)
    except click.ClickException as error:
        _complain(error.format_message())
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        _complain("stopped")
        sys.exit(130)
    except Exception as error:  # noqa: BLE001  the last handler: a bug is told in one line too
        _confess(error, debug="--debug" in words)
        sys.exit(1)


def _run(name: str, words: Sequence[str], debug: bool) -> None:
    if name == "submit":
        _log_to_stderr(debug)
        # Most of its words are another verb's.
        import_module("pipelines.submit").run(words)
        return
    from pipelines.config.loading import load, split_source
    from pipelines.config.paths import absolute, joins_cluster
    from pipelines.config.settings import VERBS as CONFIGS

    config = load(CONFIGS[name], *split_source(words))
    if joins_cluster(config):
        # Its processes stand in another folder.
        config = absolute(config)
    _log_to_stderr(debug)
    import_module(module_of(name)).run(config)


def module_of(verb: str) -> str:
    """The module whose `run` is behind a verb."""
    return _MODULES.get(verb, f"pipelines.{verb.replace('-', '_')}")


def _log_to_stderr(debug: bool) -> None:
    for package in _PACKAGES:
        logger = logging.getLogger(package)
        logger.setLevel(logging.DEBUG if debug else logging.INFO)
        if not logger.handlers:
            logger.addHandler(_Lines())


def _complain(message: str) -> None:
    for line in message.splitlines():
        click.echo(f"segray: {line}", err=True)


def _confess(error: Exception, debug: bool) -> None:
    if debug or os.environ.get("SEGRAY_DEBUG", "") not in ("", "0"):
        traceback.print_exception(error)
        return
    said = " ".join(str(error).split())[:300]
    _complain(f"unexpected {type(error).__name__}: {said} (--debug shows the traceback)")


if __name__ == "__main__":
    main()

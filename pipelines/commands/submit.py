"""`segray submit VERB ...`: a verb as a job of a Ray cluster, over Ray's own job submission.

The code and the checked configuration travel with the job; images and outputs do not.
"""

from __future__ import annotations

import shlex
import shutil
import sys
import tempfile
import uuid
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click

import segray
from segray.pipelines.config.command_table import COMMANDS
from segray.pipelines.config.commands.registry import SubmitConfig
from segray.pipelines.config.loading import dump, load, split_source
from segray.pipelines.config.paths import absolute, is_file
from segray.pipelines.config.schema import Config, keys
from segray.pipelines.engine.jobs import follow, one_line, open_client, resume_hint, when_ready
from segray.pipelines.errors import UserError

CONFIG = "config.yaml"
_NOT_JOBS = {"submit", "demo", "samples"}


def run(words: Sequence[str]) -> None:
    """Submit a verb, or follow or stop a job; the process ends with the job's exit status.

    Raises:
        UserError: bad input, no cluster at the address, or the token is refused (2).
        SystemExit: the job has ended, with its status.
    """
    config, rest = split_words(words)
    if config.id is not None:
        if rest:
            raise UserError(f"id={config.id} names a job that runs already; {rest[0]} has no meaning with it")
        _take_up(config)
        return
    if config.stop:
        raise UserError("stop: give id=JOB too")
    verb, verb_config = check_command(rest)
    client = open_client(config.address)
    job = f"segray-{verb}-{uuid.uuid4().hex[:8]}"
    _submit(client, job, verb, verb_config)
    click.echo(f"job {job} on {client.get_address()}", err=True)
    if config.follow:
        sys.exit(follow(client, job))
    click.echo(resume_hint(job), err=True)


def split_words(words: Sequence[str]) -> tuple[SubmitConfig, list[str]]:
    """The words that are submit's own, as its configuration, and the verb with its words.

    Raises:
        UserError: a value that its key does not take.
    """
    own = [word for word in words if _name(word) in keys(SubmitConfig) and ("=" in word or word[:1] == "-")]
    rest = [word for word in words if word not in own and word != "--debug"]
    return load(SubmitConfig, None, own), rest


def _name(word: str) -> str:
    return word.lstrip("-").partition("=")[0]


def check_command(words: Sequence[str]) -> tuple[str, Config]:
    """The verb and its checked configuration, as the job will have it: whole, and with absolute paths.

    Raises:
        UserError: no verb, an unknown one, or a mistake in its configuration.
    """
    allowed = [name for name in COMMANDS if name not in _NOT_JOBS]
    if not words or "=" in words[0] or words[0].startswith("-"):
        raise UserError(f"which verb? segray submit VERB key=value ... (allowed: {', '.join(allowed)})")
    verb = words[0].replace("_", "-")
    if verb not in allowed:
        near = get_close_matches(verb, allowed, n=1)
        hint = f"; did you mean {near[0]}?" if near else f" (allowed: {', '.join(allowed)})"
        raise UserError(f"no job for a cluster: {words[0]}{hint}")
    config = absolute(load(COMMANDS[verb].config(), *split_source(words[1:])))
    # Within a job Ray itself says where the cluster is.
    return verb, config.model_copy(update={"address": None}) if "address" in keys(type(config)) else config


def _submit(client: Any, job: str, verb: str, config: Config) -> None:
    from ray.exceptions import AuthenticationError

    with (
        tempfile.TemporaryDirectory(prefix="segray-job-") as folder,
        tempfile.TemporaryDirectory(prefix="segray-code-") as code,
    ):
        shipped = ship(config, Path(folder))
        (Path(folder) / CONFIG).write_text(dump(shipped), encoding="utf-8")
        try:
            when_ready(
                lambda: client.submit_job(
                    entrypoint=shlex.join(["python", "-m", "segray.pipelines.cli", verb, CONFIG]),
                    submission_id=job,
                    runtime_env={
                        "working_dir": folder,
                        "py_modules": [str(_package_copy(Path(code)))],
                        "excludes": ["**/__pycache__/**"],
                        "env_vars": {"PYTHONUNBUFFERED": "1"},
                    },
                    metadata={"segray": verb},
                )
            )
        except (RuntimeError, AuthenticationError, ConnectionError) as error:
            raise UserError(f"the job was not taken: {one_line(error)}", exit_code=1) from error


def ship(config: Config, folder: Path) -> Config:
    """Copy a file with class names into the job's folder; the configuration that names the copy."""
    classes = getattr(config, "classes", None)
    if not isinstance(classes, str) or not is_file(classes):
        return config
    shutil.copyfile(classes, folder / "classes.txt")
    return config.model_copy(update={"classes": "classes.txt"})


def _package_copy(folder: Path) -> Path:
    """The package as plain files: in a checkout its parts are links, which Ray's upload does not follow."""
    copy = folder / "segray"
    shutil.copytree(Path(segray.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def _take_up(config: SubmitConfig) -> None:
    client = open_client(config.address)
    job = str(config.id)
    try:
        client.get_job_info(job)
        if config.stop:
            client.stop_job(job)
    except RuntimeError as error:
        raise UserError(f"id: no job {job} on {client.get_address()} ({one_line(error)})") from error
    if config.stop:
        click.echo(f"job {job} is asked to stop", err=True)
    sys.exit(follow(client, job))

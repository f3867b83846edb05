"""`segray submit COMMAND ...`: run a command as a job on a Ray cluster, through Ray's job submission.

The code and the validated configuration travel with the job; images and outputs do not.
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
from typing import TYPE_CHECKING

import segray
from segray.pipelines.config.command_table import COMMANDS
from segray.pipelines.config.commands.submit import SubmitConfig
from segray.pipelines.config.loading import dump, load, split_source
from segray.pipelines.config.paths import absolute, is_file
from segray.pipelines.config.schema import Config, keys
from segray.pipelines.engine.dashboard import UNUSABLE, UnansweredPostError, reason
from segray.pipelines.engine.jobs import follow, open_client, resume_hint, when_ready
from segray.pipelines.errors import UserError
from segray.pipelines.printing import echo

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

CONFIG = "config.yaml"
_KEPT_HERE = (
    *("__pycache__", ".*", "*.pem", "*.key", "*.p12", "*.pfx"),
    *("id_rsa*", "id_ed25519*", "*credentials*.json"),
)
"""What a checkout may hold besides the package: caches, hidden files such as `.env`, and keys."""
_NOT_JOBS = {"submit", "demo", "samples"}


def run(arguments: Sequence[str]) -> None:
    """Submit a command, or follow or stop a job; the process ends with the exit status of the job.

    Raises:
        UserError: bad input, no cluster at the address, or the token is refused (2).
        SystemExit: the job has ended, with its status.
    """
    config, rest = split_overrides(arguments)
    if config.id is not None:
        if rest:
            raise UserError(f"id={config.id} names a running job; remove {rest[0]}")
        _follow_or_stop(config)
        return
    if config.stop:
        raise UserError("stop: give id=JOB too")
    command, command_config = check_command(rest)
    client = open_client(config.address)
    job = f"segray-{command}-{uuid.uuid4().hex[:8]}"
    _submit(client, job, command, command_config)
    echo(f"job {job} on {client.get_address()}", err=True)
    if config.follow:
        sys.exit(follow(client, job))
    echo(resume_hint(job), err=True)


def split_overrides(arguments: Sequence[str]) -> tuple[SubmitConfig, list[str]]:
    """The configuration of submit itself, and the command to run with its own arguments.

    Raises:
        UserError: a value that its key does not accept.
    """
    known = keys(SubmitConfig)
    submit = [text for text in arguments if _key(text) in known and ("=" in text or text[:1] == "-")]
    rest = [text for text in arguments if text not in submit and text != "--debug"]
    return load(SubmitConfig, None, submit), rest


def _key(override: str) -> str:
    return override.lstrip("-").partition("=")[0]


def check_command(arguments: Sequence[str]) -> tuple[str, Config]:
    """The command and its configuration as the job will have it: complete, and with absolute paths.

    Raises:
        UserError: no command, an unknown one, or an error in its configuration.
    """
    allowed = [name for name in COMMANDS if name not in _NOT_JOBS]
    if not arguments or "=" in arguments[0] or arguments[0].startswith("-"):
        usage = "segray submit COMMAND key=value ..."
        raise UserError(f"which command? {usage} (allowed: {', '.join(allowed)})")
    command = arguments[0].replace("_", "-")
    if command not in allowed:
        near = get_close_matches(command, allowed, n=1)
        hint = f"; did you mean {near[0]}?" if near else f" (allowed: {', '.join(allowed)})"
        raise UserError(f"cannot run as a job: {arguments[0]}{hint}")
    config = absolute(load(COMMANDS[command].config(), *split_source(arguments[1:])))
    if "address" in keys(type(config)):
        # Inside a job Ray itself knows the address of its cluster.
        config = config.model_copy(update={"address": None})
    return command, config


def _submit(client: JobSubmissionClient, job: str, command: str, config: Config) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="segray-job-") as folder,
        tempfile.TemporaryDirectory(prefix="segray-code-") as code,
    ):
        shipped = ship(config, Path(folder))
        (Path(folder) / CONFIG).write_text(dump(shipped, set_only=True), encoding="utf-8")
        package = _package_copy(Path(code))
        try:
            when_ready(
                lambda: client.submit_job(
                    entrypoint=shlex.join(["python", "-m", "segray", command, CONFIG]),
                    submission_id=job,
                    runtime_env={
                        "working_dir": folder,
                        "py_modules": [str(package)],
                        "excludes": ["**/__pycache__/**"],
                        "env_vars": {"PYTHONUNBUFFERED": "1"},
                    },
                    metadata={"segray": command},
                )
            )
        except UNUSABLE as error:
            raise _not_started(job, error) from error


def _not_started(job: str, error: Exception) -> UserError:
    """The cluster refused the job, or did not say in time whether it started it."""
    problem = f"the cluster refused the job: {reason(error)}"
    if isinstance(error, UnansweredPostError):
        problem = f"job {job} may have been started ({reason(error)})\n{resume_hint(job)}"
    return UserError(problem, exit_code=1)


def ship(config: Config, folder: Path) -> Config:
    """Copy a file with class names into the folder of the job, and return a configuration with that copy."""
    classes = getattr(config, "classes", None)
    if not isinstance(classes, str) or not is_file(classes):
        return config
    shutil.copyfile(classes, folder / "classes.txt")
    return config.model_copy(update={"classes": "classes.txt"})


def _package_copy(folder: Path) -> Path:
    """The package as plain files: a checkout has links in it, and Ray's upload does not follow links."""
    copy = folder / "segray"
    shutil.copytree(Path(segray.__file__).parent, copy, ignore=shutil.ignore_patterns(*_KEPT_HERE))
    return copy


def _follow_or_stop(config: SubmitConfig) -> None:
    client = open_client(config.address)
    job = str(config.id)
    try:
        client.get_job_info(job)
        if config.stop:
            client.stop_job(job)
    except UNUSABLE as error:
        raise UserError(f"id: no job {job} on {client.get_address()} ({reason(error)})") from error
    if config.stop:
        echo(f"asked job {job} to stop", err=True)
    sys.exit(follow(client, job))

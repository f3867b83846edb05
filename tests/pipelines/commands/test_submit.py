"""`segray submit`: what is checked before, and jobs on a head that asks for a token."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import segray
from segray.pipelines.commands.submit import (
    _package_copy,
    _submit,
    check_command,
    run,
    ship,
    split_overrides,
)
from segray.pipelines.config.commands.annotate import AnnotateConfig
from segray.pipelines.config.commands.verify import VerifyConfig
from segray.pipelines.config.loading import dump, load
from segray.pipelines.engine import jobs
from segray.pipelines.engine.dashboard import UnansweredPostError
from segray.pipelines.errors import UserError
from tests.pipelines.ray_heads import PATIENCE_S, Head
from tests.processes import ctrl_c_is_heard

ROOT = Path(__file__).parents[3]


def test_overrides_of_submit_and_of_the_command_are_separated() -> None:
    submit = ["address=http://h:8265", "--follow=no", "--debug"]
    arguments = ["annotate", "my.yaml", "images=x", *submit, "out=y"]
    config, rest = split_overrides(arguments)
    assert (config.address, config.follow, config.id, config.stop) == ("http://h:8265", False, None, False)
    assert rest == ["annotate", "my.yaml", "images=x", "out=y"]


def test_the_job_gets_the_whole_configuration_with_absolute_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("weights.pth").write_bytes(b"")
    Path("my.yaml").write_text("images: photos\nclasses: voc\nsam: {weights: weights.pth}\naddress: auto\n")
    command, config = check_command(["annotate", "my.yaml", "out=s3://bucket/labels", "clip.weights=openai"])
    assert isinstance(config, AnnotateConfig)
    assert command == "annotate"
    assert config.images == str(tmp_path / "photos")
    assert config.sam.weights == str(tmp_path / "weights.pth")
    assert (config.out, config.clip.weights) == ("s3://bucket/labels", "openai")
    assert config.address is None
    (tmp_path / "job.yaml").write_text(dump(config, set_only=True))
    there = load(AnnotateConfig, "job.yaml")
    assert there == config
    # Some commands ask whether a key was set.
    assert there.model_fields_set == config.model_fields_set
    assert there.sam.model_fields_set == config.sam.model_fields_set
    assert "threshold" not in there.label.model_fields_set


def test_what_is_private_in_a_checkout_does_not_travel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "checkout" / "segray"
    (package / "io").mkdir(parents=True)
    private = [".env", ".env.local", "server.pem", "id_rsa", "credentials.json", ".netrc"]
    for name in ["__init__.py", "io/credentials.py", *private, *(f"io/{name}" for name in private)]:
        (package / name).write_text("")
    (package / ".git").mkdir()
    monkeypatch.setattr(segray, "__file__", str(package / "__init__.py"))
    copy = _package_copy(tmp_path)
    files = {str(file.relative_to(copy)) for file in copy.rglob("*") if file.is_file()}
    assert files == {"__init__.py", "io/credentials.py"}
    assert not (copy / ".git").exists()


def test_a_file_of_class_names_travels_with_the_job(tmp_path: Path) -> None:
    names, job = tmp_path / "names.txt", tmp_path / "job"
    names.write_text("cat\ndog\n")
    job.mkdir()
    config = load(AnnotateConfig, None, ["images=x", "out=y", f"classes={names}"])
    shipped = ship(config, job)
    assert isinstance(shipped, AnnotateConfig)
    assert (job / str(shipped.classes)).read_text() == "cat\ndog\n"
    plain = load(AnnotateConfig, None, ["images=x", "out=y", "classes=voc"])
    assert ship(plain, job) == plain


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "which command?"),
        (["images=x"], "which command?"),
        (["anotate", "images=x"], "cannot run as a job: anotate; did you mean annotate?"),
        (["submit", "submit"], "cannot run as a job: submit"),
        (["annotate", "imges=x"], "unknown key imges; did you mean images?"),
        (["annotate", "images=x"], "out: required"),
        (["stop=true"], "stop: give id=JOB too"),
        (["id=x", "annotate"], "id=x names a running job; remove annotate"),
        (["annotate", "follow=maybe"], "follow: 'maybe'"),
    ],
)
def test_mistakes_are_reported_before_anything_is_sent(arguments: list[str], line: str) -> None:
    with pytest.raises(UserError) as caught:
        run(arguments)
    assert caught.value.exit_code == 2
    assert str(caught.value).startswith(line)


def test_without_a_server_it_is_one_line(tmp_path: Path) -> None:
    done = _segray(["submit", "verify", "out=x", "address=http://127.0.0.1:9"], _plain(tmp_path), tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("segray: address=http://127.0.0.1:9: nobody listens there (")


# On a head that asks for a token


def _plain(home: Path) -> dict[str, str]:
    return {**{k: v for k, v in os.environ.items() if not k.startswith("RAY_")}, "HOME": str(home)}


def _segray(words: list[str], environment: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    """The command line of this checkout, from another folder."""
    return subprocess.run(
        [sys.executable, "-m", "segray.pipelines.cli", *words],
        env={**environment, "PYTHONPATH": str(ROOT)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_head_that_is_not_ready_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class Client:
        asked = 0

        def submit_job(self, **_: object) -> None:
            self.asked += 1
            if self.asked < 3:
                raise RuntimeError("No available agent to submit job, please try again later.")

    monkeypatch.setattr(jobs, "_PAUSE_S", 0)
    client = Client()
    _submit(client, "id", "verify", load(VerifyConfig, None, ["out=x"]))
    assert client.asked == 3


def test_a_job_that_may_have_been_started_is_named_with_the_commands_for_it() -> None:
    class Client:
        def submit_job(self, **_: object) -> None:
            raise UnansweredPostError("no whole answer within 300 s")

    with pytest.raises(UserError) as caught:
        _submit(Client(), "id", "verify", load(VerifyConfig, None, ["out=x"]))
    line = "job id may have been started (no whole answer within 300 s)"
    assert str(caught.value) == f"{line}\n{jobs.resume_hint('id')}"
    assert caught.value.exit_code == 1


@pytest.mark.ray
@pytest.mark.slow
def test_a_job_runs_there_with_the_code_from_here(head: Head, tmp_path: Path) -> None:
    words = ["submit", "picture-book", "out=book", "n=3", f"address={head.dashboard}"]
    done = _segray(words, head.environment(), tmp_path)
    assert done.returncode == 0, done.stderr
    assert "3 scenes" in done.stdout
    assert len(list((tmp_path / "book" / "images").rglob("*.png"))) == 3
    assert re.fullmatch(r"job segray-picture-book-\w+ on http://\S+", done.stderr.strip())
    shipped = head.home.parent.rglob("py_modules_files/*/*/__init__.py")
    assert {path.parent.name for path in shipped} == {"segray"}


@pytest.mark.ray
@pytest.mark.slow
def test_its_exit_status_is_that_of_the_command(head: Head, tmp_path: Path) -> None:
    done = _segray(
        ["submit", "verify", "out=nothing", f"address={head.dashboard}"], head.environment(), tmp_path
    )
    assert done.returncode == 2
    assert f"segray: {tmp_path}/nothing: no label set here" in done.stdout
    assert done.stderr.splitlines()[-1].endswith("failed: status 2")


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(("token", "said"), [("", "Missing"), ("f" * 64, "Invalid")])
def test_without_the_token_it_is_refused(head: Head, tmp_path: Path, token: str, said: str) -> None:
    words = ["submit", "picture-book", "out=book", "n=3", f"address={head.dashboard}"]
    done = _segray(words, head.environment(token), tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"segray: {head.dashboard} refuses the token (")
    assert f"{said} authentication token" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.ray
@pytest.mark.slow
def test_ctrl_c_leaves_the_job_alone_and_says_how_to_follow_it(head: Head, tmp_path: Path) -> None:
    words = ["submit", "picture-book", "out=book", "n=100000", f"address={head.dashboard}"]
    with ctrl_c_is_heard():
        process = subprocess.Popen(
            [sys.executable, "-m", "segray.pipelines.cli", *words],
            env={**head.environment(), "PYTHONPATH": str(ROOT)},
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
    _wait_for(lambda: any(tmp_path.rglob("*.png")))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    job = re.search(r"job (\S+) is still running", err)
    assert job is not None
    assert f"segray submit id={job[1]} stop=true   stops it" in err
    count = len(list(tmp_path.rglob("*.png")))
    _wait_for(lambda: len(list(tmp_path.rglob("*.png"))) > count)
    stop = ["submit", f"id={job[1]}", "stop=true", f"address={head.dashboard}"]
    assert _segray(stop, head.environment(), tmp_path).returncode == 130
    done = _segray(["submit", "id=gone", f"address={head.dashboard}"], head.environment(), tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"segray: id: no job gone on {head.dashboard}")


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)

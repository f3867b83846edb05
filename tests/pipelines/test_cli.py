from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest

from segray.pipelines import cli
from segray.pipelines.config.command_table import COMMANDS
from segray.pipelines.config.commands.verify import VerifyConfig
from segray.pipelines.config.schema import Config, keys
from segray.pipelines.errors import UserError

Result = tuple[int, str, str]


@pytest.fixture
def segray(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Runs the command line: exit status, stdout, stderr."""

    def run(*arguments: str) -> Result:
        with pytest.raises(SystemExit) as caught:
            cli.main(arguments)
        out, err = capsys.readouterr()
        code = caught.value.code
        return code if isinstance(code, int) else 0, out, err

    return run


@pytest.fixture
def verify_does(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[Config], None]], None]]:
    """Puts another program behind `segray verify`."""
    logger = logging.getLogger("segray")
    level, handlers = logger.level, list(logger.handlers)
    yield lambda program: monkeypatch.setitem(
        sys.modules,
        "segray.pipelines.commands.verify",
        SimpleNamespace(run=program),
    )
    logger.setLevel(level)
    logger.handlers[:] = handlers


def failing(error: BaseException) -> Callable[[Config], None]:
    def program(_: Config) -> None:
        raise error

    return program


def test_help_and_errors_load_nothing_heavy(tmp_path: Path) -> None:
    program = (
        "import sys, segray.pipelines.cli as cli\n"
        "for words in (['--help'], ['annotate', '--help'], ['annotate', 'sam.modle=x'], ['--version']):\n"
        "    try: cli.main(words)\n"
        "    except SystemExit as end: print('status', end.code)\n"
        "print('heavy', sorted({'torch', 'ray', 'pyarrow', 'numpy', 'PIL'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert [line for line in done.stdout.splitlines() if line.startswith(("status", "heavy"))] == [
        "status 0",
        "status 0",
        "status 2",
        "status 0",
        "heavy []",
    ]
    assert done.stderr.splitlines()[0] == "segray: unknown key sam.modle; did you mean sam.model?"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",)])
def test_help_lists_every_command(segray: Callable[..., Result], words: tuple[str, ...]) -> None:
    code, out, err = segray(*words)
    assert (code, err) == (0, "")
    listed = [line.split()[0] for line in out.partition("Commands:\n")[2].splitlines()]
    assert listed == list(COMMANDS)
    assert "..." not in out.partition("Commands:\n")[2]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_shows_every_key(segray: Callable[..., Result], command: str) -> None:
    code, out, _ = segray(command, "--help")
    assert code == 0
    flat = " ".join(out.split())
    for key in keys(COMMANDS[command].config()).values():
        assert f" {key.name} " in flat
        assert key.help in flat
    assert max(map(len, out.splitlines())) <= 100


def test_help_of_a_command_shows_types_and_defaults(segray: Callable[..., Result]) -> None:
    flat = " ".join(segray("annotate", "--help")[1].split())
    assert "images text or list [required] Folder, glob," in flat
    assert "sam.model one of builtin, vit_b, vit_l, vit_h, sam2.1_hiera_tiny," in flat
    assert "eomt_large, none [default: vit_b]" in flat
    assert "sam.points_per_side whole number, 1 to 256, or null [default: null]" in flat
    assert "embed_images true or false [default: false]" in flat


def test_version(segray: Callable[..., Result]) -> None:
    assert segray("--version") == (0, f"segray {version('segray')}\n", "")


def test_the_command_gets_the_whole_configuration(
    segray: Callable[..., Result], verify_does: Callable[..., None], tmp_path: Path
) -> None:
    given: list[Config] = []
    verify_does(given.append)
    file = tmp_path / "verify.yaml"
    file.write_text("out: from the file\nrepair: true\n", encoding="utf-8")
    assert segray("verify", str(file)) == (0, "", "")
    assert segray("verify", str(file), "out=x y", "repair=no") == (0, "", "")
    assert segray("verify", "--repair", "out=-z") == (0, "", "")
    assert given == [
        VerifyConfig(out="from the file", repair=True),
        VerifyConfig(out="x y", repair=False),
        VerifyConfig(out="-z", repair=True),
    ]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("anotate",), "unknown command anotate; did you mean annotate?"),
        (("xyz",), f"unknown command xyz (allowed: {', '.join(COMMANDS)})"),
        (("--colour",), "No such option '--colour'."),
        (("verify", "gone.yaml"), "no configuration file 'gone.yaml'; values are given as key=value"),
        (("verify", "out=x", "--repiar"), "unknown key repiar; did you mean repair?"),
        (("picture_book",), "out: required, give out=DIR"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    segray: Callable[..., Result], words: tuple[str, ...], line: str
) -> None:
    assert segray(*words) == (2, "", f"segray: {line}\n")


def test_every_mistake_has_its_line(segray: Callable[..., Result]) -> None:
    code, _, err = segray("evaluate", "ignore_index=x")
    assert code == 2
    assert err.splitlines() == [
        "segray: masks: required, give masks=FOLDER",
        "segray: ignore_index: 'x' is not a whole number (allowed: 0 to 65535)",
    ]


@pytest.mark.parametrize("status", [2, 3, 4])
def test_a_user_error_keeps_its_status(
    segray: Callable[..., Result], verify_does: Callable[..., None], status: int
) -> None:
    verify_does(failing(UserError("x: in use", exit_code=status)))
    assert segray("verify", "out=x") == (status, "", "segray: x: in use\n")


def test_a_message_cannot_command_the_terminal(
    segray: Callable[..., Result], verify_does: Callable[..., None]
) -> None:
    def program(_: Config) -> None:
        logging.getLogger("segray.anything").warning("class \x1b[2J\nBäume")
        raise UserError("no class \x1b]0;title\x07 in x\ny: \u202ewrong")

    verify_does(program)
    code, _, err = segray("verify", "out=x")
    assert code == 2
    assert err == (
        "class \\x1b[2J\nBäume\nsegray: no class \\x1b]0;title\\x07 in x\nsegray: y: \\u202ewrong\n"
    )


def test_a_message_cannot_flood_the_terminal(
    segray: Callable[..., Result], verify_does: Callable[..., None]
) -> None:
    verify_does(failing(UserError(f"images=s3://KEY:SECRET@bucket/{'a' * 100_000} is refused")))
    code, _, err = segray("verify", "out=x")
    assert code == 2
    assert "SECRET" not in err
    assert len(err) < 4100
    assert err.endswith("characters)\n")


def test_a_stop_is_status_130(segray: Callable[..., Result], verify_does: Callable[..., None]) -> None:
    verify_does(failing(KeyboardInterrupt()))
    assert segray("verify", "out=x") == (130, "", "\nsegray: stopped\n")


def test_a_bug_is_one_line(segray: Callable[..., Result], verify_does: Callable[..., None]) -> None:
    verify_does(failing(KeyError("first\nsecond")))
    code, out, err = segray("verify", "out=x")
    assert (code, out) == (1, "")
    assert err == "segray: unexpected KeyError: 'first\\nsecond' (--debug shows the traceback)\n"


@pytest.mark.parametrize(("value", "shown"), [("1", True), ("0", False), ("", False)])
def test_a_bug_shows_its_traceback_where_asked(
    segray: Callable[..., Result],
    verify_does: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    value: str,
    shown: bool,
) -> None:
    verify_does(failing(RuntimeError("broken")))
    assert "Traceback" in segray("verify", "out=x", "--debug")[2]
    monkeypatch.setenv("SEGRAY_DEBUG", value)
    code, _, err = segray("verify", "out=x")
    assert code == 1
    assert ("Traceback" in err) is shown


def test_what_the_verb_logs_is_seen_once(
    segray: Callable[..., Result], verify_does: Callable[..., None]
) -> None:
    logger = logging.getLogger("segray.pipelines.anything")

    def program(_: Config) -> None:
        logger.info("3 of 4 images")
        logger.debug("detail")

    verify_does(program)
    assert segray("verify", "out=x")[2] == "3 of 4 images\n"
    assert segray("verify", "out=x", "--debug")[2] == "3 of 4 images\ndetail\n"


def test_a_line_is_printed_once_whatever_libraries_log(tmp_path: Path) -> None:
    program = (
        "import logging\n"
        "from segray.pipelines import cli\n"
        "from segray.pipelines.config.command_table import COMMANDS\n"
        "class Command:\n"
        "    @staticmethod\n"
        "    def run(config):\n"
        "        logging.info('of a library')\n"
        "        logging.getLogger('segray.models').warning('downloading')\n"
        "        logging.getLogger('library').warning('take care')\n"
        "cli.import_module = lambda name: Command\n"
        "cli.main(['verify', 'out=x'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.stderr.splitlines() == ["downloading", "take care"]

"""Names and records that are made to harm whoever prints them, or opens them in a spreadsheet."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segray.models.label_space import label_space
from segray.pipelines.commands import plan, report, verify
from segray.pipelines.config.commands.plan import PlanConfig
from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.config.commands.verify import VerifyConfig
from segray.pipelines.errors import UserError
from segray.pipelines.io.lock_record import parse_record
from segray.pipelines.io.run_lock import RunLock
from segray.pipelines.io.uris import redacted
from segray.pipelines.label_set.schema import provenance_of
from segray.pipelines.label_set.store import LabelStore, write_part
from segray.pipelines.masks.color_table import open_color_table
from segray.pipelines.printing import csv_text, echo
from segray.pipelines.reporting.evaluation import Evaluation, to_csv
from segray.pipelines.reporting.training import history
from segray.pipelines.training.auto_precision import recorded_precision
from segray.pipelines.training.data.class_names import configured_space
from segray.pipelines.training.run_folder import RunFolder
from tests.faults.runs import segray
from tests.pipelines.label_sets import PROVENANCE, error_row, ok_row, tables, write_manifest
from tests.processes import REPOSITORY

ESCAPES = ["\x1b[2Jcat", "cat\x07", "c\rat", "cat\x9b31m", "\u202ecat", "cat\u2028dog"]


@pytest.mark.parametrize("name", ESCAPES)
def test_a_class_name_that_a_terminal_obeys_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="has control characters"):
        label_space(["dog", name])
    record = {**PROVENANCE, "classes": ["background", name]}
    write_part(str(tmp_path), *tables([ok_row("a")], provenance=record))
    with pytest.raises(UserError, match="not a name without control characters"):
        _ = LabelStore(str(tmp_path)).provenance


def test_names_of_all_languages_are_kept() -> None:
    names = ["Bäume", "日本", "نیم‌فاصله", "a b", "e\u0301"]
    assert label_space(names).classes[1:] == tuple(names)


def test_what_a_label_set_says_is_printed_visibly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_part(str(tmp_path), *tables([error_row("a\x1b]0;owned\x07.jpg", error="")]))
    write_manifest(str(tmp_path), ["b\x1b[2J"])
    assert segray("verify", f"out={tmp_path}") == 1
    seen = capsys.readouterr()
    assert "a\\x1b]0;owned\\x07.jpg" in seen.out
    assert "\x1b" not in seen.out + seen.err


@pytest.mark.parametrize(
    "change",
    [
        {"palette": [[0, 0, 0]] * 65_537},
        {"palette": [[0, 0, 256]]},
        {"palette": [[0, 0]]},
        {"palette": "red"},
        {"palette": [[1e999, 0, 0]]},
        {"classes": [f"class {i}" for i in range(65_537)]},
        {"classes": {"a": 1}},
        {"classes": [1]},
        {"sam": -1},
        {"clip": [1]},
        {"config": "x"},
        {"ignore_index": 10**30},
        {"ignore_index": "255"},
    ],
)
def test_records_of_another_form_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    labels, segments = tables([ok_row("a")])
    record = json.dumps({**PROVENANCE, **change})
    labels, segments = (
        table.replace_schema_metadata({**table.schema.metadata, b"segray": record.encode()})
        for table in (labels, segments)
    )
    write_part(str(tmp_path), labels, segments)
    write_manifest(str(tmp_path), ["a"])
    with pytest.raises(UserError, match=r"cannot read|is damaged"):
        report.build(str(tmp_path))
    (problem, *_) = verify.verify(str(tmp_path)).problems
    assert "not a label set's schema" in problem.what
    with pytest.raises(UserError):
        verify.run(VerifyConfig(out=str(tmp_path)))
    with pytest.raises(ValueError, match=r"palette|class|ignore_index|not a mapping"):
        provenance_of(labels.schema)


@pytest.mark.parametrize(
    "content",
    [
        '{"pid": 1' + "0" * 30 + ', "heartbeat": 1' + "0" * 400 + "}",
        '{"pid": 1, "heartbeat": 1e999}',
        '{"pid": 1, "heartbeat": NaN}',
        '{"pid": "\\u001b[2J", "host": [], "heartbeat": {}}',
        "[" * 100_000,
        "[]",
    ],
)
def test_a_lock_of_any_content_is_an_old_lock(tmp_path: Path, content: str) -> None:
    record = parse_record(content.encode(), 0.0)
    assert record.age > 1e6
    assert "\x1b" not in record.who
    assert len(record.who) < 400
    (tmp_path / ".lock.json").write_text(content)
    os.utime(tmp_path / ".lock.json", (0, 0))
    with RunLock(str(tmp_path)):
        pass


@pytest.mark.parametrize(
    "name",
    [
        *("=HYPERLINK(1)", "+1+cmd", "-cmd|' /C calc'!A0", "@SUM(1)", "\t=1"),
        *(" =1", "\u00a0=1", "\ufeff=1", "\u200b@a", "\uff1d1", "\uff0b1+1", "\u22121+1"),
    ],
)
def test_a_formula_in_a_csv_file_is_text(name: str) -> None:
    assert csv_text(name) == f"'{name}"
    result = Evaluation(("background", name), np.eye(3, dtype=np.int64), 1)
    rows = list(csv.reader(io.StringIO(to_csv(result))))
    assert [row for row in rows if f"'{name}" in row]
    assert not [row for row in rows if name in row]
    assert [csv_text(c) for c in ("-1.5", "cat", 3, None, "\r=1")] == ["-1.5", "cat", 3, None, "\\r=1"]


@pytest.mark.parametrize(
    "uri",
    [
        *("https://h/x#access_token=WORD", "https://h/x%253Fsig%253DWORD", "https://h/x?token[]=WORD"),
        *("https://h/x?auth_key=WORD", "https://h/x?hdnts=exp=1~hmac=WORD", "https://h/x?oauth=WORD"),
        *('https://h/x?token="WORD"', "https://h/x?a=1;SIG=WORD", "https://user:w@WORD@h/x"),
    ],
)
def test_a_secret_in_other_words_is_redacted(uri: str) -> None:
    shown = redacted(f"cannot read {uri}, and more")
    assert "WORD" not in shown
    assert redacted(shown) == shown


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "text",
    ["?" + "token" * 200_000, "&" + "access_key" * 100_000, ("://" + "A" * 16 + ":") * 20_000],
    ids=["token", "access_key", "://"],
)
def test_a_megabyte_of_almost_secrets_is_searched_once(text: str) -> None:
    """With repetitions that have no end, each took hours."""
    assert redacted(text) == text
    assert redacted(f"{text} s3://KEY:word@b/x?token=word") == f"{text} s3://***@b/x?token=***"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classes.csv", "name\n" + "a" * 200_000),
        ("data.yaml", "names: " + "[" * 3_000),
        ("classes.json", "[" * 100_000),
    ],
)
def test_a_class_file_that_breaks_its_parser_is_refused_in_one_line(
    tmp_path: Path, name: str, text: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=rf"^data\.classes: .*{name}: not "):
        configured_space(str(tmp_path / name))


@pytest.mark.parametrize("text", ["x: " + "[" * 3_000, "[a, b]", "train: 7\nnetwork: []", "7"])
def test_a_configuration_of_a_received_run_of_any_form_is_refused_in_one_line(
    tmp_path: Path, text: str
) -> None:
    out = tmp_path / "run"
    (out / "checkpoints").mkdir(parents=True)
    (out / "config.yaml").write_text(text)
    (tmp_path / "labels").mkdir()
    assert recorded_precision(str(out)) is None
    with pytest.raises(UserError, match="is not the configuration of a training run"):
        RunFolder(TrainConfig.model_validate({"out": str(out), "data": {"root": str(tmp_path)}})).check()


LAUGHS = "a0: &a0 [x, y]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))
YAML = [
    *('!!int ""', '!!float ""', "!!bool x", "!!timestamp x", "2001-99-99", "{[1]: 2}"),
    *("!!python/object/apply:os.system [id]", "1" * 5000),
]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("value", [*YAML, "*a39"])
def test_yaml_that_breaks_its_reader_is_refused_in_one_line(tmp_path: Path, value: str) -> None:
    """Texts that PyYAML's own readers stumble over, and a name of a trillion parts in forty lines."""
    path = tmp_path / "data.yaml"
    for names in (f"[cat, {value}]", f"{{0: cat, 1: {value}}}"):
        path.write_text(f"{LAUGHS}names: {names}\n")
        with pytest.raises(
            UserError, match=r"^data\.classes: .*data\.yaml: (not YAML|a name that is a list)"
        ):
            configured_space(str(path))
    (tmp_path / "history.json").write_text("[]")
    (tmp_path / "config.yaml").write_text(f"{LAUGHS}out: {value}\n")
    assert history._config(str(tmp_path)) == (None, "config.yaml is not the configuration of a training run")
    assert recorded_precision(str(tmp_path)) is None


def test_a_class_file_of_a_million_lines_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text("".join(f"class {i}\n" for i in range(200_000)))
    with pytest.raises(UserError, match=r"classes\.txt: 200000 lines \(allowed: at most 131072\)"):
        configured_space(str(path))
    (tmp_path / "data.yaml").write_text("names:\n" + "- a\n" * 300_000)
    with pytest.raises(UserError, match=r"1200007 bytes of YAML \(allowed: at most 1048576\)"):
        configured_space(str(tmp_path / "data.yaml"))


@pytest.mark.parametrize("color", ["Infinity", "NaN", "1e999", '"x"', "{}", "[[1]]"])
def test_a_table_of_colours_that_are_no_numbers_is_refused(tmp_path: Path, color: str) -> None:
    (tmp_path / "colors.json").write_text(f'{{"cat": [{color}, 1, 2]}}')
    with pytest.raises(UserError, match=r"^data\.colors=.*colors\.json: "):
        open_color_table(str(tmp_path / "colors.json"), "data.colors")


RAW = {
    "pipelines/printing.py": 1,
    # The line of progress, whose text goes through `shown`; an address, headings.
    "pipelines/engine/progress.py": 2,
    "pipelines/commands/serve.py": 1,
    "pipelines/commands/demo.py": 1,
}


def test_all_that_is_printed_goes_through_one_function(capsys: pytest.CaptureFixture[str]) -> None:
    files = [path for name in ("pipelines", "tuning") for path in (REPOSITORY / name).rglob("*.py")]
    raw = re.compile(r"\bclick\.s?echo\(|(?<!\w)print\(")
    counts = {str(path.relative_to(REPOSITORY)): len(raw.findall(path.read_text())) for path in files}
    assert {name: count for name, count in counts.items() if count} == RAW
    echo("a\x1b]0;x\x07 https://h/x?sig=WORD\nb\u202e")
    assert capsys.readouterr().out == "a\\x1b]0;x\\x07 https://h/x?sig=***\nb\\u202e\n"


def test_names_and_reasons_of_a_probe_are_shown_in_one_line_each() -> None:
    bad = [("a\x1b[2J\nsegray: done", "error: \x9b31m")]
    config = PlanConfig.model_validate({"images": "photos", "out": "out", "classes": "tree"})
    lines = plan.plan_lines(config, plan.Pile(images=1), plan.Probe(1, bad, 0, {"read": 1.0}, "CPU core"))
    assert lines[-1] == "  a\\x1b[2J\\nsegray: done: error: \\x9b31m"

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from segray.pipelines.commands.verify import Problem, VerifyReport, damaged_parts, repair, run, verify
from segray.pipelines.config.commands.verify import VerifyConfig
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.label_png import encode_gray_png
from segray.pipelines.io.run_lock import RunLock
from segray.pipelines.label_set.part_files import damage
from segray.pipelines.label_set.store import LabelStore, part_name, write_part, write_run
from tests.faults.invariant import files
from tests.pipelines.label_sets import (
    HEIGHT,
    IDS,
    PROVENANCE,
    WIDTH,
    error_row,
    label_map,
    ok_row,
    segment_rows,
    tables,
    write_manifest,
    write_set,
)
from tests.pipelines.object_stores import s3_server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole label set."""
    write_set(tmp_path)
    return tmp_path


def _of(report: VerifyReport, part: str) -> list[str]:
    return [problem.what for problem in report.problems if problem.part == part]


@pytest.mark.parametrize("where", ["local", "flaky", "s3 with 503"])
def test_a_whole_set_has_no_problems(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def roots() -> Iterator[str]:
        if where.startswith("s3"):
            yield from s3_server(monkeypatch, 10)
        else:
            yield str(tmp_path) if where == "local" else f"{where}:/{tmp_path}"

    for root in roots():
        write_set(root)
        report = verify(root)
        assert report == VerifyReport(n_images=6, n_ok=5, n_error=1, n_skipped=0, problems=[])
        assert report.ok


# Whole files: what disks and hands do

FILE_FAULTS: list[tuple[str, Callable[[Path], Any], str]] = [
    ("emptied", lambda path: path.write_bytes(b""), "file: empty file"),
    ("truncated", lambda path: path.write_bytes(path.read_bytes()[:-1]), "file: truncated or not Parquet"),
    (
        "cut in half",
        lambda path: path.write_bytes(path.read_bytes()[:1000]),
        "file: truncated or not Parquet",
    ),
    (
        "text",
        lambda path: path.write_bytes(b"hello world, this is no table"),
        "file: truncated or not Parquet",
    ),
    ("bit-flipped", lambda path: path.write_bytes(_flip(path.read_bytes(), 300)), "(checksum differs)"),
    ("rewritten", lambda path: pq.write_table(pq.read_table(path), path), "changed after it was written"),
    ("deleted", lambda path: path.unlink(), "file is missing"),
]


def _flip(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 16]) + data[position + 1 :]


@pytest.mark.parametrize("table", ["labels", "segments"])
@pytest.mark.parametrize(("harm", "text"), [pytest.param(h, t, id=name) for name, h, t in FILE_FAULTS])
def test_a_harmed_file_is_named_and_repaired(folder: Path, table: str, harm: Any, text: str) -> None:
    part = part_name(IDS[2:4])
    harm(folder / table / part)
    report = verify(str(folder))
    assert not report.ok
    assert damaged_parts(report) == [part]
    assert any(what.startswith(table) and text in what for what in _of(report, part))
    store = LabelStore(str(folder))
    assert repair(report, store) == sorted(IDS[2:4])
    assert store.parts() == sorted([part_name(IDS[:2]), part_name(IDS[4:])])
    assert store.orphans() == []
    write_part(str(folder), *tables([ok_row(i) for i in IDS[2:4]]))
    assert verify(str(folder)).ok


def test_a_flip_of_any_byte_of_a_part_is_noticed(folder: Path) -> None:
    for table in ("labels", "segments"):
        data = (folder / table / part_name(IDS[:2])).read_bytes()
        assert damage(data) is None
        assert [i for i in range(len(data)) if damage(_flip(data, i)) is None] == []


def test_a_wholly_deleted_part_shows_by_its_images(folder: Path) -> None:
    LabelStore(str(folder)).discard(part_name(IDS[:2]))
    report = verify(str(folder))
    missing = "missing: in the manifest, but in no readable part"
    assert report.problems == [Problem("", i, missing) for i in sorted(IDS[:2])]
    assert repair(report, LabelStore(str(folder))) == sorted(IDS[:2])


def test_another_schema_is_named(folder: Path) -> None:
    labels, segments = tables([ok_row("more.jpg")])
    write_manifest(str(folder), [*IDS, "more.jpg"])
    part = write_part(str(folder), labels.drop_columns(["confidence"]), segments)
    assert _of(verify(str(folder)), part) == ["labels file: another schema (confidence)"]
    LabelStore(str(folder)).discard(part)
    write_part(str(folder), labels, segments.replace_schema_metadata(None))
    what = "segments file: not a label set's schema: no metadata key segray: not written by segray"
    assert _of(verify(str(folder)), part) == [what]


# The set as a whole


def test_images_twice_foreign_or_missing_are_named(folder: Path) -> None:
    extra = write_part(str(folder), *tables([ok_row(IDS[0]), error_row("foreign.jpg")]))
    write_manifest(str(folder), [*IDS, "forgotten.jpg", IDS[3]])
    first, second = sorted([extra, part_name(IDS[:2])])
    assert set(verify(str(folder)).problems) == {
        Problem(second, IDS[0], f"listed twice, also in {first}"),
        Problem(extra, "foreign.jpg", "not in the manifest"),
        Problem("", "forgotten.jpg", "missing: in the manifest, but in no readable part"),
        Problem("", IDS[3], "listed twice in the manifest"),
    }


def test_expected_ids_may_come_from_the_caller(folder: Path) -> None:
    (folder / "manifest.parquet").unlink()
    assert verify(str(folder), IDS).ok
    assert verify(str(folder), iter([*IDS, "x"])).problems[0].image_id == "x"
    assert verify(str(folder)).problems == [
        Problem("", None, "manifest.parquet is missing: missing images cannot be detected")
    ]


def test_a_part_that_an_upgraded_segray_added_is_no_problem(tmp_path: Path) -> None:
    for name, key, release in (("x", "image.matte", "0.1"), ("y", "image.background_color", "0.2")):
        config = {"label.threshold": 0.1, key: [255, 255, 255]}
        record = {**PROVENANCE, "config": config, "config_hash": name, "versions": {"segray": release}}
        write_part(str(tmp_path), *tables([ok_row(name)], provenance=record))
    write_manifest(str(tmp_path), ["x", "y"])
    assert verify(str(tmp_path)).problems == []


def test_a_part_of_another_configuration_is_named(folder: Path) -> None:
    write_manifest(str(folder), [*IDS, "x"])
    part = write_part(str(folder), *tables([ok_row("x")], provenance={**PROVENANCE, "threshold": 0.2}))
    report = verify(str(folder))
    assert report.problems == [Problem(part, None, "made with other settings than the other parts")]


# Rows and segments


def _label(change: Callable[[np.ndarray[Any, Any]], Any]) -> bytes:
    label = label_map()
    change(label)
    return encode_gray_png(label)


SMALL = encode_gray_png(np.zeros((HEIGHT, WIDTH - 1), np.uint8))
COUNTS = "class_ids and class_pixels differ from the label's counts"

ROW_FAULTS: list[tuple[str, dict[str, Any], str]] = [
    ("no label", {"label": None}, "label is missing"),
    ("no bytes", {"label": {"bytes": None, "path": "x"}}, "label is missing"),
    ("no png", {"label": b"GIF89a"}, "label: not a PNG"),
    ("cut png", {"label": ok_row("")["label"][:-20]}, "label: truncated PNG"),
    ("size", {"label": SMALL}, "label: the PNG is 29x20, its image 30x20"),
    ("rows say another size", {"width": 31}, "label: the PNG is 30x20, its image 31x20"),
    ("sideways", {"width": HEIGHT, "height": WIDTH}, "label: the PNG is 30x20, its image 20x30"),
    ("no confidence", {"confidence": None}, "confidence is missing"),
    ("size of confidence", {"confidence": SMALL}, "confidence: the PNG is 29x20, its image 30x20"),
    ("id", {"label": _label(lambda a: a.__setitem__((0, 0), 3))}, "label has id 3; allowed: 0 to 2 and 255"),
    ("counts", {"class_pixels": [428, 63, 80]}, COUNTS),
    ("ids", {"class_ids": [0, 1]}, COUNTS),
    ("n_segments", {"n_segments": 3}, "n_segments is 3, the segments table has 2"),
    ("an error", {"error": "truncated"}, "status ok with an error"),
    ("status", {"status": "done"}, "status 'done'; allowed: ok, error, skipped"),
    ("no reason", {"status": "skipped", "error": ""}, "status skipped without a reason"),
    ("labelled error", {"status": "error", "error": "truncated"}, "status error with a label"),
]


@pytest.mark.parametrize(("changes", "text"), [pytest.param(c, t, id=name) for name, c, t in ROW_FAULTS])
def test_a_wrong_row_is_named(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    write_manifest(str(tmp_path), IDS[:2])
    part = write_part(
        str(tmp_path), *tables([ok_row(IDS[0], **changes), ok_row(IDS[1])], _segments_of_both())
    )
    report = verify(str(tmp_path))
    assert Problem(part, IDS[0], text) in report.problems
    assert {problem.image_id for problem in report.problems} == {IDS[0]}


def _segments_of_both() -> list[dict[str, Any]]:
    return [*segment_rows(IDS[0]), *segment_rows(IDS[1])]


RLE = segment_rows("")[1]["rle"]

SEGMENT_FAULTS: list[tuple[str, dict[str, Any], str]] = [
    ("area", {"area": 64}, "segment 0: area is 64, its mask has 63"),
    ("mask", {"rle": RLE}, "segment 0: area is 63, its mask has 80"),
    ("size", {"rle": {**RLE, "size": [30, 20]}}, "segment 0: mask of size [30, 20], the image is [20, 30]"),
    ("no mask", {"rle": None}, "segment 0: mask of size None, the image is [20, 30]"),
    ("class", {"class_id": 3}, "segment 0: class_id 3; allowed: 0 to 2"),
    ("id", {"segment_id": 1}, "segment 1 is listed twice"),
]


@pytest.mark.parametrize(("changes", "text"), [pytest.param(c, t, id=name) for name, c, t in SEGMENT_FAULTS])
def test_a_wrong_segment_is_named(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    write_manifest(str(tmp_path), ["a", "b"])
    segments = [*segment_rows("a"), *segment_rows("b", **changes)]
    part = write_part(str(tmp_path), *tables([ok_row("a"), ok_row("b")], segments))
    assert verify(str(tmp_path)).problems == [Problem(part, "b", text)]


def test_segments_of_a_bad_image_and_of_no_row_are_named(tmp_path: Path) -> None:
    write_manifest(str(tmp_path), ["a", "b"])
    labels, segments = tables([error_row("a"), ok_row("b")], [*segment_rows("a"), *segment_rows("b")])
    part = write_part(str(tmp_path), labels, segments)
    what = "status error with segments"
    assert verify(str(tmp_path)).problems == [Problem(part, "a", what)]
    stranger = write_part(str(tmp_path / "other"), *tables([ok_row("stranger")]))
    data = storage.read_bytes(str(tmp_path / "other" / "segments" / stranger))
    storage.write_atomic(str(tmp_path / "segments" / part), data)
    assert Problem(part, "stranger", "segments of an image that has no row") in verify(str(tmp_path)).problems


# The command


def test_a_whole_set_prints_its_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(VerifyConfig(out=str(folder)))
    lines = capsys.readouterr().out.splitlines()
    words = [line.split() for line in lines]
    assert words[:4] == [["images", "6"], ["ok", "5"], ["error", "1"], ["skipped", "0"]]
    # One of the 20 rows of each label has the id 255.
    assert lines[4] == "ignored         5.0% of the pixels"
    assert words[-1] == ["problems", "0"]


def test_problems_are_printed_and_fail_the_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    part = part_name(IDS[:2])
    (folder / "segments" / part).unlink()
    write_manifest(str(folder), [*IDS, *(f"{i:02}.jpg" for i in range(24))])
    with pytest.raises(
        UserError, match=r"has 25 problems; repair it with: segray verify out=.* repair=true"
    ) as caught:
        run(VerifyConfig(out=str(folder)))
    assert caught.value.exit_code == 1
    lines = capsys.readouterr().out.splitlines()[6:]
    assert lines[0] == f"{part}  segments file is missing"
    assert lines[1] == "00.jpg  missing: in the manifest, but in no readable part"
    assert len(lines) == 21
    assert lines[-1] == "... and 5 more"
    assert (folder / "labels" / part).exists()


def test_repair_without_a_configuration_changes_nothing_and_says_what_is_missing(folder: Path) -> None:
    write_run(str(folder), {"n_ok": 5})
    (folder / "labels" / part_name(IDS[4:])).write_bytes(b"")
    before = files(folder)
    lost = (
        rf"2 images of {folder} cannot be labelled again, damaged parts are kept: "
        rf"cannot read {folder}/config.yaml, which says how to label them"
    )
    with pytest.raises(UserError, match=lost) as caught:
        run(VerifyConfig(out=str(folder), repair=True))
    assert caught.value.exit_code == 1
    assert files(folder) == before


def test_repair_of_what_lost_no_image_needs_no_model(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    orphan = write_part(str(folder / "other"), *tables([ok_row("x")]))
    (folder / "other" / "segments" / orphan).rename(folder / "segments" / orphan)
    shutil.rmtree(folder / "other")
    run(VerifyConfig(out=str(folder), repair=True))
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["problems", "1"] in shown
    assert shown[-1] == ["problems", "0"]
    assert verify(str(folder)).ok


def test_repair_says_why_images_cannot_be_made_again(folder: Path) -> None:
    (folder / "config.yaml").write_text(f"images: {folder}/nowhere\nout: elsewhere\nclasses: cat\n")
    (folder / "labels" / part_name(IDS[4:])).write_bytes(b"")
    why = rf"2 images of {folder} cannot be labelled again, .*: images: no such path: {folder}/nowhere"
    with pytest.raises(UserError, match=why) as caught:
        run(VerifyConfig(out=str(folder), repair=True))
    assert caught.value.exit_code == 1
    (folder / "config.yaml").write_text("sam: {modle: x}\n")
    with pytest.raises(UserError, match=r"cannot be labelled again, .*: unknown key sam\.modle"):
        run(VerifyConfig(out=str(folder), repair=True))


def test_repair_leaves_a_set_in_use_alone(folder: Path) -> None:
    (folder / "labels" / part_name(IDS[4:])).write_bytes(b"")
    with RunLock(str(folder)), pytest.raises(UserError, match="is in use by pid") as caught:
        run(VerifyConfig(out=str(folder), repair=True))
    assert caught.value.exit_code == 4
    assert (folder / "segments" / part_name(IDS[4:])).exists()


def test_what_verify_cannot_repair_is_reported(folder: Path) -> None:
    (folder / "manifest.parquet").unlink()
    with pytest.raises(UserError, match="has 1 problems that labelling images again does not repair"):
        run(VerifyConfig(out=str(folder), repair=True))
    assert len(LabelStore(str(folder)).parts()) == 3


def test_a_store_that_does_not_answer_loses_no_part(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = storage.read_bytes

    def refuse(uri: str) -> bytes:
        if "segments" in uri:
            raise PermissionError(13, "Permission denied")
        return real(uri)

    monkeypatch.setattr(storage, "read_bytes", refuse)
    with pytest.raises(UserError, match=r"cannot read .*/segments/part-.*: .*Permission denied"):
        run(VerifyConfig(out=str(folder), repair=True))
    assert len(LabelStore(str(folder)).parts()) == 3


def test_no_label_set_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere: no label set here \(no labels/part-") as caught:
        verify(str(tmp_path / "nowhere"))
    assert caught.value.exit_code == 2


def test_an_unreadable_manifest_is_a_problem(folder: Path) -> None:
    (folder / "manifest.parquet").write_bytes(b"PAR1")
    (problem,) = verify(str(folder)).problems
    assert problem.what.startswith("manifest.parquet is unreadable (")
    pq.write_table(pa.table({"name": ["a"]}), folder / "manifest.parquet")
    (problem,) = verify(str(folder)).problems
    assert problem.what.startswith("manifest.parquet is unreadable (manifest ")
    assert "no column image_id" in problem.what

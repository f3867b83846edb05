from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pytest

from segray.models.masks import encode_rle, segment_from_mask
from segray.pipelines.corrections import Correction, CorrectionLog, Kind, new_key
from segray.pipelines.corrections import log as log_module
from segray.pipelines.corrections.correction import SCHEMA, to_table
from segray.pipelines.corrections.log import decode_corrections, encode_corrections
from segray.pipelines.errors import UserError
from segray.pipelines.io import local_files, storage
from segray.pipelines.label_set import part_reader
from segray.pipelines.label_set.part_files import encode_part
from segray.pipelines.label_set.store import LabelStore, prepare_output, write_part
from tests.pipelines.label_sets import (
    HEIGHT,
    IDS,
    WIDTH,
    label_map,
    no_file_larger_than,
    ok_row,
    tables,
    write_set,
)

IMAGE, OTHER, BAD = IDS[0], IDS[1], IDS[-1]
MASK = encode_rle(segment_from_mask(label_map() == 1), HEIGHT, WIDTH)[1]


@pytest.fixture
def root(tmp_path: Path) -> str:
    write_set(tmp_path / "set")
    return str(tmp_path / "set")


def make(log: CorrectionLog, kind: Kind = "name", image: str = IMAGE, **values: Any) -> Correction:
    given = {"segments": (0,), "class_name": "house"} if kind == "name" else {}
    return log.make(image, kind, **{**given, **values})


def write_raw(root: str, corrections: list[Correction], **columns: pa.Array) -> str:
    """A part that no command writes."""
    table = to_table(corrections)
    for name, values in columns.items():
        table = table.set_column(SCHEMA.get_field_index(name), SCHEMA.field(name), values)
    name = f"corrections/part-{new_key()}.parquet"
    storage.write_atomic(storage.join(root, name), encode_part(table, row_group_size=100))
    return name


def test_many_corrections_that_are_alike_are_no_bomb(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_reader, "MAX_UNPACKED", 1 << 16)
    one = make(CorrectionLog(root), segments=(0,))
    many = tuple(replace(one, key=new_key(), segments=(number,)) for number in range(3000))
    assert decode_corrections(encode_corrections(many)) == many
    monkeypatch.setattr(log_module, "MAX_PART_BYTES", 1000)
    with pytest.raises(UserError, match=r"not stored: corrections of \d+ bytes at once \(allowed: 1000\)"):
        encode_corrections(many)


def test_what_is_appended_is_read_as_it_was(root: str) -> None:
    log = CorrectionLog(root)
    corrections = [
        make(log, "name", segments=(0, 1), class_name="Bäume", who="Zoë"),
        make(log, "name", class_name=None),
        make(log, "erase", segments=(1,)),
        make(log, "merge", segments=(0, 1), class_name="background"),
        make(log, "split", segments=(1,), mask=MASK, class_name="house"),
        make(log, "paint", image=OTHER, mask=MASK),
        make(log, "good"),
    ]
    corrections.append(make(log, "undo", target=corrections[0].key))
    log.append(corrections)
    assert [one.key for one in corrections] == sorted({one.key for one in corrections})
    for reader in (log, CorrectionLog(root)):
        assert reader.read() == corrections
        assert reader.read(OTHER) == [corrections[5]]
        assert reader.images() == sorted([IMAGE, OTHER])
        assert reader.by_image()[OTHER] == [corrections[5]]


def test_labels_are_never_changed_and_the_folder_stays_a_label_set(root: str) -> None:
    before = LabelStore(root).fingerprint()
    log = CorrectionLog(root)
    log.append([make(log)])
    assert LabelStore(root).fingerprint() == before
    prepare_output(root)


def test_two_people_at_once_lose_nothing(root: str) -> None:
    def work(person: int) -> list[Correction]:
        log = CorrectionLog(root)
        done = []
        for _ in range(10):
            done.append(make(log, who=f"person {person}"))
            log.append(done[-1:])
        return done

    with ThreadPoolExecutor(4) as pool:
        everything = [one for done in pool.map(work, range(4)) for one in done]
    assert CorrectionLog(root).read() == sorted(everything, key=lambda one: one.key)


def test_a_correction_is_later_than_those_that_were_seen_whatever_the_clock_says(root: str) -> None:
    log, future = CorrectionLog(root), "29990101T000000000000-00000000"
    log.append([replace(make(log), key=future)])
    other = CorrectionLog(root)
    other.read()
    after = make(other)
    assert after.key > future
    other.append([after, make(other, "undo", target=future)])
    assert log.read()[0].key == future


def test_a_name_that_is_taken_is_not_written_over(root: str) -> None:
    log = CorrectionLog(root)
    first = make(log)
    log.append([first])
    with pytest.raises(UserError, match="is there already; give new keys"):
        CorrectionLog(root).append([replace(first, class_name="Bäume")])
    assert CorrectionLog(root).read() == [first]


def test_a_file_system_without_hard_links(root: str) -> None:
    log = CorrectionLog(root)
    one = make(log)
    with patch.object(Path, "hardlink_to", side_effect=OSError(1, "Operation not permitted")):
        log.append([one])
        with pytest.raises(UserError, match="already"):
            log.append([one])
    assert CorrectionLog(root).read() == [one]


def test_a_writer_killed_anywhere_leaves_all_or_nothing(root: str) -> None:
    log = CorrectionLog(root)
    kept = make(log)
    log.append([kept])
    program = (
        "import os, signal, sys\n"
        "from segray.pipelines.corrections import CorrectionLog\n"
        "calls = [0]\n"
        "def kill(event, arguments):\n"
        "    if event in ('open', 'os.link', 'os.remove') and 'corrections' in str(arguments[0]):\n"
        "        calls[0] += 1\n"
        "        if calls[0] == int(sys.argv[2]): os.kill(os.getpid(), signal.SIGKILL)\n"
        "log = CorrectionLog(sys.argv[1])\n"
        f"one = log.make({IMAGE!r}, 'name', segments=(0,), class_name='house', who='killed')\n"
        "sys.addaudithook(kill)\n"
        "log.append([one])\n"
    )
    counts = []
    for point in (1, 2, 3):
        done = subprocess.run([sys.executable, "-c", program, root, str(point)], check=False, cwd=Path.cwd())
        assert done.returncode == -signal.SIGKILL
        found = CorrectionLog(root).read()
        assert found[0] == kept
        counts.append(len(found))
    assert counts == [1, 1, 2]


def test_a_full_disk_leaves_nothing(root: str) -> None:
    log = CorrectionLog(root)
    with no_file_larger_than(1000), pytest.raises(UserError, match="nothing was written"):
        log.append([make(log)])
    assert CorrectionLog(root).read() == []
    assert os.listdir(Path(root, "corrections")) == []  # noqa: PTH208


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": "no such"}, "not stored: no such is no labelled image of the label set"),
        ({"image": BAD}, "is no labelled image"),
        ({"class_name": "ship"}, "class 'ship' is none of the label set's"),
        ({"size": (WIDTH, HEIGHT)}, "a correction of 20x30 pixels, the image has 30x20 pixels"),
        ({"image_digest": "1" * 64}, "has another file than the label set's image"),
        ({"segments": ()}, "name without segments"),
        ({"mask": MASK}, "name with mask"),
        ({"kind": "draw"}, "kind draw .allowed: name, erase"),
        ({"kind": "split", "segments": (0, 1), "mask": MASK}, r"split of 2 segments \(allowed: 1\)"),
        ({"kind": "paint", "segments": (), "mask": b"11"}, "run lengths that are not those of 600 pixels"),
        ({"kind": "good", "segments": ()}, "good with a class"),
        ({"key": "1"}, "key 1 is none"),
        ({"who": "x" * 201}, "who is no name"),
        ({"segments": (-1,)}, "segments that are not"),
    ],
)
def test_what_cannot_be_stored(root: str, changes: dict[str, Any], message: str) -> None:
    log = CorrectionLog(root)
    with pytest.raises(UserError, match=message):
        log.append([make(log), replace(make(log), **changes)])
    assert not Path(root, "corrections").exists()


def test_an_undo_of_nothing(root: str) -> None:
    log = CorrectionLog(root)
    log.append([make(log, image=OTHER)])
    (other,) = log.read()
    for target in (other.key, "20200101T000000000000-00000000"):
        with pytest.raises(UserError, match=f"has no correction {target} to undo"):
            log.append([make(log, "undo", target=target)])
    with pytest.raises(UserError, match="which is no earlier correction"):
        log.append([replace(make(log, "undo", target=other.key), target="29990101T000000000000-00000000")])


def test_corrections_of_an_image_whose_file_changed_are_left_out(root: str) -> None:
    log = CorrectionLog(root)
    log.append([make(log), make(log, image=OTHER)])
    parts = LabelStore(root).parts()
    for part in parts:
        LabelStore(root).discard(part)
    write_part(root, *tables([ok_row(IMAGE, sha256="2" * 64), ok_row(OTHER)]))
    assert CorrectionLog(root).images() == [OTHER]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image_id": pa.array(["ghost\x1b[31m"])}, r"ghost\\x1b\[31m is no labelled image"),
        ({"class_name": pa.array(["ship"])}, "class 'ship' is none"),
        ({"height": pa.array([1 << 30], pa.int32())}, "is damaged .correction .*: an image of"),
        ({"width": pa.array([None], pa.int32())}, "an image of"),
        ({"mask": pa.array([b"\xff\xff"])}, "run lengths that are not COCO's"),
        ({"mask": pa.array([b"P" * 40])}, "run lengths"),
        ({"kind": pa.array(["name"])}, "name without segments"),
        ({"kind": pa.array([None], pa.string())}, "kind None"),
        ({"key": pa.array(["../../x"])}, "key ../../x is none"),
        ({"when": pa.array([None], pa.timestamp("us", "UTC"))}, "when is no time"),
        ({"when": pa.array([1 << 62], pa.timestamp("us", "UTC"))}, "is damaged"),
        ({"segments": pa.array([[None]], SCHEMA.field("segments").type)}, "paint with segments"),
    ],
)
def test_a_received_part_that_is_not_ours(root: str, columns: dict[str, pa.Array], message: str) -> None:
    log = CorrectionLog(root)
    name = write_raw(root, [make(log, "paint", mask=MASK, class_name="house")], **columns)
    with pytest.raises(UserError, match=message) as error:
        log.read()
    assert len(str(error.value).splitlines()) == 1
    assert list(log.problems()) == [name.partition("/")[2]]


def test_damaged_parts(root: str) -> None:
    log = CorrectionLog(root)
    log.append([make(log)])
    (part,) = Path(root, "corrections").iterdir()
    good = part.read_bytes()
    for data in (b"", good[:-20], good.replace(b"house", b"mouse"), b"PAR1" + b"x" * 100 + b"PAR1"):
        part.write_bytes(data)
        with pytest.raises(UserError, match=f"{part.name} is damaged .* delete it to go on without it"):
            CorrectionLog(root).read()
    other = pa.table({"key": ["x"]})
    part.write_bytes(encode_part(other, row_group_size=10))
    with pytest.raises(UserError, match="other columns than those of corrections"):
        CorrectionLog(root).read()
    deep: list[Any] = []
    for _ in range(200):
        deep = [deep]
    part.write_bytes(encode_part(pa.table({"mask": [deep]}), row_group_size=10))
    with pytest.raises(UserError, match=r"is damaged .*too deeply nested") as error:
        CorrectionLog(root).read()
    assert len(str(error.value).splitlines()) == 1


def test_a_part_that_unpacks_to_far_more_than_it_holds(root: str) -> None:
    log = CorrectionLog(root)
    one = replace(make(log, "paint", mask=MASK, class_name="house"), who=" " * 200)
    bomb = to_table([one]).take(pa.array([0] * 130_000))
    part = f"part-{new_key()}.parquet"
    storage.write_atomic(
        storage.join(root, "corrections", part), encode_part(bomb, row_group_size=bomb.num_rows)
    )
    with pytest.raises(UserError, match="bytes unpack to"):
        CorrectionLog(root).read()


def test_files_of_killed_writers_are_no_parts(root: str) -> None:
    log = CorrectionLog(root)
    log.append([make(log)])
    (part,) = Path(root, "corrections").iterdir()
    part.rename(part.with_name(f".{part.name}.0a1b2c3d{local_files.TEMPORARY_SUFFIX}"))
    assert CorrectionLog(root).read() == []


def test_a_log_on_an_object_store(bucket: tuple[str, str]) -> None:
    folder, _ = bucket
    write_set(folder)
    log = CorrectionLog(folder)
    log.append([make(log), make(log, "paint", mask=MASK, class_name="house")])
    with pytest.raises(UserError, match="is there already"):
        CorrectionLog(folder).append([replace(log.read()[0], class_name="Bäume")])
    assert CorrectionLog(folder).read() == log.read()
    assert len(CorrectionLog(folder).read(IMAGE)) == 2


def test_a_part_that_cannot_be_found_is_one_line(root: str) -> None:
    CorrectionLog(root).append([make(CorrectionLog(root))])
    lost = Path(root) / "corrections" / f"part-{new_key()}.parquet"
    lost.symlink_to(lost.parent / "nowhere")
    with pytest.raises(UserError, match=r"^cannot read .*corrections.*: "):
        CorrectionLog(root).read()
    assert CorrectionLog(root).problems() == {}

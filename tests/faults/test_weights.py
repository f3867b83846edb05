"""Weights that are missing or broken: reported before the first image, in one line, with nothing written."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from segray.models.weights import BUILTIN_FOLDER
from tests.faults.runs import only_error, overrides, segray
from tests.processes import started

FILES = {
    "sam": BUILTIN_FOLDER / "sam.safetensors",
    "clip": BUILTIN_FOLDER / "clip.safetensors",
}


def refused(images: Path, out: Path, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    assert segray("annotate", *overrides(images, out, *more)) == 2
    assert not out.exists()
    return only_error(capsys)


def test_weights_are_missing(images: Path, tmp_path: Path) -> None:
    """As a process: what a shell sees."""
    missing = tmp_path / "nowhere.safetensors"
    command = ["annotate", *overrides(images, tmp_path / "out", f"sam.weights={missing}")]
    with started(command, tmp_path / "log") as process:
        ended = process.wait()
    assert (ended.code, ended.out) == (2, "")
    (line,) = ended.complaints
    assert line.startswith("segray: ")
    assert str(missing) in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("model", ["sam", "clip"])
def test_weights_are_cut_short(
    images: Path, tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(FILES[model].read_bytes()[:-1000])
    assert str(cut) in refused(images, tmp_path / "out", capsys, f"{model}.weights={cut}")


@pytest.mark.parametrize("model", ["sam", "clip"])
def test_one_byte_of_the_weights_is_flipped(
    images: Path, tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = bytearray(FILES[model].read_bytes())
    wanted = hashlib.sha256(data).hexdigest()
    data[-1000] ^= 1
    flipped = tmp_path / "flipped.safetensors"
    flipped.write_bytes(data)
    line = refused(images, tmp_path / "out", capsys, f"{model}.weights={flipped}", f"{model}.sha256={wanted}")
    assert str(flipped) in line
    assert wanted in line


@pytest.mark.parametrize("model", ["sam", "clip"])
def test_weights_of_another_model(
    images: Path, tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    other = FILES["clip" if model == "sam" else "sam"]
    assert str(other) in refused(images, tmp_path / "out", capsys, f"{model}.weights={other}")

"""Checkpoints and weights that somebody sent."""

from __future__ import annotations

import io
import json
import struct

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import save

from tests.fuzz.edits import Built, Cut, Edit, cuts, damaged, edits, with_secret
from tests.fuzz.formats import PICKLED_PROGRAM, edited_json, edited_tensors, repacked, with_checksums
from tests.fuzz.runner import Runner

pytestmark = pytest.mark.slow

STATE = {"weight": torch.ones(2, 3), "bias": torch.zeros(2)}
SAFETENSORS = save(STATE, {"segray": '{"classes": ["tree"]}'})
FILES = ("model.safetensors", "optimiser.pt", "state.json")
every_reader = pytest.mark.parametrize("reader", ["predict", "resume", "ship"])


def pth() -> bytes:
    """Weights as torch saves them."""
    sink = io.BytesIO()
    torch.save(STATE, sink)
    return sink.getvalue()


PTH = pth()


def checkpoint(valid: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in valid.items() if name.startswith(("checkpoint/", "images/"))}


@every_reader
@given(changes=edits)
@example(changes=[Edit(161, "replace", Built("nested", 3000))])
@example(changes=[Edit(383, "replace", 0)])
@example(changes=[Edit(9, "delete", 0)])
def test_states(runner: Runner, valid: dict[str, bytes], reader: str, changes: list[Edit]) -> None:
    files = with_checksums(checkpoint(valid), "checkpoint", with_secret(changes, str(runner.secret)))
    runner.check(reader, files)


@every_reader
@given(changes=edits)
@example(changes=[Edit(0, "replace", 0)])
def test_tensors(runner: Runner, valid: dict[str, bytes], reader: str, changes: list[Edit]) -> None:
    files = checkpoint(valid)
    name = "checkpoint/model.safetensors"
    runner.check(reader, with_checksums({**files, name: edited_tensors(files[name], changes)}, "checkpoint"))


@every_reader
@given(name=st.sampled_from(FILES[:2]), changes=cuts)
def test_checkpoint_bytes(
    runner: Runner, valid: dict[str, bytes], reader: str, name: str, changes: list[Cut]
) -> None:
    files = checkpoint(valid)
    data = damaged(files[f"checkpoint/{name}"], changes)
    runner.check(reader, with_checksums({**files, f"checkpoint/{name}": data}, "checkpoint"))


@given(changes=edits, inside=st.booleans())
def test_exported_networks(
    runner: Runner, valid: dict[str, bytes], changes: list[Edit], inside: bool
) -> None:
    """Changes of the header's tensors, or of the description that is a text in it."""
    data = valid["model.safetensors"]
    if inside:
        length = struct.unpack("<Q", data[:8])[0]
        header = json.loads(data[8 : 8 + length])
        text = edited_json(header["__metadata__"]["segray"].encode(), changes)
        header["__metadata__"]["segray"] = text.decode(errors="replace")
        head = json.dumps(header).encode()
        changed = struct.pack("<Q", len(head)) + head + data[8 + length :]
    else:
        changed = edited_tensors(data, changes)
    runner.check("single file", {"model.safetensors": changed})


@given(changes=cuts)
def test_exported_bytes(runner: Runner, valid: dict[str, bytes], changes: list[Cut]) -> None:
    runner.check("single file", {"model.safetensors": damaged(valid["model.safetensors"], changes)})


@given(changes=cuts, deflated=st.booleans())
@example(changes=[Cut(0, "flip")], deflated=False)
def test_optimiser_pickles(
    runner: Runner, valid: dict[str, bytes], changes: list[Cut], deflated: bool
) -> None:
    files = checkpoint(valid)
    data = repacked(files["checkpoint/optimiser.pt"], changes, deflated)
    runner.check("resume", with_checksums({**files, "checkpoint/optimiser.pt": data}, "checkpoint"))


@given(changes=edits)
def test_weight_headers(runner: Runner, changes: list[Edit]) -> None:
    runner.check("weights", {"weights.safetensors": edited_tensors(SAFETENSORS, changes)})


@given(changes=cuts)
@example(changes=[Cut(292, "fill")])
def test_weight_bytes(runner: Runner, changes: list[Cut]) -> None:
    runner.check("weights", {"weights.safetensors": damaged(SAFETENSORS, changes)})
    runner.check("weights", {"weights.pth": damaged(PTH, changes)})


@given(changes=cuts, deflated=st.booleans())
def test_weight_pickles(runner: Runner, changes: list[Cut], deflated: bool) -> None:
    runner.check("weights", {"weights.pth": repacked(PTH, changes, deflated)})


def test_the_valid_ones_are_taken_and_a_program_is_refused(runner: Runner, valid: dict[str, bytes]) -> None:
    assert runner.check("weights", {"weights.safetensors": SAFETENSORS}).how == "ok"
    assert runner.check("weights", {"weights.pth": PTH}).how == "ok"
    exported = {"model.safetensors": valid["model.safetensors"]}
    assert runner.check("single file", exported).how == "ok"
    assert runner.check("weights", {"weights.pth": PICKLED_PROGRAM}).how == "refused"

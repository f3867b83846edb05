"""What surrounds the kernels: configurations, graphs, and when kernels are used."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from segray.models.sam.decoder import MaskDecoder
from segray.models.sam.fused.config import (
    TABLE,
    DecoderConfig,
    FusedConfig,
    TileConfig,
    configuration,
    parsed,
)
from segray.models.sam.fused.graphs import Graphed
from segray.models.sam.fused.selection import fused_sam
from segray.models.sam.prompted import PromptedSam
from segray.models.sam.registry import build_sam
from tests.models.sam.small import small_decoder
from tools.tune_kernels import add_row, candidates, merged, tuned

pytestmark = pytest.mark.usefixtures("no_gradients")


def test_a_decoder_of_another_build_is_refused() -> None:
    pytest.importorskip("triton")
    from segray.models.sam.fused.decoder import FusedDecoder

    sam = small_decoder(64, 2, (4, 8))
    eager = MaskDecoder(sam)
    sam.mask_decoder.transformer.layers[0].skip_first_layer_pe = False
    with pytest.raises(ValueError, match="released SAM"):
        FusedDecoder(sam, eager, 0.0, DecoderConfig())


def test_more_tokens_than_kernels_have_room_for_are_refused() -> None:
    pytest.importorskip("triton")
    from segray.models.sam.fused.decoder import FusedDecoder

    sam = small_decoder(64, 2, (4, 8))
    eager = MaskDecoder(sam)
    with pytest.raises(ValueError, match="a prompt has 7 tokens, 4 of them asked for, which are too many"):
        FusedDecoder(sam, eager, 0.0, DecoderConfig(asked_slots=2))
    eager._output_tokens = eager._output_tokens.repeat(2, 1)
    with pytest.raises(ValueError, match="a prompt has 12 tokens"):
        FusedDecoder(sam, eager, 0.0, DecoderConfig())


# Configurations


def test_an_unknown_gpu_takes_the_safe_row() -> None:
    assert configuration("a GPU of tomorrow") == FusedConfig()


def test_the_table_has_what_its_rows_say() -> None:
    for gpu, row in json.loads(TABLE.read_text()).items():
        config = configuration(gpu)
        assert merged(asdict(config), row) == asdict(config)
        assert config != FusedConfig()


@pytest.mark.parametrize(("tile", "length", "fits"), [(128, 4096, 128), (128, 576, 64), (64, 40, 8)])
def test_tiles_divide_an_image(tile: int, length: int, fits: int) -> None:
    assert TileConfig(tile).fitting(length) == fits


# Tuning


def test_tuning_keeps_the_fastest_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part starts from the best of those before it; what fails is left out."""
    times = {(64, 64): 9.0, (32, 64): 7.0, (128, 64): None, (32, 16): 8.0, (32, 32): 5.0}

    def attempt(values: dict[str, Any]) -> float | None:
        return times[values["a"]["tile"], values["b"]["tile"]]

    monkeypatch.setattr("tools.tune_kernels.attempt", attempt)
    parts = {
        name: [{name: {"tile": tile}} for tile in tiles]
        for name, tiles in [("a", (32, 128)), ("b", (16, 32))]
    }
    found = [(part, taken) for part, _, taken in tuned({"a": {"tile": 64}, "b": {"tile": 64}}, parts)]
    assert found == [("start", 9.0), ("a", 7.0), ("a", None), ("b", 8.0), ("b", 5.0)]


def test_a_row_is_added_beside_the_others(tmp_path: Path) -> None:
    table = tmp_path / "table.json"
    for gpu in ("one", "other"):
        add_row(table, gpu, {"decoder": {"prompts": 256}})
    assert json.loads(table.read_text()).keys() == {"one", "other"}


def test_every_candidate_is_a_configuration() -> None:
    safe = asdict(FusedConfig())
    for changes in candidates().values():
        for change in changes:
            assert merged(asdict(parsed(FusedConfig, merged(safe, change))), change) == merged(safe, change)


# Graphs


def test_without_a_gpu_a_function_is_called_as_it_is() -> None:
    calls = []

    def double(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        calls.append(x.shape)
        return (2 * x,)

    graphed = Graphed(double, limit=1)
    assert graphed(torch.ones(3))[0].tolist() == [2, 2, 2]
    assert len(calls) == 1


# Choosing


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_cpu_and_float32_take_the_eager_path(dtype: torch.dtype) -> None:
    assert fused_sam(PromptedSam(build_sam("builtin")[0]), dtype, 0.5) is None
    gpu: Any = SimpleNamespace(device=torch.device("cuda"))
    assert fused_sam(gpu, torch.float32, 0.5) is None


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A model that is said to be on a GPU, with something in the place of kernels."""
    pytest.importorskip("triton")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA T0")
    built = SimpleNamespace()
    return SimpleNamespace(device=torch.device("cuda"), kernels=lambda *_: built, built=built)


def test_kernels_that_agree_are_used(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segray.models.sam.fused.check.disagreement", lambda *_: None)
    assert fused_sam(gpu, torch.float16, 0.5) is gpu.built


def test_kernels_that_disagree_are_not(
    gpu: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("segray.models.sam.fused.check.disagreement", lambda *_: "logits are off by 3")
    with caplog.at_level(logging.WARNING):
        assert fused_sam(gpu, torch.float16, 0.5) is None
    assert caplog.messages == ["SAM takes its eager path on NVIDIA T0: logits are off by 3"]


def test_kernels_that_do_not_compile_are_not(gpu: Any, caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("out of shared memory\nand a long tale")

    gpu.kernels = fail
    with caplog.at_level(logging.WARNING):
        assert fused_sam(gpu, torch.float16, 0.5) is None
    assert caplog.messages == ["SAM takes its eager path on NVIDIA T0: RuntimeError: out of shared memory"]

"""Input that is made to harm: refused in one line, nothing executed, nothing written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from segray.pipelines.io.manifest import SCHEMA
from tests.faults.runs import only_error, overrides, segray


class Bomb:
    """Pickled, it makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


@pytest.fixture
def exploded(tmp_path: Path) -> Path:
    """A file that must never come to be."""
    return tmp_path / "exploded"


def refused(
    images: Path, out: Path, capsys: pytest.CaptureFixture[str], *more: str, config: Path | None = None
) -> str:
    """Run `segray annotate`; its one line."""
    source = [] if config is None else [str(config)]
    assert segray("annotate", *source, *overrides(images, out, *more)) == 2
    line = only_error(capsys)
    assert not out.exists()
    return line


@pytest.mark.parametrize("wrapped", ["bare", "state_dict"])
@pytest.mark.parametrize("model", ["sam", "clip"])
def test_pickle_bomb_as_weights(
    images: Path,
    tmp_path: Path,
    exploded: Path,
    model: str,
    wrapped: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bomb = tmp_path / "weights.pth"
    content = Bomb(exploded) if wrapped == "bare" else {"state_dict": {"weight": Bomb(exploded)}}
    torch.save(content, bomb)
    line = refused(images, tmp_path / "out", capsys, f"{model}.weights={bomb}")
    assert str(bomb) in line
    assert not exploded.exists()


@pytest.mark.parametrize("key", ["classes", "sam", "label"])
def test_yaml_object_tag(
    images: Path, tmp_path: Path, exploded: Path, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"{key}: !!python/object/apply:os.system ['touch {exploded}']\n")
    line = refused(images, tmp_path / "out", capsys, config=config)
    assert f"{config} line 1: tag !!python/object/apply:os.system is refused" in line
    assert not exploded.exists()


@pytest.mark.parametrize("image_id", ["../../x.png", "/etc/x.png", "a/../../x.png", "a//x.png", "a\nb.png"])
def test_image_id_that_leaves_the_folder(
    images: Path, tmp_path: Path, image_id: str, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / "images.parquet"
    row = {"image_id": image_id, "uri": str(images / "scene00.png"), "size": 1, "mtime": 1.0}
    pq.write_table(pa.Table.from_pylist([row], SCHEMA), manifest)
    line = refused(manifest, tmp_path / "out", capsys)
    assert f"image_id {image_id!r} is refused" in line
    assert "allowed: a relative path" in line

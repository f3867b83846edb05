"""`push_to_hub`: what arrives, and that nothing is written where it could not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import pytest
import yaml

from segray.pipelines.config.commands.export import ExportConfig
from segray.pipelines.config.loading import load
from segray.pipelines.errors import UserError
from tests.pipelines.exporting.checkpoints.readers import read_safetensors
from tests.pipelines.exporting.checkpoints.test_export import export as export_checkpoint
from tests.pipelines.exporting.hub_server import TOKEN, Hub, Repo, hub_server
from tests.pipelines.exporting.labelled import IDS, LABELS, export, write_labels
from tests.pipelines.trained_network import CLASSES, write_run

HISTORY = [{"miou": 0.612, "accuracy": 0.9, "iou": [0.9, None, 0.324], "epoch": 4.0, "zero_shot_miou": 0.4}]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with hub_server() as hub:
        # The library reads HF_ENDPOINT when it is imported, which another test has done.
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    config = {
        "method": "segray",
        "pseudo.tau": 0.9,
        "data.root": "/home/anna/secret",
        "data.labels": "https://anna:pass@host/x",
    }
    run = write_run(tmp_path / "run", config=config, history=HISTORY)
    record = {"labelled": {"images": 8}, "unlabelled": {"images": 280}, "labels": "f" * 64}
    (run / "data.json").write_text(json.dumps(record))
    return run


def test_a_data_set_is_pushed_as_it_is_opened(hub: Hub, tmp_path: Path) -> None:
    labels, out = write_labels(tmp_path), tmp_path / "out"
    hub.repos["datasets", "lab/roads"] = Repo(
        private=True, files={"data/train-old.parquet": b"", "LICENSE": b"x"}
    )
    result = export(labels, out, format="huggingface", push_to_hub="lab/roads")
    assert result.hub == f"{hub.url}/datasets/lab/roads"
    assert f"pushed to   {result.hub}" in str(result)
    files = hub.repos["datasets", "lab/roads"].files
    there = {path.relative_to(out).as_posix(): path for path in out.rglob("*") if path.is_file()}
    visible = {name for name in there if not any(part.startswith(".") for part in name.split("/"))}
    assert files.keys() == {*visible, "LICENSE"}
    assert all(files[name] == there[name].read_bytes() for name in visible)
    for name in visible:
        (tmp_path / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "clone" / name).write_bytes(files[name])
    rows = datasets.load_dataset(str(tmp_path / "clone"), split="train", cache_dir=str(tmp_path / "cache"))
    assert sorted(rows["image_id"]) == sorted(IDS)
    share = np.mean([(LABELS[i] == 1).mean() for i in IDS])
    assert f"| 1 | road | {share:.2%} |" in files["README.md"].decode()


def test_a_network_is_pushed_with_its_card(hub: Hub, trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.safetensors"
    result = export_checkpoint(trained, out, "safetensors", push_to_hub="anna/net")
    assert result.hub == f"{hub.url}/anna/net"
    repo = hub.repos["models", "anna/net"]
    assert repo.private
    assert repo.files.keys() == {"model.safetensors", "README.md"}
    assert repo.files["model.safetensors"] == out.read_bytes()
    assert read_safetensors(repo.files["model.safetensors"])[1]["classes"] == list(CLASSES)
    card = repo.files["README.md"].decode()
    assert yaml.safe_load(card.split("---")[1])["pipeline_tag"] == "image-segmentation"
    for line in (
        "| mIoU | 61.2% |",
        "| mIoU of the zero-shot labels on the same images | 40.0% |",
        "| 1 | cat |  |",
        "| 2 | dog | 32.4% |",
        "| labelled images | 8 |",
        "| unlabelled images | 280 |",
        "| method | segray |",
        "| pseudo.tau | 0.9 |",
    ):
        assert line in card
    assert not [word for word in ("anna", "secret", "pass", TOKEN) if word in card]
    export_checkpoint(trained, out, "safetensors", push_to_hub="anna/net", private="false")
    assert hub.repos["models", "anna/net"].private


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        ("eve/net", {}, r"^push_to_hub: eve/net is not yours \(allowed: anna, lab/NAME\)$"),
        ("anna/public", {}, r"^push_to_hub: anna/public is public; private=false pushes to it all the same$"),
    ],
)
def test_repositories_that_are_refused(
    hub: Hub, trained: Path, tmp_path: Path, name: str, keys: dict[str, str], message: str
) -> None:
    hub.repos["models", "anna/public"] = Repo(private=False)
    with pytest.raises(UserError, match=message):
        export_checkpoint(trained, tmp_path / "x.safetensors", "safetensors", push_to_hub=name, **keys)
    assert not (tmp_path / "x.safetensors").exists()
    assert not [request for request in hub.requests if request.startswith("POST")]


def test_without_token_or_connection_nothing_is_written(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = write_labels(tmp_path)

    def refused(message: str) -> None:
        with pytest.raises(UserError, match=message) as caught:
            export(labels, tmp_path / "out", format="huggingface", push_to_hub="anna/x")
        assert "\n" not in str(caught.value)
        assert TOKEN not in str(caught.value)
        assert not (tmp_path / "out").exists()

    hub.broken = True
    refused("^push_to_hub: asking who you are at http://127.0.0.1:.* failed: ")
    hub.broken = False
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    refused("^push_to_hub: http://127.* refuses the token; set HF_TOKEN, or run `hf auth login`$")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    refused("^push_to_hub: asking who you are at http://127.0.0.1:1 failed: ")
    monkeypatch.delenv("HF_TOKEN")
    refused("^push_to_hub: no token of the Hugging Face hub; set HF_TOKEN, .*; nothing was written$")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused("^push_to_hub: HF_HUB_OFFLINE is set; nothing was written$")
    with pytest.raises(UserError, match=r"^push_to_hub: out=s3://bucket/x is not a folder on this machine$"):
        export(labels, "s3://bucket/x", format="huggingface", push_to_hub="anna/x")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"push_to_hub": "name"}, r"^push_to_hub: 'name' is not valid \(allowed: the form USER/NAME\)"),
        (
            {"push_to_hub": "a/b", "format": "coco"},
            "^push_to_hub: goes with checkpoint= or format=huggingface",
        ),
    ],
)
def test_wrong_keys_are_one_line(keys: dict[str, str], message: str) -> None:
    values = {"labels": "x", "out": "y", "format": "huggingface", **keys}
    with pytest.raises(UserError, match=message):
        load(ExportConfig, None, [f"{name}={value}" for name, value in values.items()])


@pytest.mark.slow
def test_the_user_s_own_environment_is_obeyed(trained: Path, tmp_path: Path) -> None:
    with hub_server() as hub:
        command = [sys.executable, "-m", "segray", "export", f"checkpoint={trained}", "format=safetensors"]
        keys = [f"out={tmp_path / 'x.safetensors'}", "push_to_hub=anna/net"]
        environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0"}
        done = subprocess.run([*command, *keys], env=environment, capture_output=True, text=True, check=True)
        assert f"pushed to   {hub.url}/anna/net" in done.stdout
        assert "README.md" in hub.repos["models", "anna/net"].files

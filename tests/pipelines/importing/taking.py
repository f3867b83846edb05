"""Import from the files of other tools, in tests."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

import segray
from segray.pipelines.commands.import_masks import ImportResult, execute
from segray.pipelines.config.commands.import_masks import ImportConfig
from segray.pipelines.config.loading import load
from segray.pipelines.corrections import CorrectionLog
from segray.pipelines.errors import UserError
from tests.pipelines.exporting.labelled import (
    Label,
    export,
)

FILES = {
    "png": "annotations/train",
    "cvat": "annotations.xml",
    "coco": "annotations/instances_train2017.json",
}
FILES["labelstudio"] = "tasks.json"


def take(labels: Path, source: Path, **keys: object) -> ImportResult:
    values = {"labels": labels, "from": source, **keys}
    return execute(load(ImportConfig, None, [f"{name}={value}" for name, value in values.items()]))


def refused(labels: Path, source: Path, **keys: object) -> str:
    """The message, after which nothing was taken."""
    with pytest.raises(UserError) as caught:
        take(labels, source, **keys)
    assert caught.value.exit_code == 2
    assert len(str(caught.value).splitlines()) == 1
    assert CorrectionLog(labels).read() == []
    return str(caught.value)


def shown(labels: Path) -> dict[str, Label]:
    return {sample.image_id: sample.label for sample in segray.LabelSet(labels)}


def submitted(tasks: Path) -> Path:
    """The tasks as a person submits them: with the predictions as annotations."""
    content = json.loads(tasks.read_text())
    for one in content:
        one["annotations"] = [{"result": one["predictions"][0]["result"]}]
    tasks.write_text(json.dumps(content))
    return tasks


def exported(labels: Path, out: Path, form: str) -> Path:
    export(labels, out, format=form)
    return submitted(out / FILES[form]) if form == "labelstudio" else out / FILES[form]


def zipped(files: Mapping[str, bytes], path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path

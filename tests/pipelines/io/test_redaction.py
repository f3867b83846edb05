"""No secret of a URI is stored or shown; what is stored still tells whether a run may be resumed."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from segray.models.label_space import label_space
from segray.pipelines import cli
from segray.pipelines.commands.report import build
from segray.pipelines.config.commands.annotate import AnnotateConfig
from segray.pipelines.config.loading import config_hash, dump, dump_redacted, identity, load
from segray.pipelines.engine.guard import failed
from segray.pipelines.engine.provenance import differences, provenance
from segray.pipelines.errors import UserError
from segray.pipelines.io.uris import display, redacted
from segray.pipelines.label_set.schema import labels_schema
from tests.pipelines.label_set.small_store import picture_book_store

SECRET = "S3cr3tV4lue"
URIS = [
    f"s3://AKIA:{SECRET}@bucket/photos",
    f"s3://AKIAABCDEFGHIJKLMNOP:{SECRET}/with/slashes@bucket/photos",
    f"https://user:{SECRET}@host/a.pth",
    f"https://{SECRET}@host/a.pth",
    f"https://host/a.pth?X-Amz-Algorithm=AWS4&X-Amz-Credential={SECRET}%2F2026&X-Amz-Signature={SECRET}",
    f"https://host/a.pth?x-amz-security-token={SECRET}&x=1",
    f"https://host/a.pth?AWSAccessKeyId={SECRET}&Signature={SECRET}%3D&Expires=1",
    f"https://host/a.pth?X-Goog-Signature={SECRET}&GoogleAccessId={SECRET}",
    f"https://host/a.pth?sv=2024&se=2026-01-01&sig={SECRET}",
    f"https://host/a.pth?x=1&amp;token={SECRET}",
    f"https://host/a.pth?access_token={SECRET}",
    f"https://host/a.pth?download=1&api_key={SECRET}#x",
    f"https://cdn/a.pth?Policy={SECRET}&Key-Pair-Id={SECRET}",
    f"https://host/proxy?u=https%3A%2F%2Fb%2Fa%3FX-Amz-Signature%3D{SECRET}",
    f"az://box/a?account_key={SECRET}",
]


@pytest.mark.parametrize("uri", URIS)
def test_no_secret_of_a_uri_is_left(uri: str) -> None:
    for text in (redacted(uri), display(uri), redacted(f"GET {uri}: 403; see '{uri}'")):
        assert SECRET not in text
        assert "***" in text
        assert redacted(text) == text


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/photos/a.png?region=eu-west-1&endpoint_override=minio:9000",
        "/data/me@home/what?.png",
        "gs://bucket/a@b/c=d&e=f.png",
        "https://host:8080/a?download=1",
        "hf-hub:owner/repo@main:file.pth",
    ],
)
def test_other_uris_stay_as_they_are(uri: str) -> None:
    assert redacted(uri) == uri


def config(signature: str) -> AnnotateConfig:
    weights = f"sam.weights=https://host/a.pth?X-Amz-Date=2026&X-Amz-Signature={signature}"
    return load(AnnotateConfig, None, ["images=photos", "out=out", "classes=cat,dog", weights])


def record(signature: str) -> dict[str, object]:
    made = config(signature)
    weights = {"weights": made.sam.weights, "sha256": "0" * 64}
    space = label_space(["cat", "dog"], None, {})
    return provenance(made, space, models={"sam": weights, "clip": weights}, templates=["a {}"])


def test_what_is_stored_of_a_run_holds_no_signature(tmp_path: Path) -> None:
    made, stored = config(SECRET), record(SECRET)
    pq.write_table(labels_schema(stored).empty_table(), tmp_path / "part.parquet")
    texts = [dump_redacted(made), json.dumps(identity(made)), json.dumps(stored)]
    assert not [text for text in texts if SECRET in text]
    assert SECRET.encode() not in (tmp_path / "part.parquet").read_bytes()
    assert SECRET in dump(made)


def test_a_renewed_signature_is_no_other_configuration() -> None:
    assert config_hash(config(SECRET)) == config_hash(config("other"))
    assert differences(record(SECRET), record("other"), AnnotateConfig) == []
    old = {
        **record(SECRET),
        "config": {**identity(config(SECRET)), "sam.weights": config(SECRET).sam.weights},
    }
    assert differences(old, record("other"), AnnotateConfig) == []


def test_a_page_shows_no_secret_of_an_older_label_set(tmp_path: Path) -> None:
    out, _ = picture_book_store(tmp_path, 2, 32, embed=True)
    (out / "config.yaml").write_text("".join(f"weights{n}: {uri}\n" for n, uri in enumerate(URIS)))
    (out / "run.json").write_text(json.dumps({"images": URIS[0], "weights": URIS[4]}))
    page = build(str(out))
    assert "X-Amz-Signature=***" in page
    assert SECRET not in page


def test_messages_rows_and_logs_hold_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    for uri in URIS:
        assert SECRET not in str(UserError(f"cannot read {uri}"))
        assert SECRET not in str(failed({"image_id": "a", "status": "ok"}, f"read: {uri}")["error"])
        cli._Lines().emit(logging.LogRecord("segray", 30, "", 0, "asked %s", (uri,), None))
        cli._print_unexpected(RuntimeError(uri), debug=False)
        cli._print_unexpected(RuntimeError(uri), debug=True)
    shown = capsys.readouterr()
    assert SECRET not in shown.err + shown.out
    assert shown.err.count("***") >= 3 * len(URIS)

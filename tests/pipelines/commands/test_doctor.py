from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from segray.models.annotators.sam3 import ARCH, Sam3Labeller
from segray.pipelines.annotation.cost import Cost
from segray.pipelines.commands import doctor
from segray.pipelines.commands.doctor import Finding, findings
from segray.pipelines.config.commands.doctor import DoctorConfig
from segray.pipelines.engine.listening import Listener
from segray.pipelines.errors import UserError
from segray.pipelines.io.storage import list_names
from tests.models.annotators.tiny import SAM3
from tests.pipelines.object_stores import s3_server
from tests.pipelines.ray_heads import Head, head_with_token

ROOT = Path(__file__).parents[3]


def told(config: DoctorConfig) -> dict[str, Finding]:
    return {finding.what: finding for finding in findings(config)}


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_machine_that_is_fine(tmp_path: Path) -> None:
    found = told(DoctorConfig(out=str(tmp_path / "new" / "labels")))
    assert {"python", "segray", "ray", "torch", "GPUs here", "storage", "cluster"} <= set(found)
    assert {"token", "authentication", "interfaces"} <= set(found)
    assert [finding for finding in found.values() if not finding.ok] == []
    assert "2 CPUs, 0 GPUs" in found["cluster"].detail
    assert "GiB free" in found["storage"].detail
    assert "listen on this machine alone" in found["interfaces"].detail
    assert list(tmp_path.iterdir()) == []


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_what_is_wrong_is_named_and_ends_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "use_token", lambda: None)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^1 of \d+ checks failed: storage$") as stop:
        doctor.run(DoctorConfig(out="gopher://x/labels"))
    assert stop.value.exit_code == 2
    lines = capsys.readouterr().out.splitlines()
    (wrong,) = [line for line in lines if not line.startswith("ok ")]
    assert wrong.startswith("WRONG  storage         gopher://x/labels: ")


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_an_object_store_is_written_and_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    for out in s3_server(monkeypatch):
        found = told(DoctorConfig(out=out))
        assert found["storage"] == Finding(True, "storage", f"{out} can be written")
        assert list_names(out) == []


def test_a_package_that_is_too_old_or_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = ["ray>=99", "nowhere>=1", "torch>=1", 'numpy>=99 ; extra == "other"']
    monkeypatch.setattr("importlib.metadata.requires", lambda name: needs)
    found = {finding.what: finding for finding in doctor._packages()}
    assert not found["ray"].ok
    assert found["ray"].detail.endswith("; needed: >=99")
    assert found["nowhere"] == Finding(False, "nowhere", "not installed; needed: >=1")
    assert found["torch"].ok
    assert "numpy" not in found


def test_a_token_that_others_can_read_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / ".ray" / "auth_token"
    assert doctor._token() == Finding(True, "token", f"{file}, created by the first run")
    file.parent.mkdir()
    file.write_text("0" * 64)
    file.chmod(0o644)
    wrong = doctor._token()
    assert (wrong.ok, wrong.what) == (False, "token")
    assert wrong.detail.startswith(f"{file} can be read by other users (mode 0644); chmod 600 {file}")
    file.chmod(0o600)
    assert doctor._token() == Finding(True, "token", f"{file}, private")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    assert doctor._token() == Finding(True, "token", "in RAY_AUTH_TOKEN")


def test_a_port_that_the_network_reaches_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    ports = [Listener("raylet", "127.0.0.1", 7), Listener("gcs_server", "::", 8)]
    monkeypatch.setattr(doctor, "listeners", lambda: ports)
    found = doctor._interfaces()
    assert (found.ok, found.what) == (False, "interfaces")
    assert found.detail.startswith(
        "1 of 2 ports can be reached from the network, such as gcs_server on :: port 8"
    )


def _doctor(head: Head, token: str | None) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "segray.pipelines.cli", "doctor", f"address={head.gcs}"],
        env={**head.environment(token), "PYTHONPATH": str(ROOT)},
        cwd=head.home,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.ray
@pytest.mark.slow
def test_a_cluster_that_asks_for_a_token(head: Head) -> None:
    code, out, err = _doctor(head, None)
    assert code == 0, out + err
    assert f"ok     authentication  {head.dashboard.removeprefix('http://')} refuses requests without" in out
    code, out, err = _doctor(head, "")
    assert code == 2, out + err
    assert "WRONG  cluster         address: no Ray cluster at" in out
    assert "if it requires a token, set RAY_AUTH_MODE=token" in out
    assert err.splitlines()[-1].endswith("checks failed: cluster")


@pytest.mark.ray
@pytest.mark.slow
def test_a_cluster_that_answers_anyone_is_wrong() -> None:
    with head_with_token(asks=False) as head:
        code, out, err = _doctor(head, "")
        assert code == 2, out + err
        assert "WRONG  authentication  " in out
        assert "accepts requests without a token; run `ray get-auth-token --generate`" in out
        assert err.splitlines()[-1].endswith("checks failed: authentication")


def test_costs_of_models_are_measured_without_their_weights() -> None:
    cost, unknown = doctor._costs(["builtin", "vit_x"])
    assert cost.ok
    words = r"builtin, [\d.]+ s \([\d.]+ \+ 256 prompts\) per 500 x 375 image on one (CPU core|GPU), random.*"
    assert re.fullmatch(words, cost.detail)
    assert (unknown.ok, unknown.what) == (False, "cost")
    assert "must be one of builtin, " in unknown.detail
    assert "sam3" in unknown.detail


def test_the_cost_of_a_labeller_is_that_of_the_image_and_of_its_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []
    prompted = Sam3Labeller._prompted

    def counted(self: Sam3Labeller, features: Any, image: Any, name: Any) -> Any:
        found = prompted(self, features, image, name)
        asked.append(len(name))
        assert len(found) == len(name), "each name is decoded in full"
        return found

    monkeypatch.setitem(ARCH, "sam3", SAM3)
    monkeypatch.setattr(Sam3Labeller, "_prompted", counted)
    (cost,) = doctor._costs(["sam3"])
    assert cost.ok
    words = r"sam3, [\d.e-]+ s \([\d.e-]+ \+ 20 names\) per 500 x 375 image on one (CPU core|GPU), random.*"
    assert re.fullmatch(words, cost.detail)
    assert set(asked) >= {1, 4}


def test_a_cost_is_that_of_the_image_and_of_all_its_prompts() -> None:
    cost = Cost(image=2.0, prompt=0.25, prompts=1024, device="GPU")
    assert cost.seconds == 258
    assert str(cost) == "258 s (2 + 1,024 prompts) per 500 x 375 image on one GPU"
    assert str(Cost(3.0, 0.0, 0, "CPU core")) == "3 s per 500 x 375 image on one CPU core"

"""The cluster files that ship: valid for Ray, closed to strangers, without a secret."""

from __future__ import annotations

import copy
import fnmatch
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from segray.pipelines.engine.cluster import ACCELERATOR

ROOT = Path(__file__).parents[2]
RAY_UP = [ROOT / "cluster.yaml", *sorted((ROOT / "configs" / "clusters").glob("*.yaml"))]
KUBERAY = ROOT / "kuberay.yaml"
ALL = [*RAY_UP, KUBERAY, ROOT / "Dockerfile"]


def read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def kuberay(kind: str) -> dict[str, Any]:
    documents = yaml.safe_load_all(KUBERAY.read_text(encoding="utf-8"))
    return next(document for document in documents if document["kind"] == kind)


def pods() -> Iterator[dict[str, Any]]:
    cluster = kuberay("RayJob")["spec"]["rayClusterSpec"]
    yield cluster["headGroupSpec"]
    yield from cluster["workerGroupSpecs"]


def starts(config: dict[str, Any], role: str) -> list[str]:
    return [line for line in config[f"{role}_start_ray_commands"] if "ray start" in line]


def values(tree: Any) -> Iterator[tuple[str, Any]]:
    """(key, value) of every leaf, at any depth."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from values(value) if isinstance(value, dict | list) else [(str(key), value)]
    elif isinstance(tree, list):
        for value in tree:
            yield from values(value) if isinstance(value, dict | list) else [("", value)]


@pytest.mark.parametrize("path", RAY_UP, ids=lambda path: path.name)
def test_ray_accepts_the_file(path: Path) -> None:
    util = pytest.importorskip("ray.autoscaler._private.util")
    config = util.prepare_config(copy.deepcopy(read(path)))
    util.validate_config(config)
    assert config["cluster_name"].startswith("segray")
    broken = {**read(path), "max_worker": 3}
    with pytest.raises(Exception, match="max_worker"):
        util.validate_config(util.prepare_config(broken))


@pytest.mark.parametrize("path", RAY_UP, ids=lambda path: path.name)
def test_head_and_workers_ask_for_a_token(path: Path) -> None:
    config = read(path)
    for role in ("head", "worker"):
        (start,) = starts(config, role)
        assert "RAY_AUTH_MODE=token " in start
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


@pytest.mark.parametrize("path", RAY_UP, ids=lambda path: path.name)
def test_the_dashboard_listens_to_the_head_alone(path: Path) -> None:
    (start,) = starts(read(path), "head")
    assert re.findall(r"--dashboard-host[= ](\S+)", start) == ["127.0.0.1"]


@pytest.mark.parametrize("path", [*RAY_UP, KUBERAY], ids=lambda path: path.name)
def test_no_port_is_open_to_the_world(path: Path) -> None:
    text = "\n".join(line.partition("#")[0] for line in path.read_text(encoding="utf-8").splitlines())
    for open_to_all in (
        "0.0.0.0",
        "::/0",
        "hostNetwork",
        "hostPort",
        "NodePort",
        "LoadBalancer",
        "Ingress\n",
    ):
        assert open_to_all not in text
    assert "kind: Ingress" not in text
    assert "IpPermissions" not in text


def test_ray_makes_no_security_group_of_its_own() -> None:
    config = read(ROOT / "cluster.yaml")
    # Ray's own opens SSH to every address; an id that does not exist makes `ray up` fail instead.
    for node in config["available_node_types"].values():
        assert node["node_config"]["SecurityGroupIds"] == ["sg-REPLACE-ME"]


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_there_is_no_secret_in_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"AKIA[0-9A-Z]{16}|\b[0-9a-f]{32,}\b|-----BEGIN|eyJ[\w-]{20}", text)
    assert "RAY_AUTH_TOKEN=" not in text
    documents = yaml.safe_load_all(text) if path.suffix == ".yaml" else []
    secret = re.compile(r"token$|password|secret|access_?key$", re.IGNORECASE)
    leaves = [(key, value) for key, value in values(list(documents)) if isinstance(value, str)]
    found = {(key, value) for key, value in leaves if secret.search(key)}
    assert found <= {("~/.ray/auth_token", "~/.ray/auth_token")}


def test_gpu_workers_scale_from_nothing_up_to_a_limit() -> None:
    config = read(ROOT / "cluster.yaml")
    head = config["available_node_types"][config["head_node_type"]]
    worker = config["available_node_types"]["gpu_worker"]
    assert head["resources"] == {"CPU": 0, "GPU": 0}
    assert worker["min_workers"] == 0
    assert 0 < worker["max_workers"] <= config["max_workers"] <= 16
    assert 0 < config["idle_timeout_minutes"] <= 30
    assert worker["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"


def launches(labels: dict[str, str], kind: str) -> list[str]:
    """Types of machines that the autoscaler of `ray up` starts for a GPU of a kind."""
    scheduling = pytest.importorskip("ray.autoscaler.v2.scheduler")
    utils = pytest.importorskip("ray.autoscaler.v2.utils")
    configs = pytest.importorskip("ray.autoscaler.v2.instance_manager.config")
    common = pytest.importorskip("ray.core.generated.common_pb2")
    inside = common.LabelSelectorOperator.LABEL_OPERATOR_IN
    wanted = utils.ResourceRequestUtil.make({"GPU": 1}, label_selectors=[[(ACCELERATOR, inside, [kind])]])
    worker = configs.NodeTypeConfig("gpu_worker", 0, 8, resources={"CPU": 8, "GPU": 1}, labels=labels)
    request = scheduling.SchedulingRequest(
        node_type_configs={worker.name: worker},
        max_num_nodes=8,
        resource_requests=utils.ResourceRequestUtil.group_by_count([wanted]),
        disable_launch_config_check=True,
    )
    reply = scheduling.ResourceDemandScheduler().schedule(request)
    return [launch.instance_type for launch in reply.to_launch]


def test_pools_pinned_to_the_gpu_of_the_file_are_given_its_machines() -> None:
    worker = read(ROOT / "cluster.yaml")["available_node_types"]["gpu_worker"]
    nvidia = pytest.importorskip("ray._private.accelerators.nvidia_gpu").NvidiaGPUAcceleratorManager
    assert worker["node_config"]["InstanceType"].startswith("g5.")
    kind = nvidia._gpu_name_to_accelerator_type("NVIDIA A10G")
    assert worker["labels"] == {ACCELERATOR: kind}
    assert launches(worker["labels"], kind) == ["gpu_worker"]
    assert launches({}, kind) == launches(worker["labels"], "T4") == []


def test_pods_have_a_token_and_are_not_started_again() -> None:
    spec = kuberay("RayJob")["spec"]
    cluster = spec["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["enableInTreeAutoscaling"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert spec["shutdownAfterJobFinishes"]
    assert spec["activeDeadlineSeconds"] > 0
    assert [group["minReplicas"] for group in cluster["workerGroupSpecs"]] == [0]
    assert all(group["maxReplicas"] <= 16 for group in cluster["workerGroupSpecs"])
    assert {pod["template"]["spec"]["restartPolicy"] for pod in pods()} == {"Never"}


def test_only_the_run_and_the_operator_reach_the_pods() -> None:
    policy = kuberay("NetworkPolicy")["spec"]
    label = policy["podSelector"]["matchLabels"]
    assert all(label.items() <= pod["template"]["metadata"]["labels"].items() for pod in pods())
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    own, operator = policy["ingress"]
    assert own == {"from": [{"podSelector": {"matchLabels": label}}]}
    assert operator["ports"] == [{"protocol": "TCP", "port": 8265}]
    (visitor,) = operator["from"]
    assert visitor["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "kuberay-operator"}
    assert visitor["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "kuberay-operator"}


def test_the_pods_reach_each_other_names_https_and_kubernetes_and_nothing_else() -> None:
    policy = kuberay("NetworkPolicy")["spec"]
    among, outside = policy["egress"]
    assert among == {"to": [{"podSelector": policy["podSelector"]}]}
    # Not port 80, where clouds give the machine's keys to whoever asks from it.
    assert {(rule["protocol"], rule["port"]) for rule in outside["ports"]} == {
        ("UDP", 53),
        ("TCP", 53),
        ("TCP", 443),
        ("TCP", 6443),
    }


def test_everything_is_in_one_namespace_that_refuses_privileged_pods() -> None:
    documents = list(yaml.safe_load_all(KUBERAY.read_text(encoding="utf-8")))
    (namespace,) = [document for document in documents if document["kind"] == "Namespace"]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "baseline"
    others = [document for document in documents if document is not namespace]
    assert len(others) == 2
    assert {document["metadata"]["namespace"] for document in others} == {namespace["metadata"]["name"]}


def test_the_pods_have_no_rights_that_they_do_not_need() -> None:
    cluster = kuberay("RayJob")["spec"]["rayClusterSpec"]
    specs = [pod["template"]["spec"] for pod in pods()]
    assert len(specs) == 2
    for spec in specs:
        context = spec["securityContext"]
        assert context["runAsNonRoot"]
        assert context["runAsUser"] > 0
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    containers = [container["securityContext"] for spec in specs for container in spec["containers"]]
    for context in [*containers, cluster["autoscalerOptions"]["securityContext"]]:
        assert context == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    workers = [group["template"]["spec"] for group in cluster["workerGroupSpecs"]]
    assert [spec["automountServiceAccountToken"] for spec in workers] == [False]


PRIVATE = [
    *(".env", ".env.local", ".netrc", "server.pem", "server.key", "id_rsa", "id_ed25519.pub"),
    *("credentials.json", "gcs-credentials.json", ".git", ".aws"),
]


def is_left_out(name: str, patterns: list[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern.rstrip("/")) for pattern in patterns)


@pytest.mark.parametrize("path", RAY_UP, ids=lambda path: path.name)
def test_only_the_package_and_the_token_are_copied(path: Path) -> None:
    config = read(path)
    mounts = {remote: local for remote, local in config["file_mounts"].items() if "auth_token" not in remote}
    packages = {"segray", *(link.name for link in (ROOT / "segray").iterdir() if link.is_symlink())}
    assert set(mounts.values()) == packages | {"pyproject.toml", "README.md", "LICENSE"}
    assert all(remote == f"~/segray/{local}" for remote, local in mounts.items())
    assert [name for name in PRIVATE if not is_left_out(name, config["rsync_exclude"])] == []
    sent = [file for name in packages for file in (ROOT / name).rglob("*") if "__pycache__" not in file.parts]
    assert len(sent) > 100
    assert [file.name for file in sent if is_left_out(file.name, config["rsync_exclude"])] == []


@pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is not installed")
@pytest.mark.parametrize("path", RAY_UP, ids=lambda path: path.name)
def test_rsync_leaves_private_files_here(path: Path, tmp_path: Path) -> None:
    source = tmp_path / "source" / "deep"
    source.mkdir(parents=True)
    for name in ["module.py", *PRIVATE]:
        (source / name).write_text("")
    excludes = [word for pattern in read(path)["rsync_exclude"] for word in ("--exclude", pattern)]
    command = ["rsync", "-a", *excludes, f"{source.parent}/", f"{tmp_path / 'there'}/"]
    subprocess.run(command, check=True)
    assert [file.name for file in (tmp_path / "there" / "deep").iterdir()] == ["module.py"]


def test_a_base_image_without_digest_is_refused() -> None:
    from tools.pinned_image import unpinned

    digest = "sha256:" + "0123456789abcdef" * 4
    pinned = [f"rayproject/ray:2.60.0-py311-gpu@{digest}", f"registry:5000/ray@{digest}"]
    loose = ["", "rayproject/ray:2.60.0-py311-gpu", f"ray@{digest[:-1]}", f"@{digest}", f"ray@{digest} x"]
    assert unpinned(pinned) == []
    assert unpinned(loose) == loose
    (argument,) = re.findall(r"^ARG (\w+)=", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    workflow = read(ROOT / ".github" / "workflows" / "image.yml")
    steps = [step["run"] for step in workflow["jobs"]["image"]["steps"] if "run" in step]
    assert steps[0] == f'python3 tools/pinned_image.py "${argument}"'
    assert f'--build-arg {argument}="${argument}"' in steps[1]


def test_the_entrypoint_is_a_command_that_segray_takes() -> None:
    from segray.pipelines.commands.submit import check_command

    program, *words = kuberay("RayJob")["spec"]["entrypoint"].split()
    assert program == "segray"
    assert check_command(words)[0] == "annotate"


def test_all_files_name_one_version_of_ray_and_it_is_one_that_segray_takes() -> None:
    from packaging.requirements import Requirement

    texts = "\n".join(path.read_text(encoding="utf-8") for path in ALL)
    versions = set(re.findall(r"rayproject/ray:([\d.]+)-|rayVersion: \"([\d.]+)\"", texts))
    named = {one or other for one, other in versions}
    assert len(named) == 1
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (ray,) = [need for need in map(Requirement, project["dependencies"]) if need.name == "ray"]
    assert ray.specifier.contains(named.pop())


def test_the_image_has_what_pip_installs_and_asks_for_a_token() -> None:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    assert "ENV RAY_AUTH_MODE=token" in lines
    assert not [line for line in lines if line.startswith("EXPOSE")]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = set(re.search(r"segray\[([\w,]+)\]", "\n".join(lines))[1].split(","))  # type: ignore[index]
    assert extras <= set(project["project"]["optional-dependencies"])
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    kept = {line[1:] for line in ignored if line.startswith("!")}
    assert ignored[1] == "*"
    left_out = [line.removeprefix("**/") for line in ignored if line.startswith("**/")]
    assert [name for name in PRIVATE if not is_left_out(name, left_out)] == []
    # The package's parts are links, whose targets have to be there too.
    packages = {"segray", *(link.name for link in (ROOT / "segray").iterdir() if link.is_symlink())}
    assert packages | {"pyproject.toml", project["project"]["readme"], "LICENSE"} == kept

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from segray.pipelines.engine.shared_storage import fixed_part, sees, token_file
from segray.pipelines.errors import UserError
from tests.processes import started


def test_the_token_file_lies_in_the_folder_that_exists_and_is_gone_afterwards(tmp_path: Path) -> None:
    with token_file(str(tmp_path / "not" / "yet")) as (path, token):
        assert Path(path).parent == tmp_path
        assert sees(path, token)
        assert sees(path, "")
        assert not sees(path, "another")
    assert list(tmp_path.iterdir()) == []
    assert not sees(path, token)


def test_a_folder_that_cannot_be_written_is_told() -> None:
    with pytest.raises(UserError, match="cannot write /proc"), token_file("/proc/labels"):
        pass


def test_the_part_of_a_glob_that_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "a[1]").mkdir()
    assert fixed_part(f"{tmp_path}/x/**/*.jpg") == tmp_path / "x"
    assert fixed_part(f"{tmp_path}/a[1]") == tmp_path / "a[1]"


@pytest.mark.ray
@pytest.mark.slow
def test_a_folder_that_another_node_does_not_see_is_refused(tmp_path: Path) -> None:
    """The other node has a mount of its own over the folder, as a machine with its own disk has."""
    tried = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False)
    if tried.returncode:
        pytest.skip("this machine makes no mount namespaces")
    alone = tmp_path / "alone"
    alone.mkdir()
    with started([str(tmp_path)], tmp_path / "log", module="tests.pipelines.io.two_machines") as process:
        ended = process.wait()
    assert ended.code == 0, ended.err
    said = dict(
        line.split(" ", 1) for line in ended.out.splitlines() if line.startswith(("both", "out", "in"))
    )
    assert said["both"] == "fine"
    assert re.match(
        rf"{alone}/labels: a local path, which 1 of 2 nodes of the cluster do not see", said["out"]
    )
    assert said["in"].startswith(f"{alone}/images: a local path")
    assert "allowed: s3://..., gs://..., or a folder that all of them mount" in said["out"]

"""Installed from its wheel, segray works in a project with packages named like those of its repository."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from tests.package.installed import Installed, build_wheel, install, user_folder
from tests.pipelines.ray_heads import Head

BUILTIN = ("classes=picture_book", "sam.model=builtin", "clip.model=builtin", "sam.points_per_side=4")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return install(wheel, tmp_path_factory.mktemp("environment"))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return user_folder(tmp_path / "project")


def test_the_wheel_holds_one_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
    top = {name.partition("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"segray"}
    assert "segray/py.typed" in names
    for pattern in ("segray/pipelines/templates/*.html", "segray/models/builtin/*.safetensors"):
        assert [name for name in names if Path(name).match(pattern)]


def test_the_installed_package_is_the_wheel_s(installed: Installed, project: Path) -> None:
    shown = installed.run(project, "python", "-c", "import segray; print(segray.__file__)")
    assert Path(shown.strip()).is_relative_to(installed.bin.parent)


def test_two_images_are_annotated_in_a_project_with_packages_of_the_same_names(
    installed: Installed, project: Path
) -> None:
    installed.run(project, "segray", "picture-book", "out=scenes", "n=2", "size=64")
    shown = installed.run(project, "segray", "annotate", "images=scenes/images", "out=labels", *BUILTIN)
    assert "images      2: 2 ok" in shown


@pytest.mark.ray
@pytest.mark.slow
def test_workers_annotate_train_and_predict_in_such_a_project(installed: Installed, project: Path) -> None:
    # More images than stay in the command's own process.
    installed.run(project, "segray", "picture-book", "out=scenes", "n=20", "size=64")
    shown = installed.run(project, "segray", "annotate", "images=scenes/images", "out=labels", *BUILTIN)
    assert "images      20: 20 ok" in shown
    data = ("data.kind=picture_book", "data.root=scenes", "data.labels=labels", "data.labelled=4")
    options = ("network.name=builtin", "augment.crop=64", "train.epochs=1", "trackers=[]")
    assert "mIoU" in installed.run(project, "segray", "train", "out=run", *data, *options)
    shown = installed.run(
        project, "segray", "predict", "checkpoint=run", "images=scenes/images", "out=predictions"
    )
    assert "images      20: 20 ok" in shown


@pytest.mark.ray
@pytest.mark.slow
def test_a_job_from_such_a_project_runs(installed: Installed, project: Path, head: Head) -> None:
    environment = head.environment()
    installed.run(project, "segray", "picture-book", "out=scenes", "n=2", "size=64")
    shown = installed.run(
        project,
        *("segray", "submit", f"address={head.dashboard}"),
        *("annotate", "images=scenes/images", "out=labels", *BUILTIN),
        environment=environment,
    )
    assert "images      2: 2 ok" in shown

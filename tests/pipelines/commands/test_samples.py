from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from segray.pipelines.commands.samples import SAMPLES, readme, run
from segray.pipelines.config.commands.samples import SamplesConfig
from segray.pipelines.errors import UserError
from segray.pipelines.io.images import ImageOptions, decode
from segray.pipelines.io.sources import list_images, read_image

needs_skimage = pytest.mark.skipif(importlib.util.find_spec("skimage") is None, reason="needs scikit-image")


@needs_skimage
def test_photographs_are_copied_and_usable_as_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(SamplesConfig(out=str(tmp_path / "photos")))
    refs = list(list_images(str(tmp_path / "photos")))
    assert [ref.image_id for ref in refs] == sorted(sample.name for sample in SAMPLES)
    for ref in refs:
        image = decode(read_image(ref.uri), ImageOptions())
        assert min(image.shape[:2]) >= 300
        assert image.std() > 20
    assert capsys.readouterr().out.startswith(f"{len(SAMPLES)} photographs in {tmp_path}")


@needs_skimage
def test_a_second_run_writes_the_same(tmp_path: Path) -> None:
    config = SamplesConfig(out=str(tmp_path))
    run(config)
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / "coffee.png").unlink()
    (tmp_path / ".cat.png.12ab.tmp").write_bytes(b"half a cat")
    run(config)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("[!.]*")} == first


def test_the_readme_names_origin_and_licence_of_each() -> None:
    lines = readme(list(SAMPLES)).splitlines()
    for sample in SAMPLES:
        (line,) = (line for line in lines if line.startswith(f"| {sample.name} |"))
        assert sample.origin in line
        assert line.endswith(f"| {sample.licence} |")
        assert sample.licence


@needs_skimage
@pytest.mark.parametrize("name", ["holiday.jpg", "README.md"])
def test_other_peoples_files_are_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=rf"holds other files \({name}\); name a new or empty folder"):
        run(SamplesConfig(out=str(tmp_path)))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


@needs_skimage
def test_out_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(UserError, match=r"^samples: out=.*taken: File exists$"):
        run(SamplesConfig(out=str(tmp_path / "taken")))


@needs_skimage
def test_out_that_is_no_local_folder() -> None:
    with pytest.raises(UserError, match=r"^samples: out=s3://bucket/x is not a local folder$"):
        run(SamplesConfig(out="s3://bucket/x"))


def test_without_scikit_image_the_message_has_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [path for path in sys.path if not (Path(path) / "skimage").exists()]
    monkeypatch.setattr(sys, "path", folders)
    for module in [name for name in sys.modules if name.split(".")[0] == "skimage"]:
        monkeypatch.delitem(sys.modules, module)
    importlib.invalidate_caches()
    with pytest.raises(UserError) as caught:
        run(SamplesConfig(out=str(tmp_path / "photos")))
    assert str(caught.value).endswith("install it: pip install 'segray[samples]'")
    assert caught.value.exit_code == 2
    assert not (tmp_path / "photos").exists()
